//! Reading `config.json`: typed access with bounds, and the rule that no key is passed over in silence.
//!
//! Every key that a family's parser asks for is remembered. At the end ([`Config::finish`]) each key of the file must
//! have been asked for, or be known to leave inference alone ([`HARMLESS`], and the family's own list), or say
//! nothing (null, false, empty). Any other key is refused by name: it may change the answer, and an answer that
//! differs from what the model's makers computed is worse than none.
//!
//! Not here: what the keys mean (the families' files), and whether the tensors agree (the loader).

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use serde_json::{Map, Value};

use crate::{Error, Result, kernel::activation::Activation};

/// The largest width, vocabulary or number of positions taken; no encoder is within a factor of ten of it.
const LARGEST: usize = 1 << 24;
/// The most positions taken where no table in the checkpoint bounds them.
const LONGEST: usize = 1 << 17;
/// The longest file taken, in bytes: a hundred thousand labels need three million.
const LONGEST_FILE: usize = 16 << 20;
/// The most layers taken.
const MOST_LAYERS: usize = 1 << 10;

/// Keys that do not change what an encoder computes at inference: how it was made, trained, stored or described,
/// settings of text generation that old versions of transformers wrote into every configuration, and ids that
/// belong to the tokenizer.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_name_or_path",
    "_num_labels",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cls_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "language",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sbert_ce_default_activation_function",
    "sentence_transformers",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

/// A configuration while it is read.
#[derive(Debug)]
pub(super) struct Config<'a> {
    path: &'a Path,
    all: Map<String, Value>,
    asked: RefCell<BTreeSet<&'static str>>,
}

/// The numbers that every encoder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) ffn: usize,
}

