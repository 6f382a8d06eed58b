//! Text to ids: one tokenizer, shared by every thread, with offsets into the text the caller wrote.
//!
//! The algorithms (WordPiece, byte-level BPE, Unigram) are those of the `tokenizers` crate, so that the ids are
//! those a model was trained with. Whatever files a model directory has, they become one `tokenizer.json`
//! (`text/files.rs`) and pass through one door, [`Tokenizer::from_bytes`], which does not trust them: the file is
//! tried on a few texts before it is used, an added token must have the id that the file says, and a panic in
//! foreign code is an error here.
//!
//! What this file does itself is the request: too long, truncated, empty. Truncation and padding written into
//! a `tokenizer.json` are dropped, because they belong to a request and not to a vocabulary; truncation is done here
//! by the rule of `transformers` (`longest_first`, special tokens kept), before the special tokens are added.
//!
//! It does not batch, pad, or know of models: whether ids fit an embedding table is asked by whoever has the
//! table ([`Tokenizer::id_limit`], [`Tokenizer::type_limit`]). It sets nothing global and no environment variable.

mod convert;
mod declared;
mod files;
mod sentencepiece;
#[cfg(test)]
mod tests;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use tokenizers::{
    Decoder, Encoding, ModelWrapper, PostProcessor, PostProcessorWrapper, TruncationDirection,
};

use crate::{Error, Result};
use declared::Declared;

/// A tokenizer. Synchronous, `Send + Sync`; one serves all threads.
#[derive(Debug)]
pub struct Tokenizer {
    /// Everything up to the special tokens. Its own post-processor is in `finish`: that one must run once, and
    /// after truncation.
    inner: tokenizers::Tokenizer,
    finish: Option<PostProcessorWrapper>,
    shown_as: PathBuf,
    specials: Specials,
    id_limit: u32,
    type_limit: u32,
}

/// Ids of the tokens with a role, where the vocabulary has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Specials {
    /// First of a text (`[CLS]`, `<s>`).
    pub cls: Option<u32>,
    /// Last of a text (`[SEP]`, `</s>`).
    pub sep: Option<u32>,
    /// Padding. Nothing here pads; a config's `pad_token_id` is checked against it.
    pub pad: Option<u32>,
    /// The masked token of pre-training.
    pub mask: Option<u32>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<u32>,
}

/// How long a text may be, and what happens to a longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The most tokens, special tokens included.
    pub max: usize,
    /// What happens beyond.
    pub truncate: Truncate,
}

impl From<Truncate> for Limit {
    /// No limit of its own: an [`crate::engine::Engine`] puts its model's in place.
    fn from(truncate: Truncate) -> Self {
        let max = usize::MAX;
        Self { max, truncate }
    }
}

/// What happens to a text that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncate {
    /// It is refused: [`Error::TooLong`].
    #[default]
    No,
    /// Its end is cut off.
    Right,
    /// Its beginning is cut off.
    Left,
}

/// One encoded row: parallel vectors, one entry a token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// Vocabulary ids.
    pub ids: Vec<u32>,
    /// Token types (segments).
    pub types: Vec<u32>,
    /// Start and end in characters (Unicode scalar values) of the text as given, of the first or of the second
    /// as `sequence` says; (0, 0) for a special token.
    pub offsets: Vec<(usize, usize)>,
    /// Whether the token was added around the text (one that the text itself spells is not).
    pub special: Vec<bool>,
    /// Which word of its text it belongs to, as the pre-tokenizer splits words; `None` for a special token.
    pub word_ids: Vec<Option<u32>>,
    /// 0 for the text, 1 for its pair; `None` for a special token.
    pub sequence: Vec<Option<u8>>,
}

