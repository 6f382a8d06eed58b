//! Which files of a model directory make its tokenizer, and what the configuration beside them changes.
//!
//! Older checkpoints have no `tokenizer.json` but the files of the original tokenizers: `vocab.txt` (WordPiece),
//! `vocab.json` with `merges.txt` (byte-level BPE), a SentencePiece model. [`convert`] and [`sentencepiece`] write
//! each as the `tokenizer.json` that it would be, so that there is one way in. Which of several conventions holds is
//! said by `tokenizer_class`; a class that is not known here is refused, since its ids would be others.
//!
//! `tokenizer_config.json` is heard for what `transformers` lets it override even beside a `tokenizer.json`: letter case,
//! accents, Chinese characters, the prefix space, the names of the special tokens and tokens added later.
//! Its lengths (`model_max_length`) and sides are not read: a limit belongs to the request.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{
    AddedToken, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, processors,
};

use super::{Specials, convert, sentencepiece};
use crate::{Error, Result};

/// The files looked for, best first; the message of a directory without any names them.
const LOOKED_FOR: &str =
    "tokenizer.json, vocab.txt, vocab.json with merges.txt, spm.model, sentencepiece.bpe.model";

/// A tokenizer's description and where it came from.
pub(super) struct Source {
    pub(super) tokenizer_json: Vec<u8>,
    pub(super) path: PathBuf,
    pub(super) overrides: Overrides,
}

/// What the configuration beside a `tokenizer.json` changes.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    lowercase: Option<bool>,
    strip_accents: Option<Option<bool>>,
    chinese: Option<bool>,
    prefix_space: Option<bool>,
    roles: Roles,
    added: Vec<(u32, AddedToken)>,
}

/// Names of the tokens with a role, where a configuration says them.
#[derive(Debug, Default, Clone)]
pub(super) struct Roles {
    pub(super) cls: Option<String>,
    pub(super) sep: Option<String>,
    pub(super) pad: Option<String>,
    pub(super) mask: Option<String>,
    pub(super) unk: Option<String>,
}

/// Finds a tokenizer among the files that `read` gives.
pub(super) fn find(
    read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>,
    directory: &Path,
) -> Result<Source> {
    let config = Config::read(read, directory)?;
    let source = |name: &str, tokenizer_json| {
        Ok(Source {
            tokenizer_json,
            path: directory.join(name),
            overrides: config.overrides()?,
        })
    };
    if let Some(bytes) = read("tokenizer.json")? {
        return source("tokenizer.json", bytes);
    }
    if let Some(bytes) = read("vocab.txt")? {
        let description = convert::word_piece(&bytes, &config, &directory.join("vocab.txt"))?;
        return source("vocab.txt", description.to_string().into_bytes());
    }
    if let Some(vocab) = read("vocab.json")? {
        let Some(merges) = read("merges.txt")? else {
            let path = directory.join("vocab.json");
            return Err(Error::format(&path, "there is no merges.txt beside it"));
        };
        let description = convert::byte_level(&vocab, &merges, &config, directory)?;
        return source("vocab.json", description.to_string().into_bytes());
    }
    for (name, layout) in [
        ("spm.model", sentencepiece::Layout::AsTrained),
        ("sentencepiece.bpe.model", sentencepiece::Layout::Renumbered),
    ] {
        if let Some(model) = read(name)? {
            let description =
                sentencepiece::convert(&model, layout, &config, &directory.join(name))?;
            return source(name, description.to_string().into_bytes());
        }
    }
    Err(Error::format(
        directory,
        format!("no tokenizer: looked for {LOOKED_FOR}"),
    ))
}

/// `tokenizer_config.json`, with `special_tokens_map.json` and `added_tokens.json` behind it.
pub(super) struct Config {
    pub(super) path: PathBuf,
    main: Map<String, Value>,
    special_map: Map<String, Value>,
    added_path: PathBuf,
    added: Map<String, Value>,
}

