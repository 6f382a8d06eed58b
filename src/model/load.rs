//! Loading a base: every tensor that the configuration calls for, by name and shape, or one error that
//! names all that are missing and all that nothing uses.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use super::{
    Model,
    attention::LayerPositions,
    block::Block,
    embedding::{Embedding, EmbeddingParts},
    linear::{Linear, Weight},
    norm::Norm,
    sites::{LINEARS, LinearPlan, Sites, at_layer, linear_plans},
};
use crate::{
    error::{Error, Result},
    kernel::panel::{PanelShape, Precision},
    mat::Matrix,
    spec::{EncoderSpec, Positions, SentenceSpec},
    weights::{PackOptions, Packed, Source, Table, Tensors},
};

/// How a base is loaded.
#[derive(Debug, Clone, Default)]
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
        let config_path = source.path("config.json");
        let config = source.read("config.json")?.ok_or_else(|| {
            Error::format(&config_path, "not found; a model directory holds config.json, tokenizer.json and model.safetensors")
        })?;
        let spec = EncoderSpec::parse(&config, &config_path)?;
        let sentence = SentenceSpec::read(&source)?;
        let tensors = Arc::new(Tensors::open(&source)?);
        let reader = Reader::new(&tensors, &spec);

        let plans = linear_plans(&spec);
        let embedding = reader.embedding(&spec);
        let blocks = (0..spec.layers.len()).map(|l| reader.block(&spec, &plans, l)).collect::<Vec<_>>();
        let final_norm = spec.final_norm.then(|| reader.norm(&spec, spec.names.final_norm, spec.hidden));
        for plan in &plans {
            for (module, &n) in plan.modules.iter().zip(&plan.outputs) {
                reader.expect(&format!("{module}.weight"), &[n, plan.inputs]);
            }
        }
        let prefix = reader.prefix;
        reader.finish()?;

        let precision = options.precision.unwrap_or(Precision::F32);
        let slots: Vec<(String, PanelShape)> = plans
            .iter()
            .map(|p| {
                let n = p.outputs.iter().sum();
                (p.modules.join("|"), PanelShape { n, k: p.inputs, precision, tight: false })
            })
            .collect();
        let fill = |slot: usize| fused_rows(&tensors, &spec, prefix, &plans[slot]);
        let packed = Packed::open_or_build(&tensors, &slots, &fill, &options.pack)?;

        let norm = final_norm.transpose()?;
        Ok(Model {
            sites: Sites::new(&spec),
            embedding: Embedding::new(&spec, embedding?),
            blocks: blocks.into_iter().collect::<Result<_>>()?,
            final_norm: norm,
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
    let mut data = Vec::with_capacity(plan.outputs.iter().sum::<usize>() * plan.inputs);
    for module in &plan.modules {
        let name = find(tensors, spec, &format!("{prefix}{module}.weight"))
            .expect("the reader found every weight before packing");
        let tensor = tensors.get(&name).expect("`find` returns names that are there");
        let rows = tensor.to_f32()?;
        tensor.check_finite(&rows)?;
        data.extend(rows);
    }
    Ok(Matrix::from_vec(data, plan.outputs.iter().sum(), plan.inputs))
}

/// The checkpoint's own spelling of `name`, if it holds that tensor.
pub(super) fn find(tensors: &Tensors, spec: &EncoderSpec, name: &str) -> Option<String> {
    if tensors.get(name).is_some() {
        return Some(name.to_owned());
    }
    let aliases = spec.names.aliases.iter();
    aliases.filter_map(|(found, meant)| {
        let end = name.strip_suffix(meant)?;
        let alias = format!("{end}{found}");
        tensors.get(&alias).is_some().then_some(alias)
    }).next()
}

/// Reads tensors and remembers what was missing and what was used.
struct Reader<'a> {
    tensors: &'a Tensors,
    spec: &'a EncoderSpec,
    prefix: &'static str,
    missing: RefCell<Vec<String>>,
    used: RefCell<BTreeSet<String>>,
    wrong: RefCell<Option<Error>>,
}

impl<'a> Reader<'a> {
    fn new(tensors: &'a Tensors, spec: &'a EncoderSpec) -> Self {
        let has = |prefix: &&&str| tensors.get(&format!("{prefix}{}.weight", spec.names.word)).is_some();
        let prefix = spec.names.prefixes.iter().find(has).copied().unwrap_or("");
        Self {
            tensors,
            spec,
            prefix,
            missing: RefCell::default(),
            used: RefCell::default(),
            wrong: RefCell::default(),
        }
    }

