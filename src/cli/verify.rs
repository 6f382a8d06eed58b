//! `sorank verify`: does an adapter belong to a base, without traffic.
//!
//! Everything that admission of real rows would find is found here: the fingerprint, every tensor, the head, and the
//! answers of a `selftest.json` beside the adapter, `{"rows": [{"text", "text_pair"?, "logits"? or "embedding"?}]}`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Failure, output::Output, rows::go_on, setup::ModelArgs};
use crate::{
    adapter::Adapter,
    engine::{Answer, Engine, Request, Want},
    error::{Error, Result},
    model::Task,
    text::Truncate,
};

/// Checks each --adapter against the base: all its tensors fit and are used, its head is there, its base is this one
/// where it says which, and its selftest.json, where there is one, gets the answers in it. Exit code 1 with the
/// reasons when something is wrong.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object for each adapter instead of text
    #[arg(long)]
    json: bool,
}

const SELFTEST: &str = "selftest.json";
/// The largest file of that name that is read.
const SELFTEST_MAX: u64 = 16 << 20;
/// Largest difference to a vector of the self test, relative to its largest number: other machines' f32, with room.
const SELFTEST_MOST: f32 = 1e-4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelfTest {
    rows: Vec<SelfTestRow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelfTestRow {
    text: String,
    text_pair: Option<String>,
    logits: Option<Vec<f32>>,
    embedding: Option<Vec<f32>>,
}

/// What was found about one adapter.
#[derive(Debug, Default, Serialize)]
struct Findings {
    adapter: String,
    ok: bool,
    sites: usize,
    smallest_rank: usize,
    largest_rank: usize,
    /// Outputs of the head; none: it only embeds.
    outputs: Option<usize>,
    /// Whether it says which base it is for (and this is that one).
    fingerprint: bool,
    /// Rows of the self test that were right.
    selftest: Option<usize>,
    problems: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let engine = args.model.bare_engine()?;
    let mut out = Output::stdout();
    let mut failed = Vec::new();
    for (name, adapter) in args.model.all_adapters()? {
        let found = findings(&engine, &name, adapter);
        match args.json {
            true => go_on(out.line(&found)?)?,
            false => go_on(out.text(&found.text())?)?,
        }
        let shown = |why: &String| format!("{name}: {why}");
        failed.extend(found.problems.iter().map(shown));
    }
    go_on(out.flush()?)?;
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(failed.join("\nsorank: "))),
    }
}

fn findings(engine: &Engine, name: &str, adapter: Result<Adapter>) -> Findings {
    let mut found = Findings {
        adapter: name.to_owned(),
        ..Findings::default()
    };
    let checked = adapter.and_then(|adapter| {
        let ranks = || adapter.factors.values().map(|f| f.rank());
        found.sites = adapter.factors.len();
        found.smallest_rank = ranks().min().unwrap_or(0);
        found.largest_rank = ranks().max().unwrap_or(0);
        let task = engine.model().bind(name, &adapter)?;
        found.fingerprint = adapter.base_fingerprint.is_some();
        found.outputs = task.classifier.as_ref().map(|c| c.head.outputs());
        found.selftest = selftest(engine, name, task, &adapter.path, &mut found.problems)?;
        Ok(())
    });
    found.problems.extend(checked.err().map(|e| e.to_string()));
    found.ok = found.problems.is_empty();
    found
}

impl Findings {
    fn text(&self) -> String {
        if !self.ok {
            return format!("{}: {} problem(s)\n", self.adapter, self.problems.len());
        }
        let head = match self.outputs {
            Some(n) => format!("a head of {n}"),
            None => "no head".to_owned(),
        };
        let base = match self.fingerprint {
            true => "made for this base",
            false => "does not say for which base",
        };
        let selftest = match self.selftest {
            Some(n) => format!("{n} rows of {SELFTEST} right"),
            None => format!("no {SELFTEST}"),
        };
        let (sites, least, most) = (self.sites, self.smallest_rank, self.largest_rank);
        let name = &self.adapter;
        format!("{name}: ok: {sites} sites of rank {least} to {most}; {head}; {base}; {selftest}\n")
    }
}

/// Runs the rows of a self test, if there is one; how many were right.
fn selftest(
    engine: &Engine,
    name: &str,
    task: Task,
    dir: &Path,
    problems: &mut Vec<String>,
) -> Result<Option<usize>> {
    let path = dir.join(SELFTEST);
    let size = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io(&path))?.len(),
    };
    if size > SELFTEST_MAX {
        let why = format!("{size} bytes, at most {SELFTEST_MAX} are read");
        return Err(Error::format(&path, why));
    }
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    let test: SelfTest = serde_json::from_slice(&bytes)
        .map_err(|e| Error::format(&path, format!("not a self test: {e}")))?;
    engine.registry().insert(name, task);
    let mut right = 0;
    for (i, row) in test.rows.iter().enumerate() {
        let (want, expected) = match (&row.logits, &row.embedding) {
            (Some(logits), None) => (Want::Classes, logits),
            (None, Some(embedding)) => (Want::Embedding, embedding),
            _ => {
                let why = format!("rows[{i}]: expected logits or an embedding");
                return Err(Error::format(&path, why));
            }
        };
        let request = Request {
            text: &row.text,
            pair: row.text_pair.as_deref(),
            adapter: Some(name),
            want,
        };
        let wrong = match engine.admit(&request, Truncate::Right) {
            Err(error) => Some(error.to_string()),
            Ok(admitted) => match &engine.run(&[admitted])[..] {
                [Answer::Classes(c)] => differs(&c.logits, expected),
                [Answer::Embedding(vector)] => differs(vector, expected),
                _ => Some("another kind of answer".to_owned()),
            },
        };
        match wrong {
            None => right += 1,
            Some(why) => problems.push(format!("{}: rows[{i}]: {why}", path.display())),
        }
    }
    Ok(Some(right))
}

fn differs(got: &[f32], expected: &[f32]) -> Option<String> {
    if got.len() != expected.len() {
        return Some(format!(
            "expected {} numbers, found {}",
            expected.len(),
            got.len()
        ));
    }
    let largest = expected
        .iter()
        .fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let distances = got
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / largest);
    let worst = distances.fold(0.0, f32::max);
    let right = worst <= SELFTEST_MOST;
    (!right)
        .then(|| format!("off by {worst:.1e} of its largest number, at most {SELFTEST_MOST:.0e}"))
}
