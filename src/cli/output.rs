//! Results out: the one place that writes to stdout, a JSON line a result, in the order given.
//!
//! A float is printed as the shortest decimal that reads back as the same `f32`. JSON has no NaN and no infinity, and
//! serde would write `null` for them: here they are an error that names the field, and nothing of such a line is
//! written.
//!
//! When the reader of a pipe goes away (`| head -1`) nobody wants the rest, and it is no failure:
//! writing answers [`ControlFlow::Break`], the command stops and exits with 0.
//!
//! What a score is (softmax, sigmoid, a number) is the head's business; here the answers are laid out.

use std::{
    io::{ErrorKind, Stdout, Write},
    ops::ControlFlow,
    path::Path,
};

use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap, SerializeSeq},
};

use crate::{Error, Result};

#[cfg(test)]
mod tests;

/// Above this probability a label of a multi-label task holds.
pub(crate) const LABEL_THRESHOLD: f32 = 0.5;

/// Bytes gathered before they are written.
const GATHER: usize = 64 << 10;

/// Where results go.
#[derive(Debug)]
pub(crate) struct Output<W: Write> {
    sink: W,
    pending: Vec<u8>,
}

impl Output<Stdout> {
    /// Standard output. Lines are gathered: [`Output::flush`] after each batch shows them.
    pub(crate) fn stdout() -> Self {
        Output::new(std::io::stdout())
    }
}

impl<W: Write> Output<W> {
    /// Any other place; for tests and files.
    pub(crate) fn new(sink: W) -> Self {
        Output {
            sink,
            pending: Vec::new(),
        }
    }

    /// Writes one result as a line of JSON. `Break`: the reader is gone, stop.
    ///
    /// # Errors
    /// [`Error::Format`] for a value that JSON cannot hold (a NaN), [`Error::Io`] when writing fails.
    pub(crate) fn line(&mut self, result: &impl Serialize) -> Result<ControlFlow<()>> {
        let start = self.pending.len();
        if let Err(error) = serde_json::to_writer(&mut self.pending, result) {
            self.pending.truncate(start);
            return Err(Error::format(Path::new("stdout"), error.to_string()));
        }
        self.pending.push(b'\n');
        self.maybe_flush()
    }

    /// Writes text that is no row's result: `inspect`'s tables. `Break`: the reader is gone, stop.
    ///
    /// # Errors
    /// [`Error::Io`] when writing fails.
    pub(crate) fn text(&mut self, text: &str) -> Result<ControlFlow<()>> {
        self.pending.extend_from_slice(text.as_bytes());
        self.maybe_flush()
    }

    fn maybe_flush(&mut self) -> Result<ControlFlow<()>> {
        match self.pending.len() < GATHER {
            true => Ok(ControlFlow::Continue(())),
            false => self.flush(),
        }
    }

    /// Writes what was gathered. To be called once more at the end: dropping writes nothing.
    ///
    /// # Errors
    /// [`Error::Io`] when writing fails.
    pub(crate) fn flush(&mut self) -> Result<ControlFlow<()>> {
        let written = (self.sink.write_all(&self.pending)).and_then(|()| self.sink.flush());
        self.pending.clear();
        match written {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            Err(error) => Err(Error::io(Path::new("stdout"))(error)),
        }
    }
}

/// `embed`: `{"index","adapter","embedding":[..]}`
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct EmbedLine<'a> {
    /// Number of the row, from 0.
    pub(crate) index: usize,
    /// Who answered; `null` for the base.
    pub(crate) adapter: Option<&'a str>,
    /// The embedding, `[H]`.
    #[serde(serialize_with = "finite_list")]
    pub(crate) embedding: &'a [f32],
}

/// `classify`: `{"index","adapter","label","score","scores":{label:score},"logits":[..]}`; with several labels
/// at once also `labels`; a regression is `score` and `logits`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ClassifyLine<'a> {
    /// Number of the row, from 0.
    pub(crate) index: usize,
    /// Who answered; `null` for the base.
    pub(crate) adapter: Option<&'a str>,
    /// The label of the highest score, the first of equals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<&'a str>,
    /// Multi-label: every label above [`LABEL_THRESHOLD`], in label order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<Vec<&'a str>>,
    /// The highest score; of a regression, the answer.
    #[serde(serialize_with = "finite")]
    pub(crate) score: f32,
    /// Every label's score, in label order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scores: Option<Scores<'a>>,
    /// What the head put out.
    #[serde(serialize_with = "finite_list")]
    pub(crate) logits: &'a [f32],
}

