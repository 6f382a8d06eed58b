//! Binding: an adapter's plain data against one base, checked to the last tensor, packed for the kernels.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Model,
    attention::{LayerPositions, ProjectedPositions},
    block::Block,
    head::{Dense, Head},
    linear::{Linear, LowRank, LowRankPart, Weight},
    norm::Norm,
    reader::find,
    sites::Site,
    task::{Classifier, Embedder, Level, Task},
};
use crate::{
    adapter::{Adapter, Factors, TaskType},
    error::{Error, Result},
    kernel::panel::{OwnedPanels, Precision},
    mat::{Mat, Matrix},
    spec::{DenseSpec, HeadSpec, OwnHead, Problem},
};

impl Model {
    /// The bare base as a task: no factors; the checkpoint's own classifier, if it carries one.
    pub fn base_task(&self) -> Result<Task> {
        let classifier = match self.spec.own_head {
            None => None,
            Some(own) => {
                let mut head = HeadReader::new(self, None);
                Some(self.classifier(&mut head, level_of(own))?)
            }
        };
        Ok(self.task(None, Vec::new(), Vec::new(), classifier))
    }

    /// Binds `adapter` to this base under `name`.
    ///
    /// # Errors
    /// A module this base has not; widths that are not this base's; a module that the adapter's configuration targets
    /// and its file has no tensors for; a saved tensor that nothing uses; a head that is needed and missing; a
    /// fingerprint of another base.
    pub fn bind(&self, name: &str, adapter: &Adapter) -> Result<Task> {
        if let Some(expected) = &adapter.base_fingerprint {
            let found = self.packed.content_hash();
            if expected != found {
                return Err(Error::BaseMismatch {
                    path: adapter.path.clone(),
                    why: format!("base fingerprint {expected}, this base has {found}"),
                });
            }
        }
        let mut by_slot: BTreeMap<usize, Vec<(&Site, &Factors)>> = BTreeMap::new();
        let mut in_head = BTreeMap::new();
        for (path, factors) in &adapter.factors {
            match self.sites.find(path) {
                Some(site) => {
                    check_widths(adapter, path, factors, site.columns.len(), site.inputs)?;
                    by_slot.entry(site.slot).or_default().push((site, factors));
                }
                None if self.is_head_dense(path) => {
                    check_widths(adapter, path, factors, self.spec.hidden, self.spec.hidden)?;
                    in_head.insert(path.as_str(), factors);
                }
                None => {
                    return Err(Error::BaseMismatch {
                        path: adapter.path.clone(),
                        why: format!(
                            "{path} is no linear of this base ({}, {} layers)",
                            self.spec.family,
                            self.spec.layers.len()
                        ),
                    });
                }
            }
        }
        self.check_targets(adapter)?;

        let mut slots = vec![None; self.packed.slots()];
        let mut ranks = Vec::new();
        for (slot, mut parts) in by_slot {
            parts.sort_by_key(|(site, _)| site.columns.start);
            if let Some(pair) = parts.windows(2).find(|p| p[0].0.path == p[1].0.path) {
                let why = format!("two sets of factors for {}", pair[0].0.path);
                return Err(Error::format(&adapter.path, why));
            }
            ranks.extend(
                parts
                    .iter()
                    .map(|(site, f)| (site.path.clone(), f.a.rows())),
            );
            slots[slot] = Some(pack(&parts));
        }
        let mut head = HeadReader::new(self, Some(adapter));
        head.factors = in_head;
        let classifier = self.adapter_classifier(adapter, &mut head)?;
        head.check_all_used()?;
        let mut task = self.task(Some(name.to_owned()), slots, ranks, classifier);
        task.positions = self.positions_of(&task);
        Ok(task)
    }

    fn task(
        &self,
        name: Option<String>,
        factors: Vec<Option<LowRank>>,
        ranks: Vec<(String, usize)>,
        classifier: Option<Classifier>,
    ) -> Task {
        let embedder = Embedder {
            pooling: self.sentence.pooling,
            normalize: self.sentence.normalize,
        };
        Task {
            name,
            factors,
            ranks,
            classifier,
            embedder,
            positions: Vec::new(),
        }
    }

    /// The projected tables of relative positions that `task`'s factors change; empty where none is.
    fn positions_of(&self, task: &Task) -> Vec<Option<Arc<ProjectedPositions>>> {
        let adapted = |slot: usize| task.factors.get(slot).is_some_and(Option::is_some);
        let of_block = |block: &Block| match &block.positions {
            LayerPositions::Relative(relative)
                if block.projects_positions().slot.is_some_and(adapted) =>
            {
                let heads = self.spec.heads;
                Some(Arc::new(relative.project(
                    block,
                    &self.packed,
                    heads,
                    Some(task),
                )))
            }
            _ => None,
        };
        let tables: Vec<_> = self.blocks.iter().map(of_block).collect();
        if tables.iter().any(Option::is_some) {
            tables
        } else {
            Vec::new()
        }
    }

