//! `sorank verify`: does an adapter belong to a base, without traffic.
//!
//! Everything that admission of real rows would find is found here: the fingerprint, every tensor, the head, and the
//! answers of a `selftest.json` beside the adapter (`engine::selftest`).

use std::{path::Path, sync::Arc};

use serde::Serialize;

use super::{Failure, output::Output, rows::go_on, setup::ModelArgs};
use crate::{
    adapter::{Adapter, AdapterFiles, SELFTEST},
    engine::{Engine, Resident, selftest::SelfTest},
    error::Result,
    model::Task,
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
        found.selftest = selftest(engine, task, &adapter.path, &mut found.problems)?;
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
    task: Task,
    dir: &Path,
    problems: &mut Vec<String>,
) -> Result<Option<usize>> {
    let Some(bytes) = AdapterFiles::read_selftest(dir)? else {
        return Ok(None);
    };
    let path = dir.join(SELFTEST);
    let task = Arc::new(Resident::new(task, String::new()));
    let outcome = SelfTest::parse(&bytes, &path)?.run(engine, &task, &path)?;
    problems.extend(outcome.problems);
    Ok(Some(outcome.right))
}
