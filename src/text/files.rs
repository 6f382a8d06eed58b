//! Which files of a model directory make its tokenizer, and how the older ones become a `tokenizer.json`.
//!
//! Older checkpoints have no `tokenizer.json` but the files of the original tokenizers: `vocab.txt` (WordPiece),
//! `vocab.json` with `merges.txt` (byte-level BPE), a SentencePiece model. Each is written here as the
//! `tokenizer.json` that `transformers` would convert it to, so that there is one way in.
//!
//! `tokenizer_config.json` is heard for what `transformers` lets it override even beside a `tokenizer.json`: letter case,
//! accents, Chinese characters, the prefix space, the names of the special tokens and tokens added later.
//! Its lengths (`model_max_length`) and sides are not read: a limit belongs to the request.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::{
    AddedToken, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, processors,
};

use super::Specials;
use crate::{Error, Result};

/// The files looked for, best first; the message of a directory without any names them.
const LOOKED_FOR: &str = "tokenizer.json, vocab.txt, vocab.json with merges.txt";

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
struct Roles {
    cls: Option<String>,
    sep: Option<String>,
    pad: Option<String>,
    mask: Option<String>,
    unk: Option<String>,
}

/// How two texts are joined.
#[derive(Clone, Copy, PartialEq)]
enum Join {
    /// `[CLS] A [SEP] B [SEP]`, B of type 1.
    OneSeparator,
    /// `<s> A </s> </s> B </s>`, all of type 0.
    TwoSeparators,
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
        let description = word_piece(&bytes, &config, &directory.join("vocab.txt"))?;
        return source("vocab.txt", description.to_string().into_bytes());
    }
    if let Some(vocab) = read("vocab.json")? {
        let Some(merges) = read("merges.txt")? else {
            let path = directory.join("vocab.json");
            return Err(Error::format(&path, "there is no merges.txt beside it"));
        };
        let description = byte_level(&vocab, &merges, &config, directory)?;
        return source("vocab.json", description.to_string().into_bytes());
    }
    Err(Error::format(
        directory,
        format!("no tokenizer: looked for {LOOKED_FOR}"),
    ))
}

/// `tokenizer_config.json`, with `special_tokens_map.json` and `added_tokens.json` behind it.
struct Config {
    path: PathBuf,
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

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.main.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// The class that `transformers` would use; empty where it is not said.
    fn class(&self) -> &str {
        (self.main.get("tokenizer_class").and_then(Value::as_str)).unwrap_or("")
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
    fn strips_left(&self, role: &str) -> Option<bool> {
        let of = |map: &Map<String, Value>| map.get(role)?.get("lstrip")?.as_bool();
        of(&self.main).or_else(|| of(&self.special_map))
    }

    fn roles(&self) -> Result<Roles> {
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

/// `vocab.txt`: one token a line, its id the line's number from 0.
fn word_piece(vocab: &[u8], config: &Config, path: &Path) -> Result<Value> {
    let text = std::str::from_utf8(vocab).map_err(|e| Error::format(path, e.to_string()))?;
    let mut table = Map::new();
    for (id, line) in lines(text).enumerate() {
        table.insert(line.to_owned(), json!(id));
    }
    if config.flag("do_basic_tokenize")? == Some(false) {
        let why = "words are always split before WordPiece";
        return Err(Error::unsupported(
            &config.path,
            "do_basic_tokenize: false",
            why,
        ));
    }
    let join = match config.class().starts_with("MPNet") {
        true => Join::TwoSeparators,
        false => Join::OneSeparator,
    };
    let usual = match join {
        Join::OneSeparator => ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"],
        Join::TwoSeparators => ["<s>", "</s>", "[UNK]", "<pad>", "<mask>"],
    };
    let (names, added) = special_tokens(&table, config, usual, path)?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": config.flag("tokenize_chinese_chars")?.unwrap_or(true),
            "strip_accents": config.flag("strip_accents")?,
            "lowercase": config.flag("do_lower_case")?.unwrap_or(true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template(&table, &names[0], &names[1], join),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": names[2],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": table,
        },
    }))
}