    /// Whether `path` is the dense layer of one of this family's heads (all-linear adapters may change it).
    fn is_head_dense(&self, path: &str) -> bool {
        let heads = [&self.spec.sequence_head, &self.spec.token_head];
        heads
            .iter()
            .filter_map(|h| h.dense)
            .any(|d| self.names_dense(&d, path))
    }

    fn names_dense(&self, dense: &DenseSpec, path: &str) -> bool {
        let prefixes = self.spec.names.prefixes.iter();
        path == dense.name
            || dense.in_encoder
                && prefixes
                    .filter_map(|p| path.strip_prefix(p))
                    .any(|p| p == dense.name)
    }

    /// Modules that the configuration targets, exist in this base, and have no tensors.
    fn check_targets(&self, adapter: &Adapter) -> Result<()> {
        let prefix = adapter
            .factors
            .keys()
            .find_map(|path| self.sites.prefix_of(path));
        let prefix = prefix.unwrap_or(self.prefix);
        let absent: Vec<String> = self
            .sites
            .all()
            .iter()
            .map(|site| format!("{prefix}{}", site.path))
            .filter(|path| !adapter.factors.contains_key(path) && adapter.targets.matches(path))
            .flat_map(|path| {
                [
                    format!("{path}.lora_A.weight"),
                    format!("{path}.lora_B.weight"),
                ]
            })
            .collect();
        if absent.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors {
            path: adapter.path.clone(),
            missing: absent,
            unused: Vec::new(),
        })
    }

    fn adapter_classifier(
        &self,
        adapter: &Adapter,
        head: &mut HeadReader<'_>,
    ) -> Result<Option<Classifier>> {
        let saves = |spec: &HeadSpec| head.saved_name(&format!("{}.weight", spec.out)).is_some();
        let level = match adapter.task_type {
            Some(TaskType::SequenceClassification) => Level::Sequence,
            Some(TaskType::TokenClassification) => Level::Token,
            Some(TaskType::FeatureExtraction) => return Ok(None),
            None => match self.spec.own_head {
                Some(own) => level_of(own),
                None if saves(&self.spec.sequence_head) => Level::Sequence,
                None => return Ok(None),
            },
        };
        self.classifier(head, level).map(Some)
    }

    fn classifier(&self, head: &mut HeadReader<'_>, level: Level) -> Result<Classifier> {
        let spec = match level {
            Level::Sequence => &self.spec.sequence_head,
            Level::Token => &self.spec.token_head,
        };
        let adapter = head.adapter;
        // PEFT saves the head of a classification adapter with it: where it says so, a base's head is another task's.
        let own = adapter.is_some_and(|a| {
            matches!(
                a.task_type,
                Some(TaskType::SequenceClassification | TaskType::TokenClassification)
            )
        }) || head.saved_name(&format!("{}.weight", spec.out)).is_some();
        head.own = own.then(|| outermost(spec.out));
        let layers = head.read(spec)?;
        let outputs = layers.outputs();
        let labels = match (own, adapter.and_then(|a| a.labels.as_ref())) {
            (true, Some(labels)) => {
                if labels.len() != outputs {
                    let path = adapter.map(|a| a.path.clone()).unwrap_or_default();
                    let why = format!("{} labels for a head of {outputs} outputs", labels.len());
                    return Err(Error::format(&path, why));
                }
                labels.clone()
            }
            (false, _) if self.spec.labels.len() == outputs => self.spec.labels.clone(),
            _ => (0..outputs).map(|i| format!("LABEL_{i}")).collect(),
        };
        let stated = if own {
            adapter.and_then(|a| a.problem)
        } else {
            self.spec.problem
        };
        let problem = stated.unwrap_or(match outputs {
            1 => Problem::Regression,
            _ => Problem::SingleLabelClassification,
        });
        Ok(Classifier {
            head: Arc::new(layers),
            level,
            labels: labels.into(),
            problem,
        })
    }
}

fn level_of(own: OwnHead) -> Level {
    match own {
        OwnHead::Sequence => Level::Sequence,
        OwnHead::Token => Level::Token,
    }
}