impl Encoded {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`; `shown_as` names it in messages.
    ///
    /// # Errors
    /// [`Error::Format`] when it does not parse, an added token has another id than it says, or it fails on a
    /// plain text.
    pub fn from_bytes(tokenizer_json: &[u8], shown_as: &Path) -> Result<Self> {
        Self::from_json(tokenizer_json, shown_as, &files::Overrides::default())
    }

    /// From a model directory, through `read`: the bytes of a file by name, or `None` where there is none.
    ///
    /// `tokenizer.json` comes first; else it is built from `vocab.txt`, from `vocab.json` with `merges.txt`, or from a
    /// SentencePiece model (`spm.model`, `sentencepiece.bpe.model`), each with `tokenizer_config.json`,
    /// `special_tokens_map.json` and `added_tokens.json` where present.
    ///
    /// # Errors
    /// As [`Tokenizer::from_bytes`]; [`Error::Format`] with the names looked for when there is none of them.
    pub fn load(read: &dyn Fn(&str) -> Result<Option<Vec<u8>>>, shown_as: &Path) -> Result<Self> {
        let source = files::find(read, shown_as)?;
        Self::from_json(&source.tokenizer_json, &source.path, &source.overrides)
    }

    fn from_json(json: &[u8], shown_as: &Path, overrides: &files::Overrides) -> Result<Self> {
        let wrong = |why: String| Error::format(shown_as, format!("not a usable tokenizer: {why}"));
        let declared: Declared = serde_json::from_slice(json).map_err(|e| wrong(e.to_string()))?;
        let mut inner = guard(|| tokenizers::Tokenizer::from_bytes(json)).map_err(wrong)?;
        for token in &declared.added_tokens {
            let found = inner.token_to_id(&token.content);
            if found != Some(token.id) {
                let found = found.map_or("none".to_owned(), |id| id.to_string());
                let (id, content) = (token.id, &token.content);
                return Err(wrong(format!(
                    "added token {content:?} should have id {id}, and the vocabulary gives it {found}"
                )));
            }
        }
        overrides.apply(&mut inner).map_err(wrong)?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| wrong(e.to_string()))?;
        let finish = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);

        let specials = overrides.specials(&inner);
        let added = inner.get_added_vocabulary().get_vocab().values();
        let ids = added.copied().chain(declared.model.vocab.largest);
        let vocabulary_end = end_of(ids).map_err(wrong)?;
        let mut tokenizer = Tokenizer {
            inner,
            finish,
            shown_as: shown_as.to_owned(),
            specials,
            id_limit: vocabulary_end,
            type_limit: 1,
        };
        tokenizer.try_out()?;
        Ok(tokenizer)
    }

    /// Encodes a few plain texts, so that a template that names what is not there fails now, and so that the
    /// limits count the special tokens, whose ids a template may choose freely.
    fn try_out(&mut self) -> Result<()> {
        let limit = Limit {
            max: usize::MAX,
            truncate: Truncate::No,
        };
        for (text, pair) in [("", None), ("a b", None), ("", Some("")), ("a", Some("b"))] {
            let encoded = match self.encode(text, pair, limit) {
                Err(Error::EmptyInput) => continue,
                other => other?,
            };
            let end = |v: Vec<u32>| end_of(v.into_iter()).map_err(|why| self.failed(&why));
            let (ids, types) = (end(encoded.ids)?, end(encoded.types)?);
            self.id_limit = self.id_limit.max(ids);
            self.type_limit = self.type_limit.max(types);
        }
        Ok(())
    }

    /// Encodes a text, or a pair of texts, with the model's special tokens.
    ///
    /// An empty text is its special tokens.
    ///
    /// # Errors
    /// [`Error::TooLong`] beyond `limit.max` without truncation, or when not even the special tokens fit;
    /// [`Error::EmptyInput`] when no token comes out at all.
    pub fn encode(&self, text: &str, pair: Option<&str>, limit: Limit) -> Result<Encoded> {
        let mut first = self.bare(text)?;
        let mut second = pair.map(|text| self.bare(text)).transpose()?;

        let added = (self.finish.as_ref()).map_or(0, |finish| finish.added_tokens(pair.is_some()));
        let (n1, n2) = (first.len(), second.as_ref().map_or(0, Encoding::len));
        let tokens = n1 + n2 + added;
        if tokens > limit.max {
            let direction = match limit.truncate {
                Truncate::Right => TruncationDirection::Right,
                Truncate::Left => TruncationDirection::Left,
                Truncate::No => {
                    let max = limit.max;
                    return Err(Error::TooLong { tokens, max });
                }
            };
            let Some(room) = limit.max.checked_sub(added) else {
                return Err(Error::TooLong {
                    tokens: added,
                    max: limit.max,
                });
            };
            let (keep1, keep2) = match second {
                Some(_) => longest_first(n1, n2, room),
                None => (room, 0),
            };
            truncate(&mut first, keep1, direction);
            if let Some(second) = second.as_mut() {
                truncate(second, keep2, direction);
            }
        }

        let encoding = match &self.finish {
            Some(finish) => guard(|| finish.process(first, second, true)),
            None => guard(|| {
                // Without a template two texts stand side by side, the second one of type 1.
                if let Some(second) = second.as_mut() {
                    second.set_type_ids(vec![1; second.len()]);
                }
                let parts = [Some(first), second].into_iter().flatten().collect();
                let parts = <dyn PostProcessor>::default_process(parts, true)?;
                Ok(Encoding::merge(parts, false))
            }),
        }
        .map_err(|why| self.failed(&why))?;
        if encoding.is_empty() {
            return Err(Error::EmptyInput);
        }
        Ok(encoded(&encoding))
    }

    /// Ids instead of a text, with the model's special tokens laid around them where they do not begin with its first
    /// one. Offsets are (0, 0): there is no text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], no ids being an empty text; [`Error::Format`] for an id that the vocabulary does not have.
    pub fn encode_ids(&self, ids: &[u32], limit: Limit) -> Result<Encoded> {
        if let Some(id) = ids.iter().find(|&&id| self.id_to_token(id).is_none()) {
            return Err(self.failed(&format!("no token has id {id}")));
        }
        let finished = ids.first().is_some_and(|&id| Some(id) == self.specials.cls);
        let finish = self.finish.as_ref().filter(|_| !finished);
        let added = finish.map_or(0, |finish| finish.added_tokens(false));
        let (tokens, max) = (ids.len() + added, limit.max);
        let cut = tokens > max;
        if cut && (limit.truncate == Truncate::No || finished || max < added) {
            return Err(Error::TooLong { tokens, max });
        }
        let keep = if cut { max - added } else { ids.len() };
        let kept = match limit.truncate {
            Truncate::Left => &ids[ids.len() - keep..],
            _ => &ids[..keep],
        };
        let n = kept.len();
        let bare = Encoding::new(
            kept.to_vec(),
            vec![0; n],
            vec![String::new(); n],
            vec![None; n],
            vec![(0, 0); n],
            vec![0; n],
            vec![1; n],
            Vec::new(),
            Default::default(),
        );
        let encoding = match finish {
            Some(finish) => guard(|| finish.process(bare, None, true)),
            None => Ok(bare),
        };
        let encoding = encoding.map_err(|why| self.failed(&why))?;
        if encoding.is_empty() {
            return Err(Error::EmptyInput);
        }
        Ok(encoded(&encoding))
    }

    /// Encodes many rows in parallel, in the order given. `done` is called from any thread, once a row, with the
    /// number of its tokens (0 for one that failed).
    pub fn encode_batch(
        &self,
        rows: &[(&str, Option<&str>)],
        limit: Limit,
        done: &(dyn Fn(usize) + Sync),
    ) -> Vec<Result<Encoded>> {
        rows.par_iter()
            .map(|&(text, pair)| {
                let row = self.encode(text, pair, limit);
                done(row.as_ref().map_or(0, Encoded::len));
                row
            })
            .collect()
    }

    /// Ids back to text, by the model's decoder; special tokens left out if asked.
    ///
    /// # Errors
    /// [`Error::Format`] for an id that the vocabulary does not have.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| self.id_to_token(id).is_none()) {
            return Err(self.failed(&format!("no token has id {id}")));
        }
        guard(|| self.inner.decode(ids, skip_special)).map_err(|why| self.failed(&why))
    }

    /// The token with this id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token spelled exactly so (`##ing`, `Ġthe`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether the vocabulary itself marks the pieces that continue a word (`##ing`).
    pub fn marks_continuations(&self) -> bool {
        match self.inner.get_model() {
            ModelWrapper::WordPiece(model) => !model.continuing_subword_prefix.is_empty(),
            ModelWrapper::BPE(model) => {
                (model.continuing_subword_prefix.as_ref()).is_some_and(|prefix| !prefix.is_empty())
            }
            _ => false,
        }
    }

