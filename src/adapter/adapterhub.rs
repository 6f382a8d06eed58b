//! Import of a LoRA of AdapterHub's library (`adapters`, before that adapter-transformers), as an [`Adapter`].
//!
//! ```text
//! adapter_config.json    {"config": {"architecture": "lora", "r", "alpha", ...}, "model_type", "model_name", ...}
//! pytorch_adapter.bin or adapter.safetensors
//!     <module>.loras.<name>.lora_A   [r, in]
//!     <module>.loras.<name>.lora_B   [out, r]
//! head_config.json, pytorch_model_head.bin or model_head.safetensors, where a head was saved
//!     a class of transformers: the parameters of its own head
//!     a class of the library:  heads.<name>.<n>.{weight, bias}, n = 1, 4, ... (dropout, linear, activation)
//! y += alpha / r * (x At) Bt
//! ```
//! A head of the library is taken over where the model's family has the same: its layers, on the same row. Everything
//! else that the library writes (bottlenecks, prompts, gates, magnitudes...) is refused by name.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};

use super::{
    Adapter, Factors, SavedTensor, Targets, TaskType, bounded,
    checkpoint::{self, Checkpoint, ImportReport, ImportedModule},
    json::{self, Fields},
    labels, peft,
    peft_config::MAX_RANK,
};
use crate::{
    Error, Result,
    mat::Matrix,
    spec::{EncoderSpec, HeadSpec, Problem},
};

const WEIGHTS: [&str; 2] = ["adapter.safetensors", "pytorch_adapter.bin"];
const HEAD_CONFIG: &str = "head_config.json";
const HEAD_WEIGHTS: [&str; 2] = ["model_head.safetensors", "pytorch_model_head.bin"];
/// Keys of `config` that say where factors are, which the tensors say too, how they were trained, or are read.
const HARMLESS: [&str; 12] = [
    "alpha",
    "architecture",
    "attn_matrices",
    "dropout",
    "dtype",
    "init_weights",
    "init_weights_seed",
    "intermediate_lora",
    "leave_out",
    "output_lora",
    "r",
    "selfattn_lora",
];

impl Adapter {
    /// Whether `dir` holds an adapter of this library: a configuration that says `config` and no `peft_type`.
    ///
    /// # Errors
    /// When there is a configuration that cannot be read.
    pub fn is_adapterhub(dir: &Path) -> Result<bool> {
        let path = dir.join(peft::CONFIG);
        if !path.exists() {
            return Ok(false);
        }
        let bytes = bounded::read(&path, bounded::MAX_CONFIG)?;
        let fields = Fields::parse(&bytes, &path)?;
        Ok(fields.get("config").is_some() && fields.get("peft_type").is_none())
    }

    /// Imports the LoRA in `dir`, with the head beside it if one was saved.
    ///
    /// # Errors
    /// Another kind of adapter, tensors that are missing, of wrong shapes, not finite, or no part of one; a head that the
    /// model's family does not have.
    pub fn import_adapterhub(dir: &Path) -> Result<(Adapter, ImportReport)> {
        let config = Config::read(dir)?;
        let path = checkpoint::first_of(dir, &WEIGHTS)?;
        let bytes = bounded::read(&path, bounded::MAX_WEIGHTS)?;
        let file = Checkpoint::parse(&bytes, &path)?;
        let factors = factors(&file, &config, &path)?;
        let family = serde_json::json!({"model_type": config.model_type});
        let spec = EncoderSpec::parse(family.to_string().as_bytes(), &dir.join(peft::CONFIG))?;
        let head = Head::read(dir, &spec)?;
        let modules = factors.iter().map(|(module, f)| ImportedModule {
            module: module.clone(),
            rank_max: f.rank(),
            kept: (0..f.rank()).collect(),
        });
        let report = ImportReport {
            alpha: config.alpha,
            modules: modules.collect(),
            head: head.saved.keys().cloned().collect(),
        };
        let adapter = Adapter {
            path: dir.to_owned(),
            targets: Targets::exactly(factors.keys().cloned()),
            factors,
            saved: head.saved,
            labels: head.labels,
            task_type: head.task,
            problem: head.problem,
            base: config.base,
            base_fingerprint: None,
            bytes: bytes.len() as u64,
            provenance: BTreeMap::new(),
        };
        Ok((adapter, report))
    }
}

