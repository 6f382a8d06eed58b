//! `adapter_config.json` as PEFT writes it, turned into what a reader needs: targets, ranks, scales, saved modules.
//!
//! A key that changes the answer and that sorank does not do (DoRA, biases, replicated layers...) is refused by
//! name. Keys that only matter in training are passed over, and so are keys nobody has heard of, because
//! newer versions of PEFT write more of them; what they stand for shows in the tensors, where nothing unknown is
//! accepted. Reads no tensors: ranks in here are claims that `peft` holds against the shapes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;

use super::{
    TaskType,
    expression::refuse_bomb,
    json::{self, Fields},
    matching::{Layers, Patterns, Selector, Targets},
};
use crate::{Error, Result};

/// The largest rank that is read.
pub(super) const MAX_RANK: usize = 4096;
/// The most names of `modules_to_save`: each is looked for in every tensor's name.
const MAX_SAVED: usize = 256;
/// `r` and `lora_alpha` where a configuration leaves them out.
const DEFAULT_RANK: usize = 8;
/// `init_r` of AdaLoRA where a configuration leaves it out.
const DEFAULT_INIT_RANK: usize = 12;
/// PEFT's `target_modules` of the encoders it has a default for, together: no two families share a path.
const DEFAULT_TARGETS: [&str; 5] = ["query", "value", "query_proj", "value_proj", "in_proj"];

/// A parsed `adapter_config.json`.
#[derive(Debug)]
pub(super) struct PeftConfig {
    pub(super) kind: Kind,
    pub(super) targets: Targets,
    /// `modules_to_save`, with those that PEFT adds by itself.
    pub(super) saved: Vec<String>,
    pub(super) task_type: Option<TaskType>,
    pub(super) base: Option<String>,
    alpha: f64,
    alphas: Patterns<f64>,
    rslora: bool,
}

/// What `peft_type` says, with what only this type says.
#[derive(Debug)]
pub(super) enum Kind {
    Lora {
        rank: usize,
        ranks: Patterns<usize>,
    },
    AdaLora {
        init_rank: usize,
        /// How many ranks each module kept, where the allocation has been written down.
        kept: BTreeMap<String, usize>,
    },
}

