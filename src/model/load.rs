//! Loading a base: every tensor that the configuration calls for, by name and shape, or one error that
//! names all that are missing and all that nothing uses.

use std::sync::{Arc, Mutex};

use super::{
    Model,
    attention::{LayerPositions, ProjectedPositions, RelativePositions},
    block::Block,
    embedding::{Embedding, EmbeddingParts},
    linear::{Linear, Weight},
    reader::{Reader, find},
    sites::{LinearPlan, Role, Sites, at_layer, linear_plans},
};
use crate::{
    error::{Error, Result},
    kernel::{
        bucketed::DistanceBias,
        panel::{PanelShape, Precision},
        relative::{self, Distances},
        rotary::Rotary,
    },
    mat::Matrix,
    spec::{EncoderSpec, Position, Positions, SentenceSpec},
    weights::{PackOptions, Packed, Source, Tensors},
};

/// How a base is loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions<'a> {
    /// Precision of the base's linears; `None` is f32.
    pub precision: Option<Precision>,
    /// Where and how they are packed.
    pub pack: PackOptions<'a>,
}

impl Model {
    /// Loads the base that `source` holds.
    ///
    /// # Errors
    /// A file that is missing, damaged or larger than sane; a configuration key that is not supported, by name;
    /// tensors that are missing, of the wrong shape, or inside the encoder and used by nothing, all of them by name.
    pub fn load(source: Source, options: &LoadOptions<'_>) -> Result<Model> {
        let path = source.path("config.json");
        let config = source.read("config.json")?.ok_or_else(|| {
            let holds = "a model directory holds config.json, tokenizer.json and model.safetensors";
            Error::format(&path, format!("not found; {holds}"))
        })?;
        let spec = EncoderSpec::parse(&config, &path)?;
        let sentence = SentenceSpec::read(&source)?;
        let tensors = Arc::new(match options.pack.no_mmap {
            true => Tensors::open_in_memory(&source)?,
            false => Tensors::open(&source)?,
        });
        let plans = linear_plans(&spec);

        // Everything is asked for before anything is complained of.
        let reader = Reader::new(&tensors, &spec);
        let embedding = embedding(&reader, &spec, &plans);
        let positions = PositionRows::read(&reader, &spec);
        let blocks: Vec<_> = (0..spec.layers.len())
            .map(|l| block(&reader, &spec, &plans, l))
            .collect();
        let final_norm = spec
            .final_norm
            .then(|| reader.norm(spec.names.final_norm, spec.hidden));
        for plan in &plans {
            for (module, &n) in plan.modules.iter().zip(&plan.outputs) {
                reader.expect(&format!("{module}.weight"), &[n, plan.inputs]);
            }
        }
        let prefix = reader.prefix();
        reader.finish()?;

        let precision = options.precision.unwrap_or(Precision::F32);
        let shape = |p: &LinearPlan| PanelShape {
            n: p.outputs.iter().sum(),
            k: p.inputs,
            precision,
            tight: false,
        };
        let slots: Vec<_> = plans
            .iter()
            .map(|p| (p.modules.join("|"), shape(p)))
            .collect();
        let fill = |slot: usize| {
            if slot == 0 {
                // Everything is read once when a base is packed: also what is looked up in place later.
                check_tables(&tensors, &spec, prefix)?;
            }
            fused_rows(&tensors, &spec, prefix, &plans[slot])
        };
        let packed = Packed::open_or_build(&tensors, &slots, &fill, &options.pack)?;

        let positions = PositionTables::new(positions?, &spec);
        let mut blocks = blocks.into_iter().collect::<Result<Vec<Block>>>()?;
        for block in &mut blocks {
            block.positions = positions.of(block, &packed, spec.heads);
        }
        Ok(Model {
            sites: Sites::new(&spec),
            embedding: Embedding::new(&spec, embedding?),
            blocks,
            final_norm: final_norm.transpose()?,
            workspaces: Mutex::default(),
            prefix,
            packed,
            tensors,
            source,
            sentence,
            spec,
        })
    }
}

