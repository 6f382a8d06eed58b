//! The original tokenizers' files as `tokenizer.json`: `vocab.txt` (WordPiece) and `vocab.json` with `merges.txt`
//! (byte-level BPE), by the conventions that `transformers` has for their classes.
//!
//! Whether the result works is not asked here; it passes the same door as any other.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::files::Config;
use crate::{Error, Result};

/// Classes whose `vocab.txt` is read as BERT's is.
const WORD_PIECE: [&str; 7] = [
    "Bert",
    "DistilBert",
    "Electra",
    "ConvBert",
    "MobileBert",
    "SqueezeBert",
    "MPNet",
];

/// Classes whose `vocab.json` and `merges.txt` are read as RoBERTa's are.
const BYTE_LEVEL: [&str; 2] = ["Roberta", "Longformer"];

/// How two texts are joined.
#[derive(Clone, Copy)]
pub(super) enum Join {
    /// `[CLS] A [SEP] B [SEP]`, B of type 1.
    OneSeparator,
    /// `<s> A </s> </s> B </s>`, all of type 0.
    TwoSeparators,
}

/// `vocab.txt`: one token a line, its id the line's number from 0.
pub(super) fn word_piece(vocab: &[u8], config: &Config, path: &Path) -> Result<Value> {
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
    let (join, usual) = match config.class(&WORD_PIECE)? {
        "MPNet" => (
            Join::TwoSeparators,
            ["<s>", "</s>", "[UNK]", "<pad>", "<mask>"],
        ),
        _ => (
            Join::OneSeparator,
            ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"],
        ),
    };
    let (names, added) = special_tokens(&table, config, usual, path)?;
    let id = |name| id_of(&table, name);
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
        "post_processor": template(id(&names[0]), id(&names[1]), join),
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
pub(super) fn byte_level(
    vocab: &[u8],
    merges: &[u8],
    config: &Config,
    directory: &Path,
) -> Result<Value> {
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
    config.class(&BYTE_LEVEL)?;
    let usual = ["<s>", "</s>", "<unk>", "<pad>", "<mask>"];
    let (names, added) = special_tokens(&table, config, usual, &path)?;
    let prefix = config.flag("add_prefix_space")?.unwrap_or(false);
    let trim = config.flag("trim_offsets")?.unwrap_or(true);
    let finish = json!({
        "type": "RobertaProcessing",
        "cls": [names[0], table[&names[0]]],
        "sep": [names[1], table[&names[1]]],
        "trim_offsets": trim,
        "add_prefix_space": prefix,
    });
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
pub(super) fn template(cls: (&str, u64), sep: (&str, u64), join: Join) -> Value {
    let ((cls, cls_id), (sep, sep_id)) = (cls, sep);
    let token = |name: &str, kind: u32| json!({"SpecialToken": {"id": name, "type_id": kind}});
    let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let single = vec![token(cls, 0), text("A", 0), token(sep, 0)];
    let mut pair = single.clone();
    let second = match join {
        Join::OneSeparator => 1,
        Join::TwoSeparators => {
            pair.push(token(sep, 0));
            0
        }
    };
    pair.extend([text("B", second), token(sep, second)]);
    let of = |name: &str, id: u64| json!({"id": name, "ids": [id], "tokens": [name]});
    json!({
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {cls: of(cls, cls_id), sep: of(sep, sep_id)},
    })
}

fn id_of<'a>(table: &Map<String, Value>, name: &'a str) -> (&'a str, u64) {
    (
        name,
        table.get(name).and_then(Value::as_u64).unwrap_or_default(),
    )
}

/// Lines as a text file has them: ended by LF or CR LF, no empty one after the last.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
}