impl PeftConfig {
    /// Parses the bytes of the file at `path`.
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let fields = Fields::parse(bytes, path)?;
        let kind = match fields.string("peft_type")? {
            Some("LORA") => Kind::Lora {
                rank: fields.count_or("r", DEFAULT_RANK, MAX_RANK)?,
                ranks: rank_pattern(&fields, path)?,
            },
            Some("ADALORA") => {
                let init_rank = fields.count_or("init_r", DEFAULT_INIT_RANK, MAX_RANK)?;
                Kind::AdaLora {
                    init_rank,
                    kept: kept_ranks(&fields, init_rank)?,
                }
            }
            Some(other) => {
                let why = "sorank reads LORA and ADALORA";
                return Err(Error::unsupported(
                    path,
                    format!("peft_type {other:?}"),
                    why,
                ));
            }
            None => {
                return Err(Error::config(
                    path,
                    "peft_type",
                    "expected \"LORA\", found nothing",
                ));
            }
        };
        refuse_unsupported(&fields, path)?;
        let task_type = task_type(&fields, path)?;
        let saved = saved_modules(&fields, path, task_type)?;
        let alphas = alpha_pattern(&fields, path)?;
        let alpha = fields.number_or("lora_alpha", DEFAULT_RANK as f64)?;
        if matches!(kind, Kind::AdaLora { .. }) && alpha <= 0.0 {
            let why = format!("expected a positive number with ADALORA, found {alpha}");
            return Err(Error::config(path, "lora_alpha", why));
        }
        Ok(Self {
            kind,
            targets: targets(&fields, path, saved.clone())?,
            saved,
            task_type,
            base: fields.string("base_model_name_or_path")?.map(str::to_owned),
            alpha,
            alphas,
            rslora: fields.bool_or("use_rslora", false)?,
        })
    }

    /// What the product of the factors of `module` is multiplied by: `alpha / r`, or `alpha / sqrt(r)` (rsLoRA).
    ///
    /// AdaLoRA divides by the rank it began with, whatever is left of it, and looks at no pattern.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f32 {
        let alpha = self.alphas.get(module).map_or(self.alpha, |(_, a)| *a);
        let scale = match self.kind {
            Kind::AdaLora { init_rank, .. } => self.alpha / (init_rank as f64 + 1e-5),
            Kind::Lora { .. } if self.rslora => alpha / (rank as f64).sqrt(),
            Kind::Lora { .. } => alpha / rank as f64,
        };
        scale as f32
    }

    /// An error where matching the names of modules, `characters` in all, against the expressions would take too long.
    pub(super) fn refuse_bomb(&self, characters: usize, path: &Path) -> Result<()> {
        let (key, tables) = match &self.kind {
            Kind::Lora { ranks, .. } if ranks.compiled() > self.alphas.compiled() => {
                ("rank_pattern", ranks.compiled())
            }
            _ => ("alpha_pattern", self.alphas.compiled()),
        };
        let targets = self.targets.compiled();
        let key = if targets > tables {
            "target_modules"
        } else {
            key
        };
        // At most twice the larger of two tables.
        refuse_bomb(targets + 2 * tables, characters).map_err(|why| Error::config(path, key, why))
    }

    /// The rank the configuration claims for `module`, with the key that claims it.
    pub(super) fn claimed_rank(&self, module: &str) -> (usize, String) {
        match &self.kind {
            Kind::Lora { rank, ranks } => match ranks.get(module) {
                Some((key, rank)) => (*rank, format!("rank_pattern.{key}")),
                None => (*rank, "r".to_owned()),
            },
            Kind::AdaLora { init_rank, kept } => match kept.get(module) {
                Some(rank) => (*rank, format!("rank_pattern.{module}.lora_E")),
                None => (*init_rank, "init_r".to_owned()),
            },
        }
    }
}

fn rank_pattern(fields: &Fields<'_>, path: &Path) -> Result<Patterns<usize>> {
    const KEY: &str = "rank_pattern";
    let mut entries = Vec::new();
    for (name, value) in fields.entries(KEY)? {
        let rank = json::count(value, MAX_RANK).ok_or_else(|| {
            let expected = format!("a whole number from 1 to {MAX_RANK}");
            fields.expected(&format!("{KEY}.{name}"), &expected, value)
        })?;
        entries.push((name.to_owned(), rank));
    }
    Patterns::new(entries).map_err(|why| Error::config(path, KEY, why))
}

fn alpha_pattern(fields: &Fields<'_>, path: &Path) -> Result<Patterns<f64>> {
    const KEY: &str = "alpha_pattern";
    let mut entries = Vec::new();
    for (name, value) in fields.entries(KEY)? {
        let alpha = json::finite(value)
            .ok_or_else(|| fields.expected(&format!("{KEY}.{name}"), "a number", value))?;
        entries.push((name.to_owned(), alpha));
    }
    Patterns::new(entries).map_err(|why| Error::config(path, KEY, why))
}

/// AdaLoRA's `rank_pattern`: `{"<module>.lora_E": [bool; init_r]}`, the true ones kept.
fn kept_ranks(fields: &Fields<'_>, init_rank: usize) -> Result<BTreeMap<String, usize>> {
    const KEY: &str = "rank_pattern";
    let mut kept = BTreeMap::new();
    for (name, value) in fields.entries(KEY)? {
        let mask: Option<Vec<bool>> = value
            .as_array()
            .and_then(|a| a.iter().map(Value::as_bool).collect());
        let (Some(mask), Some(module)) = (mask, adalora_module(name)) else {
            let expected = "\"<module>.lora_E\": a list of true and false";
            return Err(fields.expected(&format!("{KEY}.{name}"), expected, value));
        };
        if mask.len() != init_rank {
            let expected = format!("{init_rank} (init_r) times true or false");
            return Err(fields.expected(&format!("{KEY}.{name}"), &expected, value));
        }
        kept.insert(module.to_owned(), mask.iter().filter(|b| **b).count());
    }
    Ok(kept)
}