/// The rows of a fused linear, module after module.
fn fused_rows(
    tensors: &Tensors,
    spec: &EncoderSpec,
    prefix: &str,
    plan: &LinearPlan,
) -> Result<Matrix> {
    let n = plan.outputs.iter().sum();
    let mut data = Vec::with_capacity(n * plan.inputs);
    for module in &plan.modules {
        let name = find(tensors, spec, &format!("{prefix}{module}.weight"))
            .expect("the reader found every weight before packing");
        let tensor = tensors
            .get(&name)
            .expect("`find` returns names that are there");
        data.extend(tensor.values(tensor.shape)?);
    }
    Ok(Matrix::from_vec(data, n, plan.inputs))
}

/// Refuses an embedding table with a value that is not finite.
fn check_tables(tensors: &Tensors, spec: &EncoderSpec, prefix: &str) -> Result<()> {
    for name in [spec.names.word, spec.names.position, spec.names.types] {
        let found = find(tensors, spec, &format!("{prefix}{name}.weight"));
        if let Some(tensor) = found.and_then(|name| tensors.get(&name)) {
            tensor.check_finite(&tensor.to_f32()?)?;
        }
    }
    Ok(())
}

/// The slot of a linear, and the linear with its biases.
fn linear(
    reader: &Reader<'_>,
    plans: &[LinearPlan],
    layer: Option<usize>,
    role: Role,
    bias: bool,
) -> Result<Option<Linear>> {
    let Some(slot) = plans
        .iter()
        .position(|p| p.layer == layer && p.role == role)
    else {
        return Ok(None);
    };
    let plan = &plans[slot];
    let parts = plan.modules.iter().zip(&plan.outputs);
    let parts = parts.map(|(module, &n)| reader.vector(&format!("{module}.bias"), n));
    let bias = match bias {
        true => Some(parts.collect::<Result<Vec<_>>>()?.concat()),
        false => None,
    };
    Ok(Some(Linear {
        weight: Weight::Base(slot),
        bias,
        slot: Some(slot),
    }))
}

fn embedding(
    reader: &Reader<'_>,
    spec: &EncoderSpec,
    plans: &[LinearPlan],
) -> Result<EmbeddingParts> {
    let (names, width) = (&spec.names, spec.embed.width);
    let word = reader.table(names.word, spec.vocab, width)?;
    let position = match spec.embed.positions {
        Positions::None => None,
        Positions::FromZero { rows } | Positions::FromPad { rows } => {
            reader.table(names.position, rows, width)?
        }
    };
    let types = match spec.embed.types {
        0 => None,
        rows => reader.table(names.types, rows, width)?,
    };
    let norm = spec
        .embed
        .norm
        .then(|| reader.norm(names.embed_norm, width))
        .transpose()?;
    let project = linear(reader, plans, None, Role::Embedding, true)?;
    // A missing word table is reported with everything else that is missing.
    let word = word.ok_or_else(|| reader.missing_error())?;
    Ok(EmbeddingParts {
        word,
        position,
        types,
        norm,
        project,
    })
}

fn block(
    reader: &Reader<'_>,
    spec: &EncoderSpec,
    plans: &[LinearPlan],
    layer: usize,
) -> Result<Block> {
    let facts = &spec.layers[layer];
    let at = facts.weights_of;
    let linear = |role| {
        let bias = if role == Role::MlpIn {
            facts.mlp_in_bias
        } else {
            facts.bias
        };
        linear(reader, plans, Some(at), role, bias)
    };
    let always = |role| Ok::<_, Error>(linear(role)?.expect("every layer has this linear"));
    let norm = |name: &str| reader.norm(&at_layer(name, at), spec.hidden);
    Ok(Block {
        spec: facts.clone(),
        qkv: always(Role::Qkv)?,
        attn_out: always(Role::AttnOut)?,
        mlp_in: always(Role::MlpIn)?,
        mlp_out: always(Role::MlpOut)?,
        own_positions: linear(Role::Positions)?,
        attn_norm: facts
            .attn_norm
            .then(|| norm(spec.names.attn_norm))
            .transpose()?,
        mlp_norm: norm(spec.names.mlp_norm)?,
        positions: LayerPositions::None, // filled in when the linears are packed
    })
}