/// What `adapter_config.json` says.
#[derive(Debug)]
struct Config {
    alpha: f64,
    rank: usize,
    model_type: String,
    base: Option<String>,
}

impl Config {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(peft::CONFIG);
        let bytes = bounded::read(&path, bounded::MAX_CONFIG)?;
        let outer = Fields::parse(&bytes, &path)?;
        let Some(Value::Object(inner)) = outer.get("config") else {
            return Err(Error::config(&path, "config", "expected an object"));
        };
        let refuse = |key: &str, value: &Value| {
            let what = format!("config.{key} {}", json::shown(value));
            Error::unsupported(&path, what, "of this library, plain LoRA is imported")
        };
        if inner.get("architecture") != Some(&serde_json::json!("lora")) {
            return Err(refuse(
                "architecture",
                inner.get("architecture").unwrap_or(&Value::Null),
            ));
        }
        for (key, value) in inner {
            let neutral = value.is_null() || *value == serde_json::json!(false);
            let adds = key == "composition_mode" && *value == serde_json::json!("add");
            if !neutral && !adds && !HARMLESS.contains(&key.as_str()) {
                return Err(refuse(key, value));
            }
        }
        let wrong = |key: &str, expected: &str| {
            let found = json::shown(inner.get(key).unwrap_or(&Value::Null));
            Error::config(&path, key, format!("expected {expected}, found {found}"))
        };
        let rank = inner.get("r").and_then(|v| json::count(v, MAX_RANK));
        let rank = rank.filter(|&r| r > 0);
        let alpha = inner.get("alpha").and_then(json::finite);
        let model_type = outer.string("model_type")?.map(str::to_owned);
        Ok(Self {
            rank: rank.ok_or_else(|| wrong("r", &format!("a rank of 1 to {MAX_RANK}")))?,
            alpha: alpha.ok_or_else(|| wrong("alpha", "a finite number"))?,
            model_type: model_type
                .ok_or_else(|| Error::config(&path, "model_type", "expected a family's name"))?,
            base: outer.string("model_name")?.map(str::to_owned),
        })
    }
}

/// `<module>.loras.<name>.lora_A`: the module, the adapter's name, the part.
fn parts_of(name: &str) -> Option<(&str, &str, &str)> {
    let (rest, part) = name.rsplit_once('.')?;
    let (module, adapter) = rest.rsplit_once('.')?;
    let module = module.strip_suffix(".loras")?;
    matches!(part, "lora_A" | "lora_B").then_some((module, adapter, part))
}

