//! The settings of sentence-transformers: how token rows become one embedding, and prompts.
//!
//! `modules.json` must be a transformer, a pooling, and perhaps a normalisation, in this order; another module (a
//! dense layer, say) would change the embedding and is refused by name. Where there is no `modules.json` an embedding is the
//! mean over tokens, as sentence-transformers itself makes it for a bare encoder.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Pooling;
use crate::{Error, Result, weights::Source};

/// What sentence-transformers' files say.
#[derive(Debug, Clone, PartialEq)]
pub struct SentenceSpec {
    /// How a sequence becomes one row.
    pub pooling: Pooling,
    /// Whether the row is divided by its L2 norm.
    pub normalize: bool,
    /// The most tokens of one text, special tokens included, where they say it.
    pub max_tokens: Option<usize>,
    /// Texts put before a text, by name.
    pub prompts: BTreeMap<String, String>,
    /// The prompt taken where none is asked for.
    pub default_prompt: Option<String>,
}

impl Default for SentenceSpec {
    fn default() -> Self {
        Self {
            pooling: Pooling::Mean,
            normalize: false,
            max_tokens: None,
            prompts: BTreeMap::new(),
            default_prompt: None,
        }
    }
}

/// The longest of these files taken, in bytes.
const LONGEST: u64 = 1 << 20;
const MODULES: &str = "modules.json";
const PROMPTS: &str = "config_sentence_transformers.json";

impl SentenceSpec {
    /// Reads the files that are there.
    ///
    /// # Errors
    /// When one of them is not what it should be, or asks for what is not done here; by file and key.
    pub fn read(source: &Source) -> Result<Self> {
        let mut spec = Self::default();
        spec.read_prompts(source)?;
        let Some(bytes) = source.read_at_most(MODULES, LONGEST)? else {
            return Ok(spec);
        };
        let path = source.path(MODULES);
        let modules: Vec<Map<String, Value>> = serde_json::from_slice(&bytes)
            .map_err(|e| Error::format(&path, format!("not a list of modules: {e}")))?;
        let mut seen = Vec::new();
        for module in &modules {
            let text = |key: &str| module.get(key).and_then(Value::as_str);
            let class = text("type").unwrap_or_default();
            let kind = class.rsplit('.').next().unwrap_or_default();
            let folder = text("path").unwrap_or_default();
            match (kind, seen.as_slice()) {
                ("Transformer", []) => spec.read_limit(source, folder)?,
                ("Pooling", ["Transformer"]) => spec.read_pooling(source, folder)?,
                ("Normalize", ["Transformer", "Pooling"]) => spec.normalize = true,
                _ => {
                    let why = format!(
                        "expected Transformer, Pooling and perhaps Normalize, in this order; found {class:?} after {seen:?}"
                    );
                    return Err(Error::config(&path, "type", why));
                }
            }
            seen.push(kind);
        }
        match seen.len() {
            0 | 1 => Err(Error::config(
                &path,
                "type",
                "expected a Pooling module, and there is none",
            )),
            _ => Ok(spec),
        }
    }

    /// `sentence_bert_config.json`, beside the transformer.
    fn read_limit(&mut self, source: &Source, folder: &str) -> Result<()> {
        if !folder.is_empty() {
            let why = format!("expected the transformer in the directory itself, found {folder:?}");
            return Err(Error::config(&source.path(MODULES), "path", why));
        }
        // Under the names that sentence-transformers gave it for some older families.
        const NAMES: [&str; 7] = [
            "sentence_bert_config.json",
            "sentence_roberta_config.json",
            "sentence_distilbert_config.json",
            "sentence_camembert_config.json",
            "sentence_albert_config.json",
            "sentence_xlm-roberta_config.json",
            "sentence_xlnet_config.json",
        ];
        for name in NAMES {
            let Some(all) = object(source, name)? else {
                continue;
            };
            let wrong = |why| Err(Error::config(&source.path(name), "max_seq_length", why));
            match all.get("max_seq_length") {
                None | Some(Value::Null) => {}
                Some(value) => match value.as_u64() {
                    Some(n @ 1..) => self.max_tokens = usize::try_from(n).ok(),
                    _ => return wrong(format!("expected a number above 0, found {value}")),
                },
            }
            break;
        }
        Ok(())
    }

    fn read_pooling(&mut self, source: &Source, folder: &str) -> Result<()> {
        const NONE: &str = "expected exactly one way of pooling";
        let name = format!("{folder}/config.json");
        let path = source.path(&name);
        let Some(all) = object(source, &name)? else {
            return Err(Error::format(&path, "not found, and modules.json names it"));
        };
        let mut ways: Vec<&str> = Vec::new();
        for (key, value) in &all {
            match (key.as_str(), value) {
                (way, Value::Bool(true)) if way.starts_with("pooling_mode_") => ways.push(way),
                // Newer versions write one word, or a list of them.
                ("pooling_mode", Value::String(way)) => ways.push(way),
                ("pooling_mode", Value::Array(list)) => {
                    ways.extend(list.iter().filter_map(Value::as_str))
                }
                ("include_prompt", Value::Bool(false)) => {
                    let why = "leaving the prompt out of the pooling is not supported";
                    return Err(Error::config(&path, key.as_str(), why));
                }
                _ => {}
            }
        }
        let way = match ways.as_slice() {
            [way] => *way,
            [] => {
                return Err(Error::config(
                    &path,
                    "pooling_mode",
                    format!("{NONE}, found none"),
                ));
            }
            several => {
                let why = format!("{NONE}, found {}", several.join(", "));
                return Err(Error::config(&path, "pooling_mode", why));
            }
        };
        self.pooling = match way {
            "pooling_mode_cls_token" | "cls" => Pooling::Cls,
            "pooling_mode_mean_tokens" | "mean" => Pooling::Mean,
            "pooling_mode_max_tokens" | "max" => Pooling::Max,
            "pooling_mode_lasttoken" | "lasttoken" => Pooling::Last,
            other => {
                let why = "not supported; cls, mean, max and lasttoken are";
                return Err(Error::config(&path, other, why));
            }
        };
        Ok(())
    }

    fn read_prompts(&mut self, source: &Source) -> Result<()> {
        let path = source.path(PROMPTS);
        let Some(all) = object(source, PROMPTS)? else {
            return Ok(());
        };
        let wrong = |key: &str, why: String| Err(Error::config(&path, key, why));
        match all.get("prompts") {
            None | Some(Value::Null) => {}
            Some(Value::Object(prompts)) => {
                for (name, prompt) in prompts {
                    let Some(prompt) = prompt.as_str() else {
                        return wrong(
                            "prompts",
                            format!("expected a text for {name:?}, found {prompt}"),
                        );
                    };
                    self.prompts.insert(name.clone(), prompt.to_owned());
                }
            }
            Some(other) => return wrong("prompts", format!("expected an object, found {other}")),
        }
        match all.get("default_prompt_name") {
            None | Some(Value::Null) => {}
            Some(Value::String(name)) if self.prompts.contains_key(name) => {
                self.default_prompt = Some(name.clone());
            }
            Some(other) => {
                return wrong(
                    "default_prompt_name",
                    format!("{other} is not one of the prompts"),
                );
            }
        }
        Ok(())
    }
}

/// A file that is an object, if it is there.
fn object(source: &Source, name: &str) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = source.read_at_most(name, LONGEST)? else {
        return Ok(None);
    };
    let all = serde_json::from_slice(&bytes);
    all.map(Some)
        .map_err(|e| Error::format(&source.path(name), format!("not a JSON object: {e}")))
}

#[cfg(test)]
mod tests;
