//! A run between two steps as one safetensors file: parameters, moments, those of epochs that may be chosen, and where it
//! stands. It replaces the one before whole or not at all, and what is read has the bits of what was written.
//!
//! Numbers that a run goes on computing with are kept by their bits, not as decimals. What the run is (its data,
//! base, plan, number of threads) stands in the file as a text, so that it cannot go on as another one. The order of
//! rows and dropout are functions of seed and step, so they need no place here.

use std::{collections::BTreeMap, path::Path};

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::{
    choice::Point,
    metrics,
    optim::Optimizer,
    run::{Candidate, Epoch, Saved, Snapshot, State},
    sora::Live,
};
use crate::{
    error::{Error, Result},
    mat::Matrix,
    weights::{
        Dtype,
        writer::{self, Content, Output},
    },
};

/// The form of the file; one that is not this is not read.
const VERSION: &str = "2";

/// An `f64` by its bits.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
struct Exact(u64);

impl From<f64> for Exact {
    fn from(x: f64) -> Self {
        Self(x.to_bits())
    }
}

impl From<Exact> for f64 {
    fn from(x: Exact) -> Self {
        f64::from_bits(x.0)
    }
}

/// A [`State`], but for matrices.
#[derive(Debug, Serialize, Deserialize)]
struct Standing {
    epochs: Vec<ExactEpoch>,
    batches: usize,
    loss: Exact,
    curve: Vec<(usize, Exact, usize)>,
    recent: Exact,
    step: usize,
    tokens: usize,
    seconds: Exact,
    phase: usize,
    /// Epoch, score, parameters.
    candidates: Vec<(usize, Exact, usize)>,
    moments: i32,
}

#[derive(Debug, Serialize, Deserialize)]
struct ExactEpoch {
    epoch: usize,
    phase: usize,
    step: usize,
    loss: Exact,
    scores: BTreeMap<String, Exact>,
    train_scores: BTreeMap<String, Exact>,
    kept_ranks: usize,
    kept_parameters: usize,
    seconds: Exact,
    tokens: usize,
    curve: Vec<(usize, Exact, usize)>,
}

/// A curve with its losses by their bits, and back.
fn curve<A: Copy + Into<B>, B>(from: &[(usize, A, usize)]) -> Vec<(usize, B, usize)> {
    from.iter()
        .map(|&(step, loss, kept)| (step, loss.into(), kept))
        .collect()
}

impl From<&Epoch> for ExactEpoch {
    fn from(e: &Epoch) -> Self {
        let exact = |scores: &BTreeMap<&'static str, f64>| {
            let exact = |(&name, &value): (&&str, &f64)| (name.to_owned(), value.into());
            scores.iter().map(exact).collect()
        };
        Self {
            epoch: e.epoch,
            phase: e.phase,
            step: e.step,
            loss: e.loss.into(),
            scores: exact(&e.scores),
            train_scores: exact(&e.train_scores),
            kept_ranks: e.kept_ranks,
            kept_parameters: e.kept_parameters,
            seconds: e.seconds.into(),
            tokens: e.tokens,
            curve: curve(&e.curve),
        }
    }
}

impl ExactEpoch {
    /// `None` for a metric that there is none of.
    fn epoch(self) -> Option<Epoch> {
        let scores = |from: BTreeMap<String, Exact>| -> Option<BTreeMap<&'static str, f64>> {
            let known = |(name, value): (String, Exact)| {
                let name = metrics::NAMES.iter().find(|n| **n == name)?;
                Some((*name, value.into()))
            };
            from.into_iter().map(known).collect()
        };
        Some(Epoch {
            epoch: self.epoch,
            phase: self.phase,
            step: self.step,
            loss: self.loss.into(),
            scores: scores(self.scores)?,
            train_scores: scores(self.train_scores)?,
            kept_ranks: self.kept_ranks,
            kept_parameters: self.kept_parameters,
            seconds: self.seconds.into(),
            tokens: self.tokens,
            curve: curve(&self.curve),
        })
    }
}

