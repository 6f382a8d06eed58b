//! Base + adapter as one ordinary checkpoint, which transformers loads.
//!
//! Every tensor of the base is written in its own storage type; adapted weights are `W + s B A`, summed in f32
//! and rounded once. The adapter's head takes the place of the base's. Not the packed form: that is merged in
//! memory (`model::merge`).

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{Model, Task, reader::find};
use crate::{
    adapter::{Adapter, Factors, SavedTensor},
    error::{Error, Result},
    kernel::gemm::gemm,
    mat::MatMut,
    spec::Problem,
    weights::{
        Dtype, Tensor, durable,
        source::COMPANIONS,
        writer::{self, Content, Output},
    },
};

impl Model {
    /// Writes this base with `adapter` merged into it as a model directory at `out`.
    ///
    /// # Errors
    /// Those of [`Model::bind`]; when `out` exists or cannot be written.
    pub fn export_merged(&self, adapter: &Adapter, out: &Path) -> Result<()> {
        self.export_changed(adapter, &BTreeMap::new(), out)
    }

    /// As [`Model::export_merged`], with other values for some tensors of the base, by the names it gives them.
    ///
    /// # Errors
    /// As [`Model::export_merged`].
    pub fn export_changed(
        &self,
        adapter: &Adapter,
        changed: &BTreeMap<String, SavedTensor>,
        out: &Path,
    ) -> Result<()> {
        let task = self.bind("merged", adapter)?;
        durable::directory(out, |dir| {
            self.write_tensors(adapter, changed, &task, &dir.join("model.safetensors"))?;
            self.write_config(&task, &dir.join("config.json"))?;
            for name in COMPANIONS {
                let Some(bytes) = self.source.read(name)? else {
                    continue;
                };
                let to = dir.join(name);
                let parent = to.parent().unwrap_or(dir);
                std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
                std::fs::write(&to, bytes).map_err(Error::io(&to))?;
            }
            Ok(())
        })
    }

    fn write_tensors(
        &self,
        adapter: &Adapter,
        changed: &BTreeMap<String, SavedTensor>,
        task: &Task,
        path: &Path,
    ) -> Result<()> {
        let naming = Naming::new(self, task);
        let mut outputs = Vec::new();
        let mut written = BTreeSet::new();
        let dtype = self
            .tensors
            .get(&self.word_name())
            .map_or(Dtype::F32, |t| t.dtype);
        for (name, saved) in &adapter.saved {
            let (name, module) = naming.of_saved(name);
            let parts = self.factors_of(adapter, &module);
            let values = match !parts.is_empty() && name.ends_with(".weight") {
                true => Cow::Owned(merged(saved.data.clone(), saved.shape[1], &parts)),
                false => Cow::Borrowed(saved.data.as_slice()),
            };
            outputs.push(Output {
                name: name.clone(),
                shape: saved.shape.clone(),
                dtype,
                content: Content::Values(values),
            });
            written.insert(name);
        }
        for tensor in self.tensors.iter() {
            let name = naming.of_base(tensor.name);
            if written.contains(&name) || naming.is_replaced(&name, adapter) {
                continue;
            }
            let module = tensor.name.strip_prefix(self.prefix).unwrap_or(tensor.name);
            let module = module.strip_suffix(".weight").unwrap_or("");
            let parts = self.factors_of(adapter, module);
            outputs.push(Output {
                name,
                shape: tensor.shape.to_vec(),
                dtype: tensor.dtype,
                content: match (changed.get(tensor.name), parts.is_empty()) {
                    (Some(to), true) => Content::Values(Cow::Borrowed(&to.data)),
                    (Some(to), false) => {
                        let sum = merged(to.data.clone(), tensor.shape[1], &parts);
                        Content::Values(Cow::Owned(sum))
                    }
                    (None, false) => Content::Make(Box::new(move || merged_tensor(tensor, &parts))),
                    (None, true) => Content::Bytes(tensor.bytes),
                },
            });
        }
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        writer::write(path, &outputs, &metadata)
    }

    fn word_name(&self) -> String {
        let name = format!("{}{}.weight", self.prefix, self.spec.names.word);
        find(&self.tensors, &self.spec, &name).unwrap_or(name)
    }