fn factors(
    file: &Checkpoint<'_>,
    config: &Config,
    path: &Path,
) -> Result<BTreeMap<String, Factors>> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    let (mut unused, mut adapters) = (Vec::new(), Vec::new());
    for name in file.names() {
        match parts_of(&name) {
            Some((module, adapter, part)) => {
                adapters.push(adapter.to_owned());
                let half = if part == "lora_A" { &mut a } else { &mut b };
                half.insert(module.to_owned(), name.clone());
            }
            None => unused.push(name),
        }
    }
    adapters.dedup();
    if adapters.len() > 1 {
        let why = format!("expected one adapter, found {}", adapters.join(", "));
        return Err(Error::format(path, why));
    }
    let halves = [(&a, &b, "lora_B"), (&b, &a, "lora_A")];
    let missing: Vec<String> = halves
        .iter()
        .flat_map(|(one, other, part)| {
            let alone = one.keys().filter(|m| !other.contains_key(*m));
            alone.map(move |m| format!("{m}.loras.*.{part}"))
        })
        .collect();
    if !missing.is_empty() || !unused.is_empty() {
        let path = path.to_owned();
        return Err(Error::Tensors {
            path,
            missing,
            unused,
        });
    }
    if a.is_empty() {
        return Err(Error::format(
            path,
            "no tensor is named <module>.loras.<name>.lora_A",
        ));
    }
    let rank = config.rank;
    let wrong = |name: &str, expected: String, found: &[usize]| Error::Shape {
        path: path.to_owned(),
        name: name.to_owned(),
        expected,
        found: found.to_vec(),
    };
    let mut out = BTreeMap::new();
    for (module, a_name) in a {
        let (down, up) = (file.decode(&a_name)?, file.decode(&b[&module])?);
        let &[r, inputs] = down.shape.as_slice() else {
            return Err(wrong(&a_name, format!("[{rank}, in]"), &down.shape));
        };
        let &[outputs, b_rank] = up.shape.as_slice() else {
            return Err(wrong(&b[&module], format!("[out, {rank}]"), &up.shape));
        };
        if r != rank {
            return Err(wrong(&a_name, format!("[{rank}, in]"), &down.shape));
        }
        if b_rank != rank {
            return Err(wrong(&b[&module], format!("[out, {rank}]"), &up.shape));
        }
        let factors = Factors {
            a: Matrix::from_vec(down.data, rank, inputs),
            b: Matrix::from_vec(up.data, outputs, rank),
            scale: (config.alpha / rank as f64) as f32,
        };
        out.insert(module, factors);
    }
    Ok(out)
}

/// The head that was saved beside the adapter; nothing where there is none.
#[derive(Debug, Default)]
struct Head {
    saved: BTreeMap<String, SavedTensor>,
    labels: Option<Vec<String>>,
    task: Option<TaskType>,
    problem: Option<Problem>,
}

impl Head {
    fn read(dir: &Path, spec: &EncoderSpec) -> Result<Self> {
        let path = dir.join(HEAD_CONFIG);
        if !path.exists() {
            return Ok(Self::default());
        }
        let bytes = bounded::read(&path, bounded::MAX_CONFIG)?;
        let fields = Fields::parse(&bytes, &path)?;
        let weights = checkpoint::first_of(dir, &HEAD_WEIGHTS)?;
        let tensors = bounded::read(&weights, bounded::MAX_WEIGHTS)?;
        let file = Checkpoint::parse(&tensors, &weights)?;
        match fields.get("config") {
            None | Some(Value::Null) => Self::of_transformers(&fields, &file, &path),
            Some(Value::Object(config)) => Self::of_library(config, spec, &file, &path, &weights),
            Some(other) => Err(fields.expected("config", "an object", other)),
        }
    }

    /// The head of a class of transformers: its parameters, by their names.
    fn of_transformers(fields: &Fields<'_>, file: &Checkpoint<'_>, path: &Path) -> Result<Self> {
        let class = fields.string("model_class")?.unwrap_or_default();
        let task = match class.split_once("For").map(|(_, task)| task) {
            Some("SequenceClassification") => TaskType::SequenceClassification,
            Some("TokenClassification") => TaskType::TokenClassification,
            _ => {
                let why = "sorank has heads of ...ForSequenceClassification and ...ForTokenClassification";
                return Err(Error::unsupported(
                    path,
                    format!("a head of {class:?}"),
                    why,
                ));
            }
        };
        let mut saved = BTreeMap::new();
        for name in file.names() {
            saved.insert(name.clone(), file.decode(&name)?);
        }
        Ok(Self {
            saved,
            labels: label_names(fields.get("label2id"), path)?,
            task: Some(task),
            problem: None,
        })
    }