/// The module of an AdaLoRA mask; PEFT may leave its own prefix and the adapter's name on it.
fn adalora_module(name: &str) -> Option<&str> {
    let name = name
        .strip_suffix(".default")
        .unwrap_or(name)
        .strip_suffix(".lora_E")?;
    Some(name.strip_prefix("base_model.model.").unwrap_or(name))
}

/// Every key whose honest execution would need code that is not there.
fn refuse_unsupported(fields: &Fields<'_>, path: &Path) -> Result<()> {
    // (key, what it is); refused unless absent, null, false, or empty.
    const REFUSED: [(&str, &str); 17] = [
        (
            "use_dora",
            "DoRA rescales the merged weight by learned magnitudes",
        ),
        ("lora_bias", "a bias on lora_B"),
        ("layer_replication", "layers repeated in a new order"),
        ("target_parameters", "factors on bare parameters"),
        (
            "trainable_token_indices",
            "retrained rows of the embedding table",
        ),
        ("use_qalora", "factors over pooled inputs"),
        (
            "alora_invocation_tokens",
            "factors switched on by tokens of the text",
        ),
        ("kasa_config", "KaSA truncates the base's weights"),
        ("monteclora_config", "sampled factors"),
        ("use_bdlora", "block-diagonal factors"),
        ("arrow_config", "routing between adapters"),
        ("lora_ga_config", "LoRA-GA changes the base's weights"),
        ("corda_config", "CorDA changes the base's weights"),
        ("loftq_config", "LoftQ changes the base's weights"),
        ("megatron_config", "Megatron's parallel layers"),
        ("layers_to_replicate", "layers repeated in a new order"),
        ("use_mora", "MoRA's square factors"),
    ];
    for (key, what) in REFUSED {
        let asked = match fields.get(key) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Array(a)) => !a.is_empty(),
            Some(Value::Object(o)) => !o.is_empty(),
            Some(_) => true,
        };
        if asked {
            return Err(Error::unsupported(path, key, what));
        }
    }
    match fields.string("bias")? {
        None | Some("none") => {}
        Some(other) => {
            let why = "the base's biases are frozen and shared; only \"none\" is read";
            return Err(Error::unsupported(path, format!("bias {other:?}"), why));
        }
    }
    refuse_base_changing_init(fields, path)
}

/// `init_lora_weights` is history, except where the initialiser took its part out of the base's weights.
fn refuse_base_changing_init(fields: &Fields<'_>, path: &Path) -> Result<()> {
    match fields.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        // EVA chooses A from activations, orthogonal and gaussian from noise, MiCA B from the weight's minor
        // directions: the base stays as it is.
        Some(Value::String(s))
            if matches!(
                s.to_lowercase().as_str(),
                "gaussian" | "eva" | "orthogonal" | "mica" | "true" | "false"
            ) =>
        {
            Ok(())
        }
        Some(other) => {
            let feature = format!("init_lora_weights {}", json::shown(other));
            let why = "this initialiser changes the base's weights (or is unknown); \
                       convert it to a plain LoRA with peft's path_initial_model_for_weight_conversion";
            Err(Error::unsupported(path, feature, why))
        }
    }
}

fn task_type(fields: &Fields<'_>, path: &Path) -> Result<Option<TaskType>> {
    Ok(Some(match fields.string("task_type")? {
        None => return Ok(None),
        Some("SEQ_CLS") => TaskType::SequenceClassification,
        Some("TOKEN_CLS") => TaskType::TokenClassification,
        Some("FEATURE_EXTRACTION") => TaskType::FeatureExtraction,
        Some(other) => {
            let why = "an encoder's tasks are SEQ_CLS, TOKEN_CLS and FEATURE_EXTRACTION";
            return Err(Error::unsupported(
                path,
                format!("task_type {other:?}"),
                why,
            ));
        }
    }))
}