/// What the checkpoint holds of positions, for all layers; empty where it was not there to read.
#[derive(Default)]
struct PositionRows {
    bucketed: Option<Matrix>,
    relative: Option<Matrix>,
}

impl PositionRows {
    fn read(reader: &Reader<'_>, spec: &EncoderSpec) -> Result<Self> {
        let mut rows = Self::default();
        let name = format!("{}.weight", spec.names.relative);
        for layer in &spec.layers {
            match layer.position {
                Position::Bucketed { buckets, .. } if rows.bucketed.is_none() => {
                    rows.bucketed = reader.matrix(&name, buckets, spec.heads)?;
                }
                Position::Relative(facts) if rows.relative.is_none() => {
                    let span = relative::span(facts.buckets, facts.max_distance);
                    let norm = match facts.norm {
                        true => Some(reader.norm(spec.names.relative_norm, spec.hidden)?),
                        false => None,
                    };
                    rows.relative = reader.matrix(&name, 2 * span, spec.hidden)?;
                    if let (Some(table), Some(norm)) = (&mut rows.relative, norm)
                        && norm.is_complete()
                    {
                        norm.forward(table.view_mut());
                    }
                }
                _ => {}
            }
        }
        Ok(rows)
    }
}

/// Tables that all layers' positions share. Made only when the shapes of all tensors were found to be those that the
/// configuration says: until then its sizes are claims, and a table of them may be larger than any memory.
struct PositionTables {
    bucketed: Option<Arc<DistanceBias>>,
    relative: Option<(Arc<Distances>, Arc<Matrix>)>,
    rotary: Vec<(Position, Arc<Rotary>)>,
}

impl PositionTables {
    fn new(rows: PositionRows, spec: &EncoderSpec) -> Self {
        let mut tables = Self {
            bucketed: None,
            relative: None,
            rotary: Vec::new(),
        };
        let (mut bucketed, mut relative) = (rows.bucketed, rows.relative);
        for layer in &spec.layers {
            match layer.position {
                Position::Absolute => {}
                Position::Rotary { theta, stretch } => {
                    if !tables.rotary.iter().any(|(of, _)| *of == layer.position) {
                        let width = spec.hidden / spec.heads;
                        let rotary = Rotary::new(width, theta, stretch, spec.max_tokens);
                        tables.rotary.push((layer.position, Arc::new(rotary)));
                    }
                }
                Position::Bucketed { max_distance, .. } => {
                    if let Some(table) = bucketed.take() {
                        let bias = DistanceBias::new(table.view(), max_distance, spec.max_tokens);
                        tables.bucketed = Some(Arc::new(bias));
                    }
                }
                Position::Relative(facts) => {
                    if let Some(table) = relative.take() {
                        let (buckets, far) = (facts.buckets, facts.max_distance);
                        let distances = Distances::new(buckets, far, spec.max_tokens);
                        tables.relative = Some((Arc::new(distances), Arc::new(table)));
                    }
                }
            }
        }
        tables
    }

    /// The positions of `block`, with the base's projections of relative ones.
    fn of(&self, block: &Block, packed: &Packed, heads: usize) -> LayerPositions {
        let read = "the reader found every table before packing";
        match block.spec.position {
            Position::Absolute => LayerPositions::None,
            Position::Rotary { .. } => {
                let same = |(of, _): &&(Position, _)| *of == block.spec.position;
                let found = self.rotary.iter().find(same);
                LayerPositions::Rotary(found.expect(read).1.clone())
            }
            Position::Bucketed { .. } => {
                LayerPositions::Bucketed(self.bucketed.clone().expect(read))
            }
            Position::Relative(facts) => {
                let (distances, table) = self.relative.clone().expect(read);
                let (c2p, p2c) = (facts.c2p, facts.p2c);
                let base = Arc::new(ProjectedPositions::default());
                let mut relative = RelativePositions {
                    distances,
                    table,
                    c2p,
                    p2c,
                    base,
                };
                relative.base = Arc::new(relative.project(block, packed, heads, None));
                LayerPositions::Relative(relative)
            }
        }
    }
}