impl<'a> Config<'a> {
    pub(super) fn parse(bytes: &[u8], path: &'a Path) -> Result<Self> {
        if bytes.len() > LONGEST_FILE {
            let why = format!("{} bytes, expected at most {LONGEST_FILE}", bytes.len());
            return Err(Error::format(path, why));
        }
        // serde_json ends at a depth of 128, so that deep nesting is an error and no overflow of the stack.
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|e| Error::format(path, format!("not JSON: {e}")))?;
        match value {
            Value::Object(all) => Ok(Self {
                path,
                all,
                asked: RefCell::default(),
            }),
            _ => Err(Error::format(path, "expected a JSON object")),
        }
    }

    pub(super) fn error(&self, key: &str, why: impl Into<String>) -> Error {
        Error::config(self.path, key, why)
    }

    /// The value of a key; `None` where it is absent or null.
    pub(super) fn get(&self, key: &'static str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key);
        self.all.get(key).filter(|v| !v.is_null())
    }

    /// Whether a key is there and says null.
    pub(super) fn is_null(&self, key: &'static str) -> bool {
        self.all.get(key).is_some_and(Value::is_null)
    }

    fn expected(&self, key: &str, what: &str, found: &Value) -> Error {
        let mut text = found.to_string();
        if text.len() > 80 {
            text = format!("{}...", text.chars().take(80).collect::<String>());
        }
        self.error(key, format!("expected {what}, found {text}"))
    }

    /// A whole number of `from ..= to`.
    pub(super) fn number(
        &self,
        key: &'static str,
        default: Option<usize>,
        from: usize,
        to: usize,
    ) -> Result<usize> {
        let Some(value) = self.get(key) else {
            return default
                .ok_or_else(|| self.error(key, "expected a number, and it is not there"));
        };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number
            .filter(|n| (from..=to).contains(n))
            .ok_or_else(|| self.expected(key, &format!("a whole number of {from} to {to}"), value))
    }

    /// A width or a count: at least 1.
    pub(super) fn size(&self, key: &'static str, default: usize) -> Result<usize> {
        self.number(key, Some(default), 1, LARGEST)
    }

    /// The most tokens of a text, where nothing but the configuration bounds them.
    pub(super) fn positions(&self, key: &'static str, default: usize) -> Result<usize> {
        self.number(key, Some(default), 1, LONGEST)
    }

    /// A count that may be 0.
    pub(super) fn count(&self, key: &'static str, default: usize) -> Result<usize> {
        self.number(key, Some(default), 0, LARGEST)
    }

    /// A number above 0 and no larger than `to`.
    pub(super) fn positive(&self, key: &'static str, default: f64, to: f64) -> Result<f32> {
        let Some(value) = self.get(key) else {
            return Ok(default as f32);
        };
        let number = value
            .as_f64()
            .filter(|&x| x > 0.0 && x <= to && x as f32 > 0.0);
        let number = number.map(|x| x as f32);
        number.ok_or_else(|| self.expected(key, &format!("a number above 0, at most {to}"), value))
    }

    /// The epsilon of layer norms.
    pub(super) fn epsilon(&self, key: &'static str, default: f64) -> Result<f32> {
        self.positive(key, default, 1.0)
    }

    /// True or false.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.expected(key, "true or false", value)),
        }
    }

    /// A text.
    pub(super) fn text<'s>(&'s self, key: &'static str, default: &'s str) -> Result<&'s str> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_str()
                .ok_or_else(|| self.expected(key, "a text", value)),
        }
    }

    /// One of a few words, with what each stands for.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> Result<T> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        let chosen = choices.iter().find(|c| value.as_str() == Some(c.0));
        chosen.map(|c| c.1).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|c| c.0).collect();
            self.expected(key, &format!("one of {}", words.join(", ")), value)
        })
    }

    /// An activation function, by the name that transformers gives it.
    pub(super) fn activation(&self, key: &'static str, default: Activation) -> Result<Activation> {
        self.choice(key, default, &super::head::ACTIVATIONS)
    }

    /// A key that is only supported at some values (the first is what is assumed where it is absent).
    pub(super) fn only(&self, key: &'static str, values: &[Value]) -> Result<()> {
        match self.get(key) {
            Some(value) if !values.iter().any(|v| same(v, value)) => {
                let values: Vec<String> = values.iter().map(Value::to_string).collect();
                Err(self.expected(
                    key,
                    &format!("{} (others are not supported)", values.join(" or ")),
                    value,
                ))
            }
            _ => Ok(()),
        }
    }

    /// Sizes under these names: vocabulary, hidden width, layers, heads, feed-forward width.
    pub(super) fn sizes(&self, keys: [&'static str; 5], defaults: [usize; 5]) -> Result<Sizes> {
        let [vocab, hidden, layers, heads, ffn] = keys;
        let sizes = Sizes {
            vocab: self.size(vocab, defaults[0])?,
            hidden: self.size(hidden, defaults[1])?,
            layers: self.number(layers, Some(defaults[2]), 1, MOST_LAYERS)?,
            heads: self.size(heads, defaults[3])?,
            ffn: self.size(ffn, defaults[4])?,
        };
        if !sizes.hidden.is_multiple_of(sizes.heads) {
            let why = format!(
                "{} heads do not divide {hidden} {}",
                sizes.heads, sizes.hidden
            );
            return Err(self.error(heads, why));
        }
        Ok(sizes)
    }

    /// Sizes under the names that most families use.
    pub(super) fn usual_sizes(&self, defaults: [usize; 5]) -> Result<Sizes> {
        const KEYS: [&str; 5] = [
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        ];
        self.sizes(KEYS, defaults)
    }

    /// Id of the padding token, which must be one.
    pub(super) fn pad_id(&self, default: usize, vocab: usize) -> Result<u32> {
        let id = match self.get("pad_token_id") {
            // Written as -1 by those who mean none.
            Some(value) if value.as_i64() == Some(-1) => 0,
            _ => self.number("pad_token_id", Some(default), 0, LARGEST)?,
        };
        if id >= vocab && self.get("pad_token_id").is_some() {
            return Err(self.error(
                "pad_token_id",
                format!("{id} is not below vocab_size {vocab}"),
            ));
        }
        Ok(id as u32)
    }

    /// Refuses what makes an encoder something else, in every family, and code of a model's own, except in those
    /// families (`own_code`) whose own code is what the facts here are of.
    pub(super) fn encoder_only(&self, own_code: bool) -> Result<()> {
        let no = [Value::Bool(false)];
        self.only("is_decoder", &no)?;
        self.only("add_cross_attention", &no)?;
        self.only("is_encoder_decoder", &no)?;
        self.only("pruned_heads", &[Value::Object(Map::new())])?;
        let models = |map: &Map<String, Value>| map.keys().any(|k| k.contains("Model"));
        match self.get("auto_map") {
            Some(map) if !own_code && map.as_object().is_none_or(models) => {
                let why =
                    "the model has code of its own; only the classes of transformers are supported";
                Err(self.error("auto_map", why))
            }
            _ => Ok(()),
        }
    }

    /// Refuses every key that was not asked for, is not harmless, and says something.
    pub(super) fn finish(&self, family: &str, harmless: &[&str]) -> Result<()> {
        let asked = self.asked.borrow();
        let says = |v: &Value| match v {
            Value::Null | Value::Bool(false) => false,
            Value::String(s) => !s.is_empty(),
            Value::Array(a) => !a.is_empty(),
            Value::Object(o) => !o.is_empty(),
            Value::Bool(true) | Value::Number(_) => true,
        };
        let unknown: Vec<&str> = self
            .all
            .iter()
            .filter(|(key, value)| {
                let key = key.as_str();
                says(value)
                    && !asked.contains(key)
                    && !HARMLESS.contains(&key)
                    && !harmless.contains(&key)
            })
            .map(|(key, _)| key.as_str())
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let known = asked.len() + HARMLESS.len() + harmless.len();
        let why = format!(
            "not among the {known} keys known for {family}, so it might change the answer; remove it if it does not"
        );
        Err(self.error(&unknown.join(", "), why))
    }
}

/// Equality in which 0 and 0.0 are the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