/// `vocab.json` (token to id) and `merges.txt` (two tokens a line, first merge first).
fn byte_level(vocab: &[u8], merges: &[u8], config: &Config, directory: &Path) -> Result<Value> {
    let path = directory.join("vocab.json");
    let table: Map<String, Value> =
        serde_json::from_slice(vocab).map_err(|e| Error::format(&path, e.to_string()))?;
    if let Some((token, id)) = table.iter().find(|(_, id)| !id.is_u64()) {
        return Err(Error::config(
            &path,
            token,
            format!("expected an id, found {id}"),
        ));
    }
    let merges_path = directory.join("merges.txt");
    let text =
        std::str::from_utf8(merges).map_err(|e| Error::format(&merges_path, e.to_string()))?;
    let mut pairs = Vec::new();
    for (number, line) in lines(text).enumerate() {
        if line.is_empty() || (number == 0 && line.starts_with("#version")) {
            continue;
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => pairs.push(json!([left, right])),
            _ => {
                let why = format!("line {}: expected two tokens, found {line:?}", number + 1);
                return Err(Error::format(&merges_path, why));
            }
        }
    }
    let join = match config.class().starts_with("Deberta") {
        true => Join::OneSeparator,
        false => Join::TwoSeparators,
    };
    let usual = match join {
        Join::OneSeparator => ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"],
        Join::TwoSeparators => ["<s>", "</s>", "<unk>", "<pad>", "<mask>"],
    };
    let (names, added) = special_tokens(&table, config, usual, &path)?;
    let prefix = config.flag("add_prefix_space")?.unwrap_or(false);
    let trim = config.flag("trim_offsets")?.unwrap_or(true);
    let finish = match join {
        Join::OneSeparator => template(&table, &names[0], &names[1], join),
        Join::TwoSeparators => json!({
            "type": "RobertaProcessing",
            "cls": [names[0], table[&names[0]]],
            "sep": [names[1], table[&names[1]]],
            "trim_offsets": trim,
            "add_prefix_space": prefix,
        }),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": true},
        "post_processor": finish,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
            "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "vocab": table,
            "merges": pairs,
        },
    }))
}

/// The names of cls, sep and unk (which must be in the vocabulary), and all special tokens that it has, as
/// `tokenizer.json` writes them. `usual`: cls, sep, unk, pad, mask.
fn special_tokens(
    table: &Map<String, Value>,
    config: &Config,
    usual: [&str; 5],
    path: &Path,
) -> Result<([String; 3], Vec<Value>)> {
    let roles = config.roles()?;
    let said = [roles.cls, roles.sep, roles.unk, roles.pad, roles.mask];
    let mut names = usual.map(str::to_owned);
    for (name, said) in names.iter_mut().zip(said) {
        *name = said.unwrap_or(std::mem::take(name));
    }
    let [cls, sep, unk, pad, mask] = names;
    for name in [&cls, &sep, &unk] {
        if !table.contains_key(name) {
            return Err(Error::format(
                path,
                format!("the vocabulary has no {name:?}"),
            ));
        }
    }
    let mut tokens: Vec<Value> = Vec::new();
    for name in [&pad, &unk, &cls, &sep, &mask] {
        let Some(id) = table.get(name) else { continue };
        if tokens.iter().any(|token| &token["id"] == id) {
            continue;
        }
        // The space before a masked word belongs to the mask where tokens carry their space.
        let strips = config.strips_left("mask_token").unwrap_or(name == "<mask>");
        tokens.push(json!({
            "id": id, "content": name, "special": true, "normalized": false,
            "single_word": false, "rstrip": false, "lstrip": name == &mask && strips,
        }));
    }
    Ok(([cls, sep, unk], tokens))
}

/// The special tokens around one text and around two.
fn template(table: &Map<String, Value>, cls: &str, sep: &str, join: Join) -> Value {
    let b = u32::from(join == Join::OneSeparator); // the second text's type
    let token = |name: &str, kind: u32| json!({"SpecialToken": {"id": name, "type_id": kind}});
    let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let single = vec![token(cls, 0), text("A", 0), token(sep, 0)];
    let mut pair = single.clone();
    if join == Join::TwoSeparators {
        pair.push(token(sep, 0));
    }
    pair.extend([text("B", b), token(sep, b)]);
    let of = |name: &str| json!({"id": name, "ids": [table[name]], "tokens": [name]});
    json!({
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {cls: of(cls), sep: of(sep)},
    })
}

/// Lines as a text file has them: ended by LF or CR LF, no empty one after the last.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
}