fn check_widths(
    adapter: &Adapter,
    path: &str,
    factors: &Factors,
    outputs: usize,
    inputs: usize,
) -> Result<()> {
    let wrong = |which: &str, expected: String, found: &Matrix| Error::Shape {
        path: adapter.path.clone(),
        name: format!("{path}.{which}.weight"),
        expected: format!("{expected} for this base"),
        found: vec![found.rows(), found.cols()],
    };
    if factors.a.cols() != inputs {
        return Err(wrong("lora_A", format!("[rank, {inputs}]"), &factors.a));
    }
    if factors.b.rows() != outputs {
        return Err(wrong("lora_B", format!("[{outputs}, rank]"), &factors.b));
    }
    Ok(())
}

/// Packs the factors of the sites of one linear: A stacked, B with the scale folded in.
fn pack(parts: &[(&Site, &Factors)]) -> LowRank {
    let inputs = parts.first().map_or(0, |(site, _)| site.inputs);
    let rank: usize = parts.iter().map(|(_, f)| f.a.rows()).sum();
    let stacked: Vec<f32> = parts
        .iter()
        .flat_map(|(_, f)| f.a.as_slice())
        .copied()
        .collect();
    let down = OwnedPanels::pack(Mat::new(&stacked, rank, inputs), Precision::F32, true);
    let mut first = 0;
    let parts = parts.iter().map(|(site, f)| {
        let scaled: Vec<f32> = f.b.as_slice().iter().map(|b| b * f.scale).collect();
        let up = Mat::new(&scaled, f.b.rows(), f.b.cols());
        let ranks = first..first + f.b.cols();
        first = ranks.end;
        LowRankPart {
            columns: site.columns.clone(),
            ranks,
            up: OwnedPanels::pack(up, Precision::F32, false),
        }
    });
    LowRank {
        down,
        parts: parts.collect(),
    }
}

/// Reads a head's tensors, the adapter's first, then the base's.
struct HeadReader<'a> {
    model: &'a Model,
    adapter: Option<&'a Adapter>,
    /// Low-rank factors on a head's dense layer; folded into the task's own copy.
    factors: BTreeMap<&'a str, &'a Factors>,
    used: Vec<String>,
    /// The module that must be the adapter's own, with everything in it.
    own: Option<&'static str>,
}

/// `classifier` of `classifier.out_proj`.
fn outermost(module: &str) -> &str {
    module.split('.').next().unwrap_or(module)
}

/// A tensor of a head.
struct HeadTensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl<'a> HeadReader<'a> {
    fn new(model: &'a Model, adapter: Option<&'a Adapter>) -> Self {
        Self {
            model,
            adapter,
            factors: BTreeMap::new(),
            used: Vec::new(),
            own: None,
        }
    }

    /// The adapter's spelling of a saved tensor, with or without the encoder's prefix.
    fn saved_name(&self, name: &str) -> Option<String> {
        let saved = &self.adapter?.saved;
        let prefixes = self.model.spec.names.prefixes.iter();
        let mut spellings = prefixes
            .map(|p| format!("{p}{name}"))
            .chain([name.to_owned()]);
        spellings.find(|n| saved.contains_key(n))
    }

    fn tensor(&mut self, name: &str, in_encoder: bool) -> Result<Option<HeadTensor>> {
        if let (Some(found), Some(adapter)) = (self.saved_name(name), self.adapter) {
            let saved = &adapter.saved[&found];
            self.used.push(found);
            return Ok(Some(HeadTensor {
                shape: saved.shape.clone(),
                data: saved.data.clone(),
            }));
        }
        if self.own == Some(outermost(name)) {
            return Ok(None);
        }
        let prefix = if in_encoder { self.model.prefix } else { "" };
        let tensors = &self.model.tensors;
        let found = find(tensors, &self.model.spec, &format!("{prefix}{name}"));
        let Some(tensor) = found.and_then(|n| tensors.get(&n)) else {
            return Ok(None);
        };
        Ok(Some(HeadTensor {
            shape: tensor.shape.to_vec(),
            data: tensor.values(tensor.shape)?,
        }))
    }

    fn read(&mut self, spec: &HeadSpec) -> Result<Head> {
        let h = self.model.spec.hidden;
        let mut missing = Vec::new();
        let dense = match &spec.dense {
            None => None,
            Some(d) => {
                let linear = self.linear(d.name, d.in_encoder, d.bias, Some(h), &mut missing)?;
                let norm = d
                    .norm
                    .map(|n| self.norm(n, d.in_encoder, &mut missing))
                    .transpose()?;
                Some((linear, d.activation, norm))
            }
        };
        let out = self.linear(spec.out, false, true, None, &mut missing)?;
        let (Some(out), true) = (out, missing.is_empty()) else {
            return Err(Error::HeadMissing {
                path: self.path(),
                missing,
            });
        };
        let dense = dense.and_then(|(linear, activation, norm)| {
            Some(Dense {
                linear: linear?,
                activation,
                norm: norm.flatten(),
            })
        });
        Ok(Head {
            pool: spec.pool,
            dense,
            out,
        })
    }