impl Config {
    fn read(read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>, directory: &Path) -> Result<Self> {
        let object = |name: &str| -> Result<Map<String, Value>> {
            match read(name)? {
                None => Ok(Map::new()),
                Some(bytes) => serde_json::from_slice(&bytes)
                    .map_err(|e| Error::format(&directory.join(name), e.to_string())),
            }
        };
        Ok(Config {
            path: directory.join("tokenizer_config.json"),
            main: object("tokenizer_config.json")?,
            special_map: object("special_tokens_map.json")?,
            added_path: directory.join("added_tokens.json"),
            added: object("added_tokens.json")?,
        })
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::config(
            &self.path,
            key,
            format!("expected {expected}, found {found}"),
        )
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.main.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// The class that `transformers` would use, without `Tokenizer` and `Fast`; empty where it is not said.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it is not one of `known`.
    pub(super) fn class(&self, known: &[&'static str]) -> Result<&'static str> {
        let Some(said) = self.main.get("tokenizer_class").filter(|v| !v.is_null()) else {
            return Ok("");
        };
        let name = said
            .as_str()
            .ok_or_else(|| self.wrong("tokenizer_class", "a name", said))?;
        let name = name.strip_suffix("Fast").unwrap_or(name);
        let name = name.strip_suffix("Tokenizer").unwrap_or(name);
        known.iter().find(|&&other| other == name).copied().ok_or_else(|| {
            let why = "its old files are not converted; save it with transformers as a tokenizer.json";
            Error::unsupported(&self.path, format!("tokenizer_class {said}"), why)
        })
    }

    /// A token by its role: a string, or an object with `content`.
    fn role(&self, role: &str) -> Result<Option<String>> {
        for map in [&self.main, &self.special_map] {
            match map.get(role) {
                None | Some(Value::Null) => continue,
                Some(Value::String(s)) => return Ok(Some(s.clone())),
                Some(object) => match object.get("content").and_then(Value::as_str) {
                    Some(s) => return Ok(Some(s.to_owned())),
                    None => return Err(self.wrong(role, "a token", object)),
                },
            }
        }
        Ok(None)
    }

    /// Whether the space before a role's token belongs to it, where the files say so.
    pub(super) fn strips_left(&self, role: &str) -> Option<bool> {
        let of = |map: &Map<String, Value>| map.get(role)?.get("lstrip")?.as_bool();
        of(&self.main).or_else(|| of(&self.special_map))
    }

    pub(super) fn roles(&self) -> Result<Roles> {
        Ok(Roles {
            cls: self.role("cls_token")?,
            sep: self.role("sep_token")?,
            pad: self.role("pad_token")?,
            mask: self.role("mask_token")?,
            unk: self.role("unk_token")?,
        })
    }

    fn overrides(&self) -> Result<Overrides> {
        let mut added = Vec::new();
        if let Some(value) = self.main.get("added_tokens_decoder") {
            let key = "added_tokens_decoder";
            let tokens = value.as_object();
            let tokens = tokens.ok_or_else(|| self.wrong(key, "an object", value))?;
            for (id, token) in tokens {
                let parsed = id
                    .parse()
                    .ok()
                    .zip(serde_json::from_value(token.clone()).ok());
                added
                    .push(parsed.ok_or_else(|| self.wrong(key, "id: token", &json!({id: token})))?);
            }
        }
        for (content, id) in &self.added {
            let id = id
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| {
                    Error::config(
                        &self.added_path,
                        content,
                        format!("expected an id, found {id}"),
                    )
                })?;
            if !added.iter().any(|(other, _)| *other == id) {
                added.push((id, AddedToken::from(content.clone(), false)));
            }
        }
        added.sort_by_key(|(id, _)| *id);
        Ok(Overrides {
            lowercase: self.flag("do_lower_case")?,
            strip_accents: match self.main.contains_key("strip_accents") {
                true => Some(self.flag("strip_accents")?),
                false => None,
            },
            chinese: self.flag("tokenize_chinese_chars")?,
            prefix_space: self.flag("add_prefix_space")?,
            roles: self.roles()?,
            added,
        })
    }
}

impl Overrides {
    /// Changes a loaded tokenizer as the configuration says.
    pub(super) fn apply(&self, inner: &mut tokenizers::Tokenizer) -> Result<(), String> {
        if let Some(NormalizerWrapper::BertNormalizer(old)) = inner.get_normalizer() {
            let mut new = *old;
            new.lowercase = self.lowercase.unwrap_or(old.lowercase);
            new.strip_accents = self.strip_accents.unwrap_or(old.strip_accents);
            new.handle_chinese_chars = self.chinese.unwrap_or(old.handle_chinese_chars);
            inner
                .with_normalizer(Some(NormalizerWrapper::BertNormalizer(new)))
                .map_err(|e| e.to_string())?;
        }
        if let (Some(prefix), Some(PreTokenizerWrapper::ByteLevel(old))) =
            (self.prefix_space, inner.get_pre_tokenizer())
        {
            let new = old.add_prefix_space(prefix);
            inner.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(new)));
            if let Some(PostProcessorWrapper::Roberta(old)) = inner.get_post_processor() {
                let new: processors::roberta::RobertaProcessing =
                    old.clone().add_prefix_space(prefix);
                inner.with_post_processor(Some(PostProcessorWrapper::Roberta(new)));
            }
        }
        for (id, token) in &self.added {
            let known = inner.get_added_vocabulary().get_vocab().get(&token.content);
            if known.is_none() {
                inner
                    .add_tokens([token.clone()])
                    .map_err(|e| e.to_string())?;
            }
            match inner.token_to_id(&token.content) {
                Some(found) if found == *id => {}
                found => {
                    let found = found.map_or("none".to_owned(), |id| id.to_string());
                    let content = &token.content;
                    return Err(format!(
                        "its configuration gives {content:?} id {id}, and the vocabulary {found}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Ids of the tokens with a role, under the names the configuration says, else under the usual ones.
    pub(super) fn specials(&self, inner: &tokenizers::Tokenizer) -> Specials {
        let id = |said: &Option<String>, usual: &[&str]| match said {
            Some(name) => inner.token_to_id(name),
            None => usual.iter().find_map(|name| inner.token_to_id(name)),
        };
        Specials {
            cls: id(&self.roles.cls, &["[CLS]", "<s>"]),
            sep: id(&self.roles.sep, &["[SEP]", "</s>"]),
            pad: id(&self.roles.pad, &["[PAD]", "<pad>"]),
            mask: id(&self.roles.mask, &["[MASK]", "<mask>"]),
            unk: id(&self.roles.unk, &["[UNK]", "<unk>"]),
        }
    }
}