    /// Tokens as one text, by the model's decoder; with spaces between where it has none, or fails.
    pub fn join(&self, tokens: &[String]) -> String {
        let decoded =
            (self.inner.get_decoder()).map(|decoder| guard(|| decoder.decode(tokens.to_vec())));
        match decoded {
            Some(Ok(text)) => text,
            Some(Err(_)) | None => tokens.join(" "),
        }
    }

    /// Number of tokens, added ones included. Ids may have gaps: a table needs [`Tokenizer::id_limit`] rows.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// One more than the largest id it can give.
    pub fn id_limit(&self) -> u32 {
        self.id_limit
    }

    /// One more than the largest token type it can give.
    pub fn type_limit(&self) -> u32 {
        self.type_limit
    }

    /// Ids of the tokens with a role.
    pub fn specials(&self) -> Specials {
        self.specials
    }

    /// The file it came from, for messages.
    pub fn shown_as(&self) -> &Path {
        &self.shown_as
    }

    /// The text's own tokens, without special tokens.
    fn bare(&self, text: &str) -> Result<Encoding> {
        guard(|| self.inner.encode_char_offsets(text, false)).map_err(|why| self.failed(&why))
    }

    fn failed(&self, why: &str) -> Error {
        Error::format(&self.shown_as, format!("the tokenizer failed: {why}"))
    }
}

