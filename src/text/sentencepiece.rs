//! A SentencePiece model (a protobuf file) as `tokenizer.json`: its pieces and scores for Unigram, its character map
//! for the normalizer.
//!
//! Of the protobuf only what is needed is read: `ModelProto.pieces` (1) with piece (1), score (2), type (3);
//! `trainer_spec` (2) with model_type (3) and unk_id (40); `normalizer_spec` (3) with precompiled_charsmap (2) and
//! the two flags that change an answer. Lengths are checked against what is there before anything is taken.
//!
//! Two conventions of numbering exist, by the model's file name: ids as trained (`spm.model`: DeBERTa v2 and v3), and
//! fairseq's, where four special tokens were put in front of the pieces (`sentencepiece.bpe.model`: XLM-RoBERTa).
//! For `spm.model` the normalizer is the model's own character map, as it was trained with and as `transformers` 4 wrote
//! it into each `tokenizer.json`; the class of `transformers` 5 leaves it out when it reads `spm.model`, and
//! full-width letters and ligatures become unknown. As in both, bytes are not fallen back to: what the pieces cannot
//! spell is one unknown token.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    convert::{Join, template},
    files::Config,
};
use crate::{Error, Result};

/// What stands for a space in pieces.
const SPACE: &str = "▁";

/// How pieces are numbered, and what surrounds a text.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Layout {
    /// As in the model; `[CLS] A [SEP] B [SEP]`, and a `[MASK]` behind the last piece.
    AsTrained,
    /// `<s>`, `<pad>`, `</s>`, `<unk>`, the pieces from the fourth on, `<mask>`; `<s> A </s> </s> B </s>`.
    Renumbered,
}

/// What is read of a model.
struct Model {
    pieces: Vec<Piece>,
    unigram: bool,
    unk: usize,
    charsmap: Vec<u8>,
    /// A space before the text, and runs of spaces made one: what every encoder's model has.
    usual_spaces: bool,
}

#[derive(Default)]
struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// Piece types: a control token is never spelled by a text; a user's symbol is always one token.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// The model in `bytes` as a `tokenizer.json`.
pub(super) fn convert(bytes: &[u8], layout: Layout, config: &Config, path: &Path) -> Result<Value> {
    let model = Model::parse(bytes)
        .map_err(|why| Error::format(path, format!("not a SentencePiece model: {why}")))?;
    if !model.unigram {
        let why = "only Unigram is read";
        return Err(Error::unsupported(
            path,
            "a SentencePiece model of another kind",
            why,
        ));
    }
    if !model.usual_spaces {
        let why = "a model that keeps spaces as they are, or puts none before a text, is not read";
        return Err(Error::unsupported(path, "its treatment of spaces", why));
    }
    match layout {
        Layout::AsTrained => as_trained(&model, config, path),
        Layout::Renumbered => renumbered(&model, config, path),
    }
}

fn as_trained(model: &Model, config: &Config, path: &Path) -> Result<Value> {
    config.class(&["DebertaV2"])?;
    let roles = config.roles()?;
    let or = |said: Option<String>, usual: &str| said.unwrap_or_else(|| usual.to_owned());
    let (cls, sep) = (or(roles.cls, "[CLS]"), or(roles.sep, "[SEP]"));
    let mask = or(roles.mask, "[MASK]");
    let cls_id = model.id(&cls, path)?;
    let sep_id = model.id(&sep, path)?;
    let Some(unk) = model.pieces.get(model.unk) else {
        let why = format!(
            "its unknown token is {} of {}",
            model.unk,
            model.pieces.len()
        );
        return Err(Error::format(path, why));
    };

    let mut added = Vec::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        let special = piece.kind == CONTROL || piece.text == unk.text;
        if special || piece.kind == USER_DEFINED {
            added.push(added_token(id, &piece.text, special));
        }
    }
    if !model.pieces.iter().any(|piece| piece.text == mask) {
        added.push(added_token(model.pieces.len(), &mask, true));
    }
    let vocab: Vec<Value> = model.pieces.iter().map(Piece::entry).collect();

    let mut normalizers = Vec::new();
    if config.flag("do_lower_case")? == Some(true) {
        normalizers.push(json!({"type": "Lowercase"}));
    }
    normalizers.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
    normalizers.extend(model.normalizer());
    normalizers.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    let mut splits = Vec::new();
    if config.flag("split_by_punct")? == Some(true) {
        splits.push(json!({"type": "Punctuation", "behavior": "Isolated"}));
    }
    splits.push(metaspace());
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "post_processor": template((&cls, cls_id), (&sep, sep_id), Join::OneSeparator),
        "decoder": metaspace(),
        "model": {"type": "Unigram", "unk_id": model.unk, "byte_fallback": false, "vocab": vocab},
    }))
}