    fn linear(
        &mut self,
        name: &str,
        in_encoder: bool,
        bias: bool,
        outputs: Option<usize>,
        missing: &mut Vec<String>,
    ) -> Result<Option<Linear>> {
        let h = self.model.spec.hidden;
        let weight_name = format!("{name}.weight");
        let Some(mut weight) = self.tensor(&weight_name, in_encoder)? else {
            missing.push(weight_name);
            return Ok(None);
        };
        let n = weight.shape.first().copied().unwrap_or(0);
        if weight.shape != [outputs.unwrap_or(n), h] || n == 0 {
            let outputs = outputs.map_or("labels".to_owned(), |n| n.to_string());
            return Err(self.shape_error(weight_name, format!("[{outputs}, {h}]"), weight.shape));
        }
        self.fold(name, in_encoder, &mut weight);
        let bias = match bias {
            false => None,
            true => {
                let bias_name = format!("{name}.bias");
                match self.tensor(&bias_name, in_encoder)? {
                    Some(b) if b.shape == [n] => Some(b.data),
                    Some(b) => return Err(self.shape_error(bias_name, format!("[{n}]"), b.shape)),
                    None => {
                        missing.push(bias_name);
                        return Ok(None);
                    }
                }
            }
        };
        let packed = OwnedPanels::pack(Mat::new(&weight.data, n, h), Precision::F32, false);
        Ok(Some(Linear {
            weight: Weight::Own(Arc::new(packed)),
            bias,
            slot: None,
        }))
    }

    /// Adds `scale B A` of factors on this module to the task's own copy of its weight.
    fn fold(&self, name: &str, in_encoder: bool, weight: &mut HeadTensor) {
        let prefixes = self.model.spec.names.prefixes.iter();
        let mut spellings = prefixes
            .filter(|_| in_encoder)
            .map(|p| format!("{p}{name}"));
        let found = spellings.find_map(|n| self.factors.get(n.as_str()));
        if let Some(f) = found.or_else(|| self.factors.get(name)) {
            let (n, k) = (weight.shape[0], weight.shape[1]);
            let w = crate::mat::MatMut::new(&mut weight.data, n, k);
            crate::kernel::gemm::gemm(w, 1.0, f.scale, f.b.view(), false, f.a.view(), false);
        }
    }

    fn norm(
        &mut self,
        name: &str,
        in_encoder: bool,
        missing: &mut Vec<String>,
    ) -> Result<Option<Norm>> {
        let h = self.model.spec.hidden;
        let (norm_bias, eps) = (self.model.spec.embed.norm_bias, self.model.spec.norm_eps);
        let mut vector = |part: &str, missing: &mut Vec<String>| -> Result<Option<Arc<[f32]>>> {
            let name = format!("{name}.{part}");
            match self.tensor(&name, in_encoder)? {
                Some(t) if t.shape == [h] => Ok(Some(t.data.into())),
                Some(t) => Err(self.shape_error(name, format!("[{h}]"), t.shape)),
                None => {
                    missing.push(name);
                    Ok(None)
                }
            }
        };
        let gamma = vector("weight", missing)?;
        let beta = match norm_bias {
            true => vector("bias", missing)?,
            false => None,
        };
        Ok(gamma.map(|gamma| Norm { gamma, beta, eps }))
    }

    /// A saved tensor that nothing reads would be a part of the adapter that has no effect.
    fn check_all_used(&self) -> Result<()> {
        let Some(adapter) = self.adapter else {
            return Ok(());
        };
        let heads = [&self.model.spec.sequence_head, &self.model.spec.token_head];
        let of_a_head = |name: &str| {
            heads.iter().any(|h| {
                let dense = h.dense.map(|d| d.name);
                [Some(h.out), dense].into_iter().flatten().any(|m| {
                    name.strip_suffix(".weight")
                        .or(name.strip_suffix(".bias"))
                        .is_some_and(|n| n.ends_with(m))
                })
            })
        };
        let unused: Vec<String> = adapter
            .saved
            .keys()
            .filter(|n| !self.used.contains(n) && !of_a_head(n))
            .cloned()
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors {
            path: adapter.path.clone(),
            missing: Vec::new(),
            unused,
        })
    }

    fn shape_error(&self, name: String, expected: String, found: Vec<usize>) -> Error {
        Error::Shape {
            path: self.path(),
            name,
            expected,
            found,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        match self.adapter {
            Some(adapter) => adapter.path.clone(),
            None => self.model.tensors.path().to_owned(),
        }
    }
}