    /// The factors that change the tensor of module `inner`, a path without the encoder's prefix, with the rows of it
    /// that they change: a fused tensor may have several.
    fn factors_of<'a>(&self, adapter: &'a Adapter, inner: &str) -> Vec<Part<'a>> {
        if let Some(file) = self.sites.of_file(inner) {
            let of_file = |(path, factors): (&String, &'a Factors)| {
                let site = self.sites.find(path)?;
                let within = site.slot == file.slot
                    && file.columns.start <= site.columns.start
                    && site.columns.end <= file.columns.end;
                let from = |column| column - file.columns.start;
                within.then(|| (from(site.columns.start)..from(site.columns.end), factors))
            };
            return adapter.factors.iter().filter_map(of_file).collect();
        }
        let prefixes = self.spec.names.prefixes.iter();
        let mut spellings = prefixes
            .map(|p| format!("{p}{inner}"))
            .chain([inner.to_owned()]);
        let found = spellings.find_map(|path| adapter.factors.get(&path));
        found.map(|f| (0..f.b.rows(), f)).into_iter().collect()
    }

    fn write_config(&self, task: &Task, path: &Path) -> Result<()> {
        let name = "config.json";
        let bytes = self.source.read(name)?.unwrap_or_default();
        let mut config: Map<String, Value> = serde_json::from_slice(&bytes)
            .map_err(|e| Error::format(&self.source.path(name), e.to_string()))?;
        if let Some(classifier) = &task.classifier {
            let stem = self.spec.names.class;
            config.insert(
                "architectures".into(),
                json!([format!("{stem}{}", class_of(classifier.level))]),
            );
            let labels = || classifier.labels.iter().enumerate();
            let by_id: Map<String, Value> =
                labels().map(|(i, l)| (i.to_string(), json!(l))).collect();
            let by_label: Map<String, Value> =
                labels().map(|(i, l)| (l.clone(), json!(i))).collect();
            config.insert("id2label".into(), by_id.into());
            config.insert("label2id".into(), by_label.into());
            let problem = match classifier.problem {
                Problem::Regression => "regression",
                Problem::SingleLabelClassification => "single_label_classification",
                Problem::MultiLabelClassification => "multi_label_classification",
            };
            config.insert("problem_type".into(), json!(problem));
        }
        let text = serde_json::to_vec_pretty(&config).expect("a JSON object serialises");
        std::fs::write(path, text).map_err(Error::io(path))
    }
}

fn class_of(level: super::Level) -> &'static str {
    match level {
        super::Level::Sequence => "ForSequenceClassification",
        super::Level::Token => "ForTokenClassification",
    }
}

/// What tensors are called in the merged checkpoint. One with a classifier is a model class's, whose encoder
/// has a prefix even where the base's checkpoint is the bare encoder's.
struct Naming<'a> {
    model: &'a Model,
    prefix: &'static str,
}

impl<'a> Naming<'a> {
    fn new(model: &'a Model, task: &Task) -> Self {
        let class = model
            .spec
            .names
            .prefixes
            .iter()
            .find(|p| !p.is_empty())
            .copied();
        let prefix = if task.classifier.is_some() {
            class.unwrap_or("")
        } else {
            model.prefix
        };
        Self { model, prefix }
    }

    /// A tensor of the base.
    fn of_base(&self, name: &str) -> String {
        let heads = [&self.model.spec.sequence_head, &self.model.spec.token_head];
        let in_head = heads.iter().any(|h| {
            let outer = h.dense.filter(|d| !d.in_encoder).map(|d| d.name);
            [Some(h.out), outer]
                .into_iter()
                .flatten()
                .any(|m| is_of(name, m))
        });
        match name.strip_prefix(self.model.prefix) {
            Some(inner) if !in_head => format!("{}{inner}", self.prefix),
            _ => name.to_owned(),
        }
    }

    /// A saved tensor of the adapter, and its module without prefix.
    fn of_saved(&self, name: &str) -> (String, String) {
        let prefixes = self
            .model
            .spec
            .names
            .prefixes
            .iter()
            .filter(|p| !p.is_empty());
        let bare = prefixes
            .filter_map(|p| name.strip_prefix(p))
            .next()
            .unwrap_or(name);
        let heads = [&self.model.spec.sequence_head, &self.model.spec.token_head];
        let inside = heads
            .iter()
            .filter_map(|h| h.dense)
            .any(|d| d.in_encoder && is_of(bare, d.name));
        let full = if inside {
            format!("{}{bare}", self.prefix)
        } else {
            bare.to_owned()
        };
        let module = bare.rsplit_once('.').map_or(bare, |(module, _)| module);
        (full, module.to_owned())
    }

    /// Whether `name` is of a head module that the adapter brings itself.
    fn is_replaced(&self, name: &str, adapter: &Adapter) -> bool {
        let module = |n: &str| n.rsplit_once('.').map(|(m, _)| m.to_owned());
        adapter
            .saved
            .keys()
            .any(|saved| module(&self.of_saved(saved).0) == module(name))
    }
}

/// Whether the tensor `name` belongs to the module `module`.
fn is_of(name: &str, module: &str) -> bool {
    name.strip_prefix(module)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// Rows of a tensor, and the factors that change them.
type Part<'a> = (Range<usize>, &'a Factors);

fn merged_tensor(tensor: Tensor<'_>, parts: &[Part<'_>]) -> Result<Vec<f32>> {
    Ok(merged(tensor.to_f32()?, tensor.shape[1], parts))
}

/// `W + s B A` over the rows of each part, `W [n x k]` row-major.
fn merged(mut w: Vec<f32>, k: usize, parts: &[Part<'_>]) -> Vec<f32> {
    for (rows, factors) in parts {
        let sum = MatMut::new(&mut w[rows.start * k..rows.end * k], rows.len(), k);
        gemm(
            sum,
            1.0,
            factors.scale,
            factors.b.view(),
            false,
            factors.a.view(),
            false,
        );
    }
    w
}