/// Runs foreign code: its boxed error and its panic both become a sentence. A tokenizer file decides what that code
/// indexes, and a request must never end a process. Its caches hold no half-made state across a panic.
fn guard<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let said = (panic.downcast_ref::<String>().map(String::as_str))
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!(
                "it panicked: {}",
                said.unwrap_or("without a message")
            ))
        }
    }
}

/// One more than the largest of `ids`, which no table has a row for where it is the largest number there is.
fn end_of(ids: impl Iterator<Item = u32>) -> std::result::Result<u32, String> {
    let end = ids.max().map_or(Some(0), |id| id.checked_add(1));
    end.ok_or_else(|| format!("a token has the id or type {}", u32::MAX))
}

/// How many tokens of each of two texts stay when they are too many for `room`: the shorter stays whole if it takes
/// no more than half; else both get half, and the odd one goes to the longer (to the second of equals).
fn longest_first(n1: usize, n2: usize, room: usize) -> (usize, usize) {
    let short = n1.min(n2).min(room / 2);
    let long = room - short;
    if n1 > n2 {
        (long, short)
    } else {
        (short, long)
    }
}

fn truncate(encoding: &mut Encoding, keep: usize, direction: TruncationDirection) {
    encoding.truncate(keep, 0, direction);
    encoding.take_overflowing(); // else the template would be laid around every piece cut off
}

fn encoded(encoding: &Encoding) -> Encoded {
    let sequence = encoding.get_sequence_ids();
    Encoded {
        ids: encoding.get_ids().to_vec(),
        types: encoding.get_type_ids().to_vec(),
        offsets: encoding.get_offsets().to_vec(),
        special: (encoding.get_special_tokens_mask().iter())
            .map(|&m| m != 0)
            .collect(),
        word_ids: encoding.get_word_ids().to_vec(),
        sequence: sequence.into_iter().map(|s| s.map(|s| s as u8)).collect(),
    }
}

/// The tokenizer crosses threads by reference.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
};
