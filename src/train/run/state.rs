//! Where a run stands between two steps: its epochs so far, and the parameters of those that may still be chosen.
//!
//! Plain values and what follows from them; how one becomes the next is `run`'s, how they are written `checkpoint`'s.

use std::collections::BTreeMap;

use super::Plan;
use crate::train::{
    choice::{Point, in_play},
    optim::Optimizer,
    sora::Live,
};

/// One epoch.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Epoch {
    /// From 1, over all phases.
    pub epoch: usize,
    /// Its phase, from 0.
    pub phase: usize,
    /// Steps so far.
    pub step: usize,
    /// Mean loss over its steps.
    pub loss: f64,
    /// Scores on the development rows, by name.
    pub scores: BTreeMap<&'static str, f64>,
    /// Scores on some training rows, by name; empty where none were asked for.
    pub train_scores: BTreeMap<&'static str, f64>,
    /// Ranks whose gate is open.
    pub kept_ranks: usize,
    /// Parameters of A and B in them.
    pub kept_parameters: usize,
    /// Seconds of training so far, scoring left out.
    pub seconds: f64,
    /// Tokens trained so far.
    pub tokens: usize,
    /// How it went: now and then a step, the mean loss since the one before, and open ranks.
    pub curve: Vec<(usize, f64, usize)>,
}

/// An epoch that may still be chosen.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// From 1.
    pub epoch: usize,
    /// Its score and size.
    pub point: Point,
    /// Its parameters.
    pub live: Live,
}

/// Where a run stands between two steps, but for parameters and moments.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Epochs that are done and scored.
    pub epochs: Vec<Epoch>,
    /// The phase under way, from 0.
    pub phase: usize,
    /// Batches of the next one that are done.
    pub batches: usize,
    /// The sum of their losses.
    pub loss: f64,
    /// Their [`Epoch::curve`].
    pub curve: Vec<(usize, f64, usize)>,
    /// The sum of the losses since its last point.
    pub recent: f64,
    /// Steps so far.
    pub step: usize,
    /// Tokens so far.
    pub tokens: usize,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Those of `epochs` that may still be chosen, in their order.
    pub candidates: Vec<Candidate>,
}

/// All that a run needs to go on, to be written.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// Where it stands.
    pub state: &'a State,
    /// The parameters.
    pub live: &'a Live,
    /// The moments.
    pub optimizer: &'a Optimizer,
}

/// All that a run needs to go on, as it was read.
#[derive(Debug)]
pub struct Saved {
    /// Where it stood.
    pub state: State,
    /// The parameters.
    pub live: Live,
    /// The moments.
    pub optimizer: Optimizer,
}

impl State {
    /// The epochs of the phase under way.
    fn of_phase(&self) -> &[Epoch] {
        let first = self.epochs.partition_point(|e| e.phase < self.phase);
        &self.epochs[first..]
    }

    /// Steps of the phases before.
    pub(super) fn steps_before(&self) -> usize {
        let last = self.epochs.iter().rfind(|e| e.phase < self.phase);
        last.map_or(0, |e| e.step)
    }

    /// Whether the phase is over: all its epochs are done, or `patience` has run out.
    pub(super) fn is_over(&self, plan: &Plan) -> bool {
        let epochs = self.of_phase();
        let score = |e: &Epoch| e.scores[plan.metric.as_str()];
        let best = (1..=epochs.len()).reduce(|a, b| {
            let better = score(&epochs[b - 1]) > score(&epochs[a - 1]);
            if better { b } else { a }
        });
        let stale = |p| epochs.len() >= best.unwrap_or(0) + p;
        epochs.len() >= plan.epochs || plan.patience.is_some_and(stale)
    }

    /// Takes a finished epoch in, and drops parameters that can no longer be chosen.
    pub(super) fn add(&mut self, epoch: Epoch, live: &Live, plan: &Plan) {
        self.candidates.push(Candidate {
            epoch: epoch.epoch,
            point: Point {
                score: epoch.scores[plan.metric.as_str()],
                parameters: epoch.kept_parameters,
            },
            live: live.clone(),
        });
        let places = in_play(&self.points(), plan.select);
        let mut place = 0..;
        self.candidates
            .retain(|_| place.next().is_some_and(|p| places.contains(&p)));
        self.epochs.push(epoch);
    }

    pub(super) fn points(&self) -> Vec<Point> {
        self.candidates.iter().map(|c| c.point).collect()
    }
}