/// `modules_to_save`, each once, with the heads that PEFT adds to classifiers whether or not they exist.
fn saved_modules(fields: &Fields<'_>, path: &Path, task: Option<TaskType>) -> Result<Vec<String>> {
    const KEY: &str = "modules_to_save";
    let mut names = fields.strings(KEY)?.unwrap_or_default();
    if matches!(
        task,
        Some(TaskType::SequenceClassification | TaskType::TokenClassification)
    ) {
        names.extend(["classifier", "score"].map(str::to_owned));
    }
    refuse_empty_names(path, KEY, &names)?;
    if names.len() > MAX_SAVED {
        let why = format!("{} names, and at most {MAX_SAVED} are read", names.len());
        return Err(Error::config(path, KEY, why));
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

fn refuse_empty_names(path: &Path, key: &str, names: &[String]) -> Result<()> {
    match names.iter().any(String::is_empty) {
        true => Err(Error::config(
            path,
            key,
            "expected names, found an empty one",
        )),
        false => Ok(()),
    }
}

fn targets(fields: &Fields<'_>, path: &Path, saved: Vec<String>) -> Result<Targets> {
    let default = || Selector::list(DEFAULT_TARGETS.map(str::to_owned).to_vec());
    let all_linear = |s: &str| s.eq_ignore_ascii_case("all-linear");
    let spelled = fields.get("target_modules").and_then(Value::as_str);
    let include = match spelled {
        Some(s) if all_linear(s) => None,
        _ => Some(selector(fields, path, "target_modules")?.unwrap_or_else(default)),
    };
    let layers = layers(fields, path)?;
    if spelled.is_some() && layers.is_some() {
        let why = "it goes with a list of target_modules, and that is a string";
        return Err(Error::config(path, "layers_to_transform", why));
    }
    Ok(Targets::new(
        include,
        selector(fields, path, "exclude_modules")?,
        saved,
        layers,
    ))
}

/// A list of names or a regular expression; `None` where the key is absent, null, or an empty string.
fn selector(fields: &Fields<'_>, path: &Path, key: &str) -> Result<Option<Selector>> {
    match fields.get(key) {
        None => Ok(None),
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(Value::String(pattern)) => Selector::expression(pattern)
            .map(Some)
            .map_err(|why| Error::config(path, key, why)),
        Some(value) => {
            let names = json::strings(value).ok_or_else(|| {
                fields.expected(key, "a list of names or a regular expression", value)
            })?;
            refuse_empty_names(path, key, &names)?;
            Ok(Some(Selector::list(names)))
        }
    }
}

fn layers(fields: &Fields<'_>, path: &Path) -> Result<Option<Layers>> {
    const KEY: &str = "layers_to_transform";
    let Some(value) = fields.get(KEY) else {
        return Ok(None);
    };
    let indexes: Option<BTreeSet<i64>> = match value {
        Value::Array(items) => items.iter().map(Value::as_i64).collect(),
        single => single.as_i64().map(|i| BTreeSet::from([i])),
    };
    let indexes =
        indexes.ok_or_else(|| fields.expected(KEY, "a layer index or a list of them", value))?;
    if value.is_array() && indexes.is_empty() {
        return Ok(None); // PEFT: an empty list chooses nothing, so every layer
    }
    let patterns = match fields.get("layers_pattern") {
        None => Vec::new(),
        Some(Value::String(s)) if s.is_empty() => Vec::new(),
        Some(Value::String(s)) => vec![s.clone()],
        Some(list) => json::strings(list)
            .ok_or_else(|| fields.expected("layers_pattern", "a name or a list of names", list))?,
    };
    Layers::new(indexes, &patterns)
        .map(Some)
        .map_err(|why| Error::config(path, "layers_pattern", why))
}
