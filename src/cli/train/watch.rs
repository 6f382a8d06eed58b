//! Who watches a run: shows how it goes, writes down what it may go on from, and stops it when asked to.

use std::sync::{Arc, atomic::AtomicBool};

use serde_json::Value;

use super::{
    given::{Data, Given},
    progress::Progress,
    run_dir::{RunDir, is_set},
};
use crate::{
    adapter::Stored,
    cli::Failure,
    error::Error,
    model::Model,
    train::{
        Learner,
        run::{Control, Event, Outcome, Saved, Stopped, resume},
    },
};

/// The watcher of one run.
pub(super) struct Watch<'a> {
    pub(super) progress: Progress,
    pub(super) run_dir: &'a RunDir,
    pub(super) identity: &'a Value,
    pub(super) model: &'a Model,
    /// Steps between checkpoints, besides those after each epoch; 0 is none.
    pub(super) every: usize,
    /// How the adapters of phases are stored.
    pub(super) stored: Stored,
    pub(super) interrupted: Arc<AtomicBool>,
}

impl Watch<'_> {
    /// Trains to the end, or until it is stopped.
    pub(super) fn train(
        &mut self,
        learner: &mut Learner<'_>,
        given: &Given,
        train: &Data,
        dev: &Data,
        saved: Option<Saved>,
    ) -> Result<Outcome, Failure> {
        // What could not be written is told when the run has stopped for it.
        let mut trouble: Option<Error> = None;
        let mut listener = |event: Event<'_>| {
            let (save, written) = self.hear(&event);
            if let Err(error) = written {
                trouble.get_or_insert(error);
            }
            match (is_set(&self.interrupted) || trouble.is_some(), save) {
                (true, _) => Control::Stop,
                (false, true) => Control::Save,
                (false, false) => Control::Go,
            }
        };
        let (rows, scored) = (&train.examples, &dev.examples);
        let ended = resume(
            learner,
            &given.labels,
            rows,
            scored,
            &given.plan,
            saved,
            &mut listener,
        );
        self.progress.finish();
        match trouble {
            Some(error) => Err(error.into()),
            None => ended.map_err(|stopped| failure(stopped, train, self.run_dir)),
        }
    }

    /// Shows and writes what happened; whether there should be a checkpoint of it.
    fn hear(&mut self, event: &Event<'_>) -> (bool, Result<(), Error>) {
        self.progress.hear(event);
        match event {
            Event::Step { step, .. } => {
                let due = self.every > 0 && step.is_multiple_of(self.every);
                (due, Ok(()))
            }
            Event::Epoch(epoch) => (true, self.run_dir.add_metrics(epoch)),
            Event::Phase { number, live } => {
                let adapter = live.adapter(self.model);
                (
                    false,
                    self.run_dir.add_phase(*number, &adapter, self.stored),
                )
            }
            Event::Checkpoint(snapshot) => (false, self.run_dir.save(self.identity, *snapshot)),
        }
    }
}

fn failure(stopped: Stopped, train: &Data, run_dir: &RunDir) -> Failure {
    match stopped {
        Stopped::NotFinite {
            step,
            loss,
            norm,
            rows,
        } => {
            // Rows are told by the lines of their file: that is where one looks.
            let lines: Vec<usize> = rows.iter().map(|&i| train.rows[i].line).collect();
            let shown = train.path.display();
            Failure::Failed(format!(
                "step {step}: the loss is {loss}, the norm of its gradients {norm}; its rows are lines {lines:?} of \
                 {shown}; a smaller learning rate may help"
            ))
        }
        Stopped::Metric { .. } | Stopped::Schedule(_) => Failure::Usage(stopped.to_string()),
        Stopped::Asked { step } => {
            Failure::Interrupted(format!("saved after step {step}; {}", run_dir.hint()))
        }
        Stopped::Failed(error) => error.into(),
    }
}