/// The parts of the file, by the first part of a tensor's name.
const NOW: &str = "now";
const FIRST: &str = "first_moment";
const SECOND: &str = "second_moment";
/// What AdaLoRA has smoothed.
const IMPORTANCE: &str = "importance";
const SPREAD: &str = "importance_spread";

/// Writes `snapshot` of the run that `identity` describes to `path`.
///
/// # Errors
/// When the file cannot be written, or a parameter is not finite; the old file stands then.
pub fn write(path: &Path, identity: &serde_json::Value, snapshot: Snapshot<'_>) -> Result<()> {
    let Snapshot {
        state,
        live,
        optimizer,
    } = snapshot;
    let (steps, moments) = optimizer.moments();
    let standing = Standing {
        epochs: state.epochs.iter().map(ExactEpoch::from).collect(),
        batches: state.batches,
        loss: state.loss.into(),
        curve: curve(&state.curve),
        recent: state.recent.into(),
        step: state.step,
        tokens: state.tokens,
        seconds: state.seconds.into(),
        phase: state.phase,
        candidates: (state.candidates.iter())
            .map(|c| (c.epoch, c.point.score.into(), c.point.parameters))
            .collect(),
        moments: steps,
    };
    let mut outputs = Vec::new();
    for (p, [first, second]) in live.parameters.iter().zip(moments) {
        outputs.push(output(NOW, &p.name, &p.value));
        outputs.push(output(FIRST, &p.name, first));
        outputs.push(output(SECOND, &p.name, second));
    }
    for (p, [mean, spread]) in optimizer.budget().iter().flat_map(|b| b.importance()) {
        let name = &live.parameters[p].name;
        outputs.push(output(IMPORTANCE, name, mean));
        outputs.push(output(SPREAD, name, spread));
    }
    for candidate in &state.candidates {
        let part = epoch_part(candidate.epoch);
        let parameters = candidate.live.parameters.iter();
        outputs.extend(parameters.map(|p| output(&part, &p.name, &p.value)));
    }
    let standing = serde_json::to_string(&standing).expect("numbers and names serialise");
    let metadata = [
        ("sorank.checkpoint", VERSION.to_owned()),
        ("identity", identity.to_string()),
        ("standing", standing),
    ];
    let metadata = metadata.map(|(k, v)| (k.to_owned(), v)).into();
    writer::write(path, &outputs, &metadata)
}

/// The part of the parameters of an epoch that may be chosen.
fn epoch_part(epoch: usize) -> String {
    format!("epoch{epoch}")
}

fn output<'a>(part: &str, name: &str, value: &'a Matrix) -> Output<'a> {
    Output {
        name: format!("{part}/{name}"),
        shape: vec![value.rows(), value.cols()],
        dtype: Dtype::F32,
        content: Content::Values(value.as_slice().into()),
    }
}