impl<'a> ClassifyLine<'a> {
    /// A regression: the score is the first logit.
    ///
    /// # Panics
    /// Without logits.
    pub(crate) fn regression(index: usize, adapter: Option<&'a str>, logits: &'a [f32]) -> Self {
        ClassifyLine {
            index,
            adapter,
            label: None,
            labels: None,
            score: logits[0],
            scores: None,
            logits,
        }
    }

    /// Exactly one label holds: the best of `probabilities`.
    ///
    /// # Panics
    /// When the lengths differ or there is no label.
    pub(crate) fn single_label(
        index: usize,
        adapter: Option<&'a str>,
        names: &'a [String],
        probabilities: &'a [f32],
        logits: &'a [f32],
    ) -> Self {
        assert_eq!(names.len(), probabilities.len(), "a probability a label");
        let mut best = 0;
        for i in 1..names.len() {
            if probabilities[i] > probabilities[best] {
                best = i;
            }
        }
        ClassifyLine {
            index,
            adapter,
            label: Some(&names[best]),
            labels: None,
            score: probabilities[best],
            scores: Some(Scores {
                names,
                probabilities,
            }),
            logits,
        }
    }

    /// Any number of labels hold: those above [`LABEL_THRESHOLD`].
    ///
    /// # Panics
    /// When the lengths differ or there is no label.
    pub(crate) fn multi_label(
        index: usize,
        adapter: Option<&'a str>,
        names: &'a [String],
        probabilities: &'a [f32],
        logits: &'a [f32],
    ) -> Self {
        let holding = (names.iter().zip(probabilities))
            .filter(|&(_, &p)| p > LABEL_THRESHOLD)
            .map(|(name, _)| name.as_str());
        ClassifyLine {
            labels: Some(holding.collect()),
            ..Self::single_label(index, adapter, names, probabilities, logits)
        }
    }
}

/// `tag`: `{"index","adapter","entities":[{"entity","score","word","start","end"}]}`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TagLine<'a> {
    /// Number of the row, from 0.
    pub(crate) index: usize,
    /// Who answered; `null` for the base.
    pub(crate) adapter: Option<&'a str>,
    /// What was found, in order of the text.
    pub(crate) entities: Vec<EntityPart<'a>>,
}

/// One entity of a [`TagLine`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct EntityPart<'a> {
    /// Its kind, or a token's label.
    pub(crate) entity: &'a str,
    /// Its probability.
    #[serde(serialize_with = "finite")]
    pub(crate) score: f32,
    /// Its tokens, decoded.
    pub(crate) word: &'a str,
    /// First character.
    pub(crate) start: usize,
    /// One past the last character.
    pub(crate) end: usize,
}

/// `rerank`: `{"index","adapter","results":[{"index","score"}]}`, the best text first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RerankLine<'a> {
    /// Number of the query, from 0.
    pub(crate) index: usize,
    /// Who answered; `null` for the base.
    pub(crate) adapter: Option<&'a str>,
    /// Every text, in order of score.
    pub(crate) results: Vec<Ranked>,
}

/// One text of a [`RerankLine`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ranked {
    /// Number of the text among the query's, from 0.
    pub(crate) index: usize,
    /// How well it answers.
    #[serde(serialize_with = "finite")]
    pub(crate) score: f32,
}

/// `--keep-going`: a row that failed, in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorLine<'a> {
    /// Number of the row, from 0.
    pub(crate) index: usize,
    /// Its line in the source, from 1.
    pub(crate) line: usize,
    /// What is wrong with it.
    pub(crate) error: &'a str,
}

/// A score a label, as an object in label order. Names are distinct (asked where labels are loaded).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scores<'a> {
    names: &'a [String],
    probabilities: &'a [f32],
}

impl Serialize for Scores<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.names.len()))?;
        for (name, &probability) in self.names.iter().zip(self.probabilities) {
            map.serialize_entry(name, &Finite(probability))?;
        }
        map.end()
    }
}

/// A number that JSON can hold, or an error.
struct Finite(f32);

impl Serialize for Finite {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.is_finite() {
            true => serializer.serialize_f32(self.0),
            false => Err(S::Error::custom(format!(
                "the answer is not a finite number: {}",
                self.0
            ))),
        }
    }
}

fn finite<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    Finite(*value).serialize(serializer)
}

fn finite_list<S: Serializer>(values: &&[f32], serializer: S) -> Result<S::Ok, S::Error> {
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        let why = format!("number {at} of the answer is not finite: {}", values[at]);
        return Err(S::Error::custom(why));
    }
    let mut list = serializer.serialize_seq(Some(values.len()))?;
    for value in *values {
        list.serialize_element(value)?;
    }
    list.end()
}
