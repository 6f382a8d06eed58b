//! Binding: an adapter's plain data against one base, checked to the last tensor, packed for the kernels.

mod head;

use std::{collections::BTreeMap, sync::Arc};

use self::head::{HeadReader, outermost};

use super::{
    Model,
    attention::{LayerPositions, ProjectedPositions},
    block::Block,
    linear::{LowRank, LowRankPart},
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
            let overlaps = |p: &&[(&Site, _)]| p[0].0.columns.end > p[1].0.columns.start;
            if let Some([(a, _), (b, _)]) = parts.windows(2).find(overlaps) {
                let why = match a.path == b.path {
                    true => format!("two sets of factors for {}", a.path),
                    false => format!("{} and {} are the same weights", a.path, b.path),
                };
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

    /// A task from factors made in memory, by slot, and a classifier: what a trainer runs.
    pub fn assemble(&self, factors: Vec<Option<LowRank>>, classifier: Option<Classifier>) -> Task {
        let mut task = self.task(None, factors, Vec::new(), classifier);
        task.positions = self.positions_of(&task);
        task
    }

    /// A tensor of a head as the checkpoint holds it: its shape and elements. `in_encoder` as in `spec::DenseSpec`.
    pub fn head_tensor(
        &self,
        name: &str,
        in_encoder: bool,
    ) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        HeadReader::new(self, None).whole(name, in_encoder)
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
        let paths = || adapter.factors.keys();
        let prefix = paths().find_map(|path| self.sites.prefix_of(path));
        let prefix = prefix.unwrap_or(self.prefix);
        let sites = paths().find_map(|path| self.sites.named_like(path));
        let absent: Vec<String> = sites
            .unwrap_or(self.sites.all())
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
    let down = Matrix::from_vec(stacked, rank, inputs);
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