    /// A head of one of the library's own classes.
    fn of_library(
        config: &Map<String, Value>,
        spec: &EncoderSpec,
        file: &Checkpoint<'_>,
        path: &Path,
        weights: &Path,
    ) -> Result<Self> {
        let word = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        let (task, problem, of_family) = match word("head_type") {
            "classification" => (TaskType::SequenceClassification, None, &spec.sequence_head),
            "multilabel_classification" => (
                TaskType::SequenceClassification,
                Some(Problem::MultiLabelClassification),
                &spec.sequence_head,
            ),
            "tagging" => (TaskType::TokenClassification, None, &spec.token_head),
            other => {
                let why = "classification, multilabel_classification and tagging are";
                return Err(Error::unsupported(
                    path,
                    format!("head_type {other:?}"),
                    why,
                ));
            }
        };
        let modules = self::modules(config, of_family, spec, task).ok_or_else(|| {
            let why =
                "this family's head is another: save the adapter without it, and train a head";
            Error::unsupported(
                path,
                format!("a head of {}", Value::Object(config.clone())),
                why,
            )
        })?;
        let mut saved = BTreeMap::new();
        let mut wanted: Vec<String> = Vec::new();
        for (at, module) in modules.iter().enumerate() {
            for part in ["weight", "bias"] {
                // Dropout, linear and activation take a number each.
                let end = format!(".{}.{part}", 3 * at + 1);
                let mut names = file.names().into_iter();
                let found = names.find(|n| n.starts_with("heads.") && n.ends_with(&end));
                match found {
                    Some(name) => {
                        saved.insert(format!("{module}.{part}"), file.decode(&name)?);
                        wanted.push(name);
                    }
                    None => wanted.push(format!("heads.*{end}")),
                }
            }
        }
        let unused: Vec<String> = (file.names().into_iter())
            .filter(|n| !wanted.contains(n))
            .collect();
        let missing: Vec<String> = (wanted.into_iter())
            .filter(|n| n.starts_with("heads.*"))
            .collect();
        if !missing.is_empty() || !unused.is_empty() {
            let path = weights.to_owned();
            return Err(Error::Tensors {
                path,
                missing,
                unused,
            });
        }
        Ok(Self {
            saved,
            labels: label_names(config.get("label2id"), path)?,
            task: Some(task),
            problem,
        })
    }
}

/// The modules of the family's head that the layers of the library's are, first to last; `None` where they are not.
fn modules(
    config: &Map<String, Value>,
    head: &HeadSpec,
    spec: &EncoderSpec,
    task: TaskType,
) -> Option<Vec<String>> {
    if config
        .get("bias")
        .is_some_and(|b| *b == serde_json::json!(false))
    {
        return None;
    }
    let layers = config.get("layers").and_then(Value::as_u64)?;
    let pooled = config.get("use_pooler") == Some(&serde_json::json!(true));
    let activation = config.get("activation_function").and_then(Value::as_str);
    let out = head.out.to_owned();
    let whole_rows = task == TaskType::TokenClassification;
    match (layers, head.dense) {
        (1, None) if !pooled => Some(vec![out]),
        // The base's own pooler, then one layer.
        (1, Some(dense)) if pooled && dense.in_encoder && !whole_rows => Some(vec![out]),
        (2, Some(dense))
            if !pooled
                && dense.bias
                && dense.norm.is_none()
                && activation.is_some_and(|a| dense.activates_as(a)) =>
        {
            let prefixes = spec.names.prefixes.iter();
            let prefix = prefixes
                .copied()
                .find(|p| !p.is_empty() && dense.in_encoder);
            Some(vec![
                format!("{}{}", prefix.unwrap_or_default(), dense.name),
                out,
            ])
        }
        _ => None,
    }
}

/// `label2id` as names by index.
fn label_names(label2id: Option<&Value>, path: &Path) -> Result<Option<Vec<String>>> {
    let Some(Value::Object(map)) = label2id else {
        return Ok(None);
    };
    let by_index: Map<String, Value> = map
        .iter()
        .map(|(label, id)| (id.to_string(), serde_json::json!(label)))
        .collect();
    if by_index.len() != map.len() {
        return Err(Error::config(path, "label2id", "two labels of one number"));
    }
    let text = serde_json::json!({"id2label": by_index}).to_string();
    Ok(labels::parse(text.as_bytes(), path)?.names)
}

#[cfg(test)]
mod tests;