    /// Notes that `name` is needed with `shape`; the checkpoint's spelling of it where it is there and right.
    fn expect(&self, name: &str, shape: &[usize]) -> Option<String> {
        let full = format!("{}{name}", self.prefix);
        let Some(found) = find(self.tensors, self.spec, &full) else {
            self.missing.borrow_mut().push(full);
            return None;
        };
        let tensor = self.tensors.get(&found)?;
        if tensor.shape != shape {
            self.wrong.borrow_mut().get_or_insert_with(|| Error::Shape {
                path: self.tensors.path().to_owned(),
                name: found.clone(),
                expected: format!("{shape:?} as the configuration says"),
                found: tensor.shape.to_vec(),
            });
        }
        self.used.borrow_mut().insert(found.clone());
        Some(found)
    }

    fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        match self.expect(name, &[n]).and_then(|found| self.tensors.get(&found)) {
            Some(tensor) => tensor.values(tensor.shape),
            None => Ok(Vec::new()), // `finish` reports it
        }
    }

    fn table(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Table>> {
        match self.expect(&format!("{name}.weight"), &[rows, cols]) {
            Some(found) if self.wrong.borrow().is_none() => {
                self.tensors.get(&found).map(|tensor| tensor.table()).transpose()
            }
            _ => Ok(None),
        }
    }

    fn norm(&self, spec: &EncoderSpec, name: &str, n: usize) -> Result<Norm> {
        Ok(Norm {
            gamma: self.vector(&format!("{name}.weight"), n)?.into(),
            beta: match spec.embed.norm_bias {
                true => Some(self.vector(&format!("{name}.bias"), n)?.into()),
                false => None,
            },
            eps: spec.norm_eps,
        })
    }

    fn bias(&self, plan: &LinearPlan) -> Result<Vec<f32>> {
        let parts = plan.modules.iter().zip(&plan.outputs);
        let parts = parts.map(|(module, &n)| self.vector(&format!("{module}.bias"), n));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    }

    fn embedding(&self, spec: &EncoderSpec) -> Result<EmbeddingParts> {
        let (names, width) = (&spec.names, spec.embed.width);
        let word = self.table(names.word, spec.vocab, width)?;
        let position = match spec.embed.positions {
            Positions::None => None,
            Positions::FromZero { rows } | Positions::FromPad { rows } => {
                self.table(names.position, rows, width)?
            }
        };
        let types = match spec.embed.types {
            0 => None,
            rows => self.table(names.types, rows, width)?,
        };
        let norm = spec.embed.norm.then(|| self.norm(spec, names.embed_norm, width)).transpose()?;
        Ok(EmbeddingParts {
            word: word.ok_or_else(|| self.missing_error())?,
            position,
            types,
            norm,
            project: None,
        })
    }

    fn block(&self, spec: &EncoderSpec, plans: &[LinearPlan], layer: usize) -> Result<Block> {
        let facts = &spec.layers[layer];
        let at = facts.weights_of;
        let linear = |place: usize| -> Result<Linear> {
            let plan = &plans[at * LINEARS + place];
            let bias = facts.bias.then(|| self.bias(plan)).transpose()?;
            Ok(Linear { weight: Weight::Base(plan.slot), bias, slot: Some(plan.slot) })
        };
        let norm = |name: &str| self.norm(spec, &at_layer(name, at), spec.hidden);
        Ok(Block {
            spec: facts.clone(),
            qkv: linear(0)?,
            attn_out: linear(1)?,
            mlp_in: linear(2)?,
            mlp_out: linear(3)?,
            attn_norm: facts.attn_norm.then(|| norm(spec.names.attn_norm)).transpose()?,
            mlp_norm: norm(spec.names.mlp_norm)?,
            positions: LayerPositions::None,
        })
    }

    fn missing_error(&self) -> Error {
        Error::Tensors {
            path: self.tensors.path().to_owned(),
            missing: self.missing.borrow().clone(),
            unused: self.unused(),
        }
    }

    /// Tensors beside those that were used, under the same top-level modules: parts of an encoder that is
    /// not the one the configuration describes. Other modules (heads of other tasks) are not the encoder's.
    fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let top = |name: &str| name.strip_prefix(self.prefix)?.split('.').next().map(str::to_owned);
        let tops: BTreeSet<String> = used.iter().filter_map(|n| top(n)).collect();
        let ignored = |name: &str| {
            let inner = name.strip_prefix(self.prefix).unwrap_or(name);
            self.spec.names.ignored.iter().any(|i| inner.starts_with(i))
        };
        self.tensors
            .names()
            .filter(|n| !used.contains(*n) && !ignored(n) && top(n).is_some_and(|t| tops.contains(&t)))
            .map(str::to_owned)
            .collect()
    }

    fn finish(self) -> Result<()> {
        if !self.missing.borrow().is_empty() || !self.unused().is_empty() {
            return Err(self.missing_error());
        }
        self.wrong.into_inner().map_or(Ok(()), Err)
    }
}

