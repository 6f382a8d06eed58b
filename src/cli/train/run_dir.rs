//! Where a run lives on the disk. While it runs: `DIR.partial` with its settings, its metrics as they come and the last
//! checkpoint. When it is done: `DIR`, whole, by one rename. A kill at any moment leaves one or the other.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{
    adapter::{Adapter, Stored},
    cli::{
        Failure,
        config::{RUN, partial},
    },
    error::{Error, Result},
    train::{
        Live, Optimizer, checkpoint,
        run::{Epoch, Saved, Snapshot},
    },
    weights::durable,
};

/// The name of the epochs beside the result.
const METRICS: &str = "metrics.jsonl";
/// The directory of the adapters of a schedule's phases, each under its number.
const PHASES: &str = "phases";
/// The name of what a run was and came to.
pub(super) const MADE: &str = "sorank.json";

/// A run's two directories.
#[derive(Debug)]
pub(super) struct RunDir {
    out: PathBuf,
    partial: PathBuf,
}

/// What stands there.
pub(super) enum Found {
    /// Nothing, or a run that was cut.
    Open(RunDir),
    /// The result.
    Done,
}

impl RunDir {
    /// Looks at `out` and beside it; makes nothing yet.
    pub(super) fn open(out: &Path, resume: bool) -> Result<Found, Failure> {
        let run_dir = RunDir {
            out: out.to_owned(),
            partial: partial(out),
        };
        if out.symlink_metadata().is_ok() {
            if resume && out.join(MADE).exists() {
                run_dir.tidy()?;
                return Ok(Found::Done);
            }
            return Err(Error::format(out, "exists already; nothing is overwritten").into());
        }
        if run_dir.checkpoint().exists() && !resume {
            let why = "a run that was cut is here; go on with --resume, or remove it";
            return Err(Error::format(&run_dir.partial, why).into());
        }
        Ok(Found::Open(run_dir))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.partial.join(name)
    }

    /// Makes the directory beside `out` and keeps the settings there, so that the run can go on without being told them
    /// again.
    pub(super) fn start(&self, settings: &str) -> Result<()> {
        std::fs::create_dir_all(&self.partial).map_err(Error::io(&self.partial))?;
        let path = self.file(RUN);
        durable::replace(&path, |out| {
            out.write_all(settings.as_bytes()).map_err(Error::io(&path))
        })
    }

    /// The last checkpoint, where there is one; `fresh` makes the optimiser of the run at its start.
    pub(super) fn saved(
        &self,
        identity: &Value,
        live: &Live,
        fresh: impl FnOnce() -> Optimizer,
    ) -> Result<Option<Saved>> {
        let path = self.checkpoint();
        match path.exists() {
            true => checkpoint::read(&path, identity, live, fresh()).map(Some),
            false => Ok(None),
        }
    }

    fn checkpoint(&self) -> PathBuf {
        self.file("checkpoint.safetensors")
    }

    /// Writes a checkpoint over the last one.
    pub(super) fn save(&self, identity: &Value, snapshot: Snapshot<'_>) -> Result<()> {
        checkpoint::write(&self.checkpoint(), identity, snapshot)
    }

    /// Writes the epochs that are done.
    pub(super) fn start_metrics(&self, epochs: &[Epoch]) -> Result<()> {
        let path = self.file(METRICS);
        std::fs::write(&path, metrics(epochs)).map_err(Error::io(&path))
    }

    /// Adds one.
    pub(super) fn add_metrics(&self, epoch: &Epoch) -> Result<()> {
        let path = self.file(METRICS);
        let file = File::options().append(true).open(&path);
        let mut file = file.map_err(Error::io(&path))?;
        let line = metrics(std::slice::from_ref(epoch));
        file.write_all(line.as_bytes()).map_err(Error::io(&path))
    }

    /// Writes the adapter that phase `number` ended with, over the one of a run that was cut there.
    pub(super) fn add_phase(&self, number: usize, adapter: &Adapter, stored: Stored) -> Result<()> {
        let phases = self.file(PHASES);
        std::fs::create_dir_all(&phases).map_err(Error::io(&phases))?;
        let dir = phases.join(number.to_string());
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
        }
        adapter.write_as(&dir, stored)
    }

    /// Makes the result: `weights` makes the directory it is given, `files` go into it. It takes its name whole.
    pub(super) fn finish(
        &self,
        weights: impl FnOnce(&Path) -> Result<()>,
        epochs: &[Epoch],
        files: &[(&str, String)],
    ) -> Result<()> {
        let result = self.file("result");
        if result.exists() {
            std::fs::remove_dir_all(&result).map_err(Error::io(&result))?;
        }
        weights(&result)?;
        let phases = self.file(PHASES);
        if phases.exists() {
            std::fs::rename(&phases, result.join(PHASES)).map_err(Error::io(&phases))?;
        }
        let settings = self.file(RUN);
        std::fs::copy(&settings, result.join(RUN)).map_err(Error::io(&settings))?;
        let metrics = (METRICS, metrics(epochs));
        for (name, text) in files.iter().chain([&metrics]) {
            let path = result.join(name);
            std::fs::write(&path, text).map_err(Error::io(&path))?;
        }
        durable::publish(&result, &self.out)?;
        self.tidy()
    }

    fn tidy(&self) -> Result<()> {
        match self.partial.exists() {
            true => std::fs::remove_dir_all(&self.partial).map_err(Error::io(&self.partial)),
            false => Ok(()),
        }
    }

    /// How the run is gone on with.
    pub(super) fn hint(&self) -> String {
        format!(
            "go on with: sorank train --resume --out {}",
            self.out.display()
        )
    }
}

fn metrics(epochs: &[Epoch]) -> String {
    epochs.iter().map(|e| json!(e).to_string() + "\n").collect()
}

/// Set by the first Ctrl-C or SIGTERM; the second one ends the process at once.
pub(super) fn interrupts() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: a signal finds the flag as the one before left it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone())
            .and_then(|_| signal_hook::flag::register(signal, flag.clone()))
            .map_err(|e| Failure::Failed(format!("listening for Ctrl-C: {e}")))?;
    }
    Ok(flag)
}

/// Whether it is set.
pub(super) fn is_set(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}
