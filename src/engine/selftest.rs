//! The self test beside an adapter: texts and the numbers that must come out, run before a name is given to it.
//!
//! `selftest.json`: `{"rows": [{"text", "text_pair"?, "logits"? or "embedding"?}]}`.

use std::{path::Path, sync::Arc};

use serde::Deserialize;

use super::{Answer, Engine, Request, Resident, Want};
use crate::{
    error::{Error, Result},
    text::Truncate,
};

/// Largest difference to a vector of the self test, relative to its largest number: other machines' f32, with room.
const MOST: f32 = 1e-4;

/// Texts and what must come out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelfTest {
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    text: String,
    text_pair: Option<String>,
    logits: Option<Vec<f32>>,
    embedding: Option<Vec<f32>>,
}

/// What a self test found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Rows that were right.
    pub right: usize,
    /// What was wrong, a sentence a row.
    pub problems: Vec<String>,
}

impl SelfTest {
    /// From the bytes of the file at `path`.
    ///
    /// # Errors
    /// When it is no self test.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::format(path, format!("not a self test: {e}")))
    }

    /// Runs every row for `task`. `path` is what messages call the file.
    ///
    /// # Errors
    /// When a row expects neither logits nor an embedding, or both.
    pub fn run(&self, engine: &Engine, task: &Arc<Resident>, path: &Path) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for (i, row) in self.rows.iter().enumerate() {
            let (want, expected) = match (&row.logits, &row.embedding) {
                (Some(logits), None) => (Want::Classes, logits),
                (None, Some(embedding)) => (Want::Embedding, embedding),
                _ => {
                    let why = format!("rows[{i}]: expected logits or an embedding");
                    return Err(Error::format(path, why));
                }
            };
            let request = Request {
                text: &row.text,
                pair: row.text_pair.as_deref(),
                adapter: None,
                want,
            };
            let wrong = match engine.admit_to(task, &request, Truncate::Right, &mut None) {
                Err(error) => Some(error.to_string()),
                Ok(admitted) => match &engine.run(&[admitted])[..] {
                    [Answer::Classes(c)] => differs(&c.logits, expected),
                    [Answer::Embedding(vector)] => differs(vector, expected),
                    _ => Some("another kind of answer".to_owned()),
                },
            };
            match wrong {
                None => outcome.right += 1,
                Some(why) => {
                    (outcome.problems).push(format!("{}: rows[{i}]: {why}", path.display()))
                }
            }
        }
        Ok(outcome)
    }
}

fn differs(got: &[f32], expected: &[f32]) -> Option<String> {
    if got.len() != expected.len() {
        let (expected, got) = (expected.len(), got.len());
        return Some(format!("expected {expected} numbers, found {got}"));
    }
    let largest = expected
        .iter()
        .fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let distances = got
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / largest);
    let worst = distances.fold(0.0, f32::max);
    (worst > MOST).then(|| format!("off by {worst:.1e} of its largest number, at most {MOST:.0e}"))
}