fn renumbered(model: &Model, config: &Config, path: &Path) -> Result<Value> {
    config.class(&["XLMRoberta"])?;
    const FRONT: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
    const REPLACED: usize = 3; // the model's own <unk>, <s>, </s>
    if model.pieces.len() < REPLACED {
        return Err(Error::format(
            path,
            format!("it has {} pieces", model.pieces.len()),
        ));
    }
    let mut vocab: Vec<Value> = FRONT.iter().map(|name| json!([name, 0.0])).collect();
    let mut added: Vec<Value> = FRONT
        .iter()
        .enumerate()
        .map(|(id, name)| added_token(id, name, true))
        .collect();
    for piece in &model.pieces[REPLACED..] {
        if piece.kind == CONTROL || piece.kind == USER_DEFINED {
            added.push(added_token(vocab.len(), &piece.text, piece.kind == CONTROL));
        }
        vocab.push(piece.entry());
    }
    let mut mask = added_token(vocab.len(), "<mask>", true);
    mask["lstrip"] = json!(config.strips_left("mask_token").unwrap_or(false));
    added.push(mask);
    vocab.push(json!(["<mask>", 0.0]));
    let splits = [json!({"type": "WhitespaceSplit"}), metaspace()];
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": model.normalizer(),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "post_processor": template(("<s>", 0), ("</s>", 2), Join::TwoSeparators),
        "decoder": metaspace(),
        "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": false, "vocab": vocab},
    }))
}

fn added_token(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "special": special, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false,
    })
}

fn metaspace() -> Value {
    json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true})
}

impl Piece {
    fn entry(&self) -> Value {
        json!([self.text, f64::from(self.score)])
    }
}

impl Model {
    fn id(&self, name: &str, path: &Path) -> Result<u64> {
        let id = self.pieces.iter().position(|piece| piece.text == name);
        id.map(|id| id as u64)
            .ok_or_else(|| Error::format(path, format!("the vocabulary has no {name:?}")))
    }

    fn normalizer(&self) -> Option<Value> {
        let charsmap = (!self.charsmap.is_empty()).then(|| base64(&self.charsmap));
        charsmap.map(|map| json!({"type": "Precompiled", "precompiled_charsmap": map}))
    }

    fn parse(bytes: &[u8]) -> Result<Model, String> {
        let mut model = Model {
            pieces: Vec::new(),
            unigram: true,
            unk: 0,
            charsmap: Vec::new(),
            usual_spaces: true,
        };
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Field::Bytes(piece)) => model.pieces.push(Piece::parse(piece)?),
                (2, Field::Bytes(trainer)) => {
                    let mut fields = Fields(trainer);
                    while let Some((number, value)) = fields.next()? {
                        match (number, value) {
                            (3, Field::Varint(kind)) => model.unigram = kind == 1,
                            (40, Field::Varint(id)) => {
                                model.unk = usize::try_from(id).unwrap_or(usize::MAX)
                            }
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    let mut fields = Fields(normalizer);
                    while let Some((number, value)) = fields.next()? {
                        match (number, value) {
                            (2, Field::Bytes(map)) => model.charsmap = map.to_vec(),
                            (3 | 4, Field::Varint(flag)) => model.usual_spaces &= flag != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        Ok(model)
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Result<Piece, String> {
        let mut piece = Piece {
            kind: 1,
            ..Piece::default()
        };
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Field::Bytes(text)) => {
                    let text = std::str::from_utf8(text).map_err(|e| format!("a piece: {e}"))?;
                    piece.text = text.to_owned();
                }
                (2, Field::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
                (3, Field::Varint(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        match piece.score.is_finite() {
            true => Ok(piece),
            false => Err(format!("piece {:?} has score {}", piece.text, piece.score)),
        }
    }
}

/// A field's value, by its wire type.
enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            other => return Err(format!("field {} has wire type {other}", tag >> 3)),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        match self.0.split_at_checked(length) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(format!(
                "a field of {length} bytes where {} are left",
                self.0.len()
            )),
        }
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than ten bytes".into())
    }
}

/// RFC 4648, with padding: how `tokenizer.json` holds the character map.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63] as char;
            out.push(if i <= group.len() { digit } else { '=' });
        }
    }
    out
}