/// Reads what [`write()`] wrote for the run that `identity` describes; `live` and `optimizer` are that run's at its
/// start.
///
/// # Errors
/// When the file cannot be read or is another run's: with what differs.
pub fn read(
    path: &Path,
    identity: &serde_json::Value,
    live: &Live,
    mut optimizer: Optimizer,
) -> Result<Saved> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let refuse = |why: String| Error::format(path, format!("not a checkpoint: {why}"));
    let broken = |e: safetensors::SafeTensorError| refuse(e.to_string());
    let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let text = |key: &str| {
        let found = metadata.get(key).map(String::as_str);
        found.ok_or_else(|| refuse(format!("no {key:?} in its metadata")))
    };
    let version = text("sorank.checkpoint")?;
    if version != VERSION {
        return Err(refuse(format!("version {version}, expected {VERSION}")));
    }
    let ours = identity.to_string(); // as text: a decimal parsed again may differ in its last bit
    if text("identity")? != ours {
        let theirs = serde_json::from_str(text("identity")?);
        let theirs = theirs.map_err(|e| refuse(e.to_string()))?;
        let mut differ = Vec::new();
        differences("", &theirs, identity, &mut differ);
        let why = format!("made by another run: {}", differ.join("; "));
        return Err(Error::format(path, why));
    }
    let standing: Standing =
        serde_json::from_str(text("standing")?).map_err(|e| refuse(e.to_string()))?;
    let matrix = |part: &str, name: &str, like: &Matrix| -> Result<Matrix> {
        let name = format!("{part}/{name}");
        let view = file.tensor(&name).map_err(|e| refuse(e.to_string()))?;
        let shape = [like.rows(), like.cols()];
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            return Err(Error::Shape {
                path: path.to_owned(),
                name,
                expected: format!("{shape:?} in F32"),
                found: view.shape().to_vec(),
            });
        }
        let (words, _) = view.data().as_chunks::<4>();
        let values = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
        Ok(Matrix::from_vec(values, like.rows(), like.cols()))
    };
    let part = |part: &str| -> Result<Live> {
        let mut out = live.clone();
        for p in &mut out.parameters {
            p.value = matrix(part, &p.name, &p.value)?;
        }
        Ok(out)
    };
    let moments = live.parameters.iter().map(|p| {
        let of = |part| matrix(part, &p.name, &p.value);
        Ok([of(FIRST)?, of(SECOND)?])
    });
    let moments: Vec<[Matrix; 2]> = moments.collect::<Result<_>>()?;
    optimizer.restore(standing.moments, moments);
    for (p, of) in (optimizer.budget_mut().into_iter()).flat_map(|b| b.importance_mut()) {
        let p = &live.parameters[p];
        *of = [
            matrix(IMPORTANCE, &p.name, &p.value)?,
            matrix(SPREAD, &p.name, &p.value)?,
        ];
    }
    let candidate = |(epoch, score, parameters): (usize, Exact, usize)| {
        Ok(Candidate {
            epoch,
            point: Point {
                score: score.into(),
                parameters,
            },
            live: part(&epoch_part(epoch))?,
        })
    };
    let candidates: Result<_> = standing.candidates.into_iter().map(candidate).collect();
    let epochs: Option<Vec<Epoch>> = standing.epochs.into_iter().map(ExactEpoch::epoch).collect();
    Ok(Saved {
        state: State {
            epochs: epochs.ok_or_else(|| refuse("a metric that there is none of".to_owned()))?,
            batches: standing.batches,
            loss: standing.loss.into(),
            curve: curve(&standing.curve),
            recent: standing.recent.into(),
            step: standing.step,
            tokens: standing.tokens,
            seconds: standing.seconds.into(),
            phase: standing.phase,
            candidates: candidates?,
        },
        live: part(NOW)?,
        optimizer,
    })
}

/// `plan.lr: it has 0.001, this one 0.002`
fn differences(
    at: &str,
    theirs: &serde_json::Value,
    ours: &serde_json::Value,
    out: &mut Vec<String>,
) {
    use serde_json::Value;
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let at = match at {
                    "" => key.clone(),
                    at => format!("{at}.{key}"),
                };
                let of = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or(Value::Null)
                };
                differences(&at, &of(a), &of(b), out);
            }
        }
        (a, b) => {
            let (a, b) = (a.to_string(), b.to_string());
            if a != b {
                out.push(format!("{at}: it has {a}, this one {b}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_named_with_its_whole_path() {
        let (a, b) = (
            json!({"plan": {"lr": 1.0, "seed": 1}, "threads": 2}),
            json!({"plan": {"lr": 2.0, "seed": 1}}),
        );
        let mut found = Vec::new();
        differences("", &a, &b, &mut found);
        let want = [
            "plan.lr: it has 1.0, this one 2.0",
            "threads: it has 2, this one null",
        ];
        assert_eq!(found, want);
    }
}
