//! A whole training run: epochs of shuffled, length-bucketed batches, scores on the development rows, the chosen epoch.
//!
//! With a [`Schedule`] epochs come in phases: each goes on from the parameters that the one before ended with, with fresh
//! moments and rates that rise and fall anew. Which epoch is chosen is looked for over all phases.
//!
//! The order of rows, the initial values and dropout are functions of the seed, so that all there is to know between two
//! steps is a [`State`], the parameters and the moments: what [`super::checkpoint`] writes and [`resume`] goes on from, bit for
//! bit. What happens is told to a listener, who may ask to save or to stop. A loss that is not finite ends the run with
//! the step and the rows. Nothing is read or written here.

mod state;

use std::{collections::BTreeMap, time::Instant};

pub use self::state::{Candidate, Epoch, Saved, Snapshot, State};

use super::{
    adalora::{Allocator, Budget},
    choice::{Select, choose},
    data::Labels,
    learner::{Example, Learner},
    metrics::scores,
    optim::{Optimizer, Prox, Rates, Settings, warm_up_and_decay},
    order::{batches, sample},
    schedule::Schedule,
    sora::Live,
};
use crate::{error::Error, mat::Matrix};

/// How long, how fast, in what portions.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Plan {
    /// Passes over the training rows (with a schedule: of its first phase).
    pub epochs: usize,
    /// Rows of a step.
    pub batch: usize,
    /// Learning rate of A and B.
    pub lr: f64,
    /// Of the gates.
    pub gate_lr: f64,
    /// How far the soft threshold moves a gate in all, instead of [`Plan::gate_lr`]: [`Plan::gate_rate`].
    pub gate_travel: Option<f64>,
    /// From which to which share of the steps gates move, if not in all of them: before, they rest at their start while the task is
    /// learnt; after, what is open stays open and A and B settle without a threshold. For the soft operator: the official one's threshold is no share
    /// of a rate. A variant of ours, not the paper's.
    pub gate_window: Option<(f64, f64)>,
    /// The largest share of A's and B's parameters that stays when the window ends: [`Live::keep_at_most`].
    pub keep: Option<f64>,
    /// Of the head.
    pub head_lr: f64,
    /// Share of the steps over which rates rise.
    pub warmup: f64,
    /// Steps between those in which closed gates take part too; 1 is the exact method.
    pub revive_every: usize,
    /// AdaLoRA's.
    pub budget: Option<Budget>,
    /// The metric that epochs are chosen by.
    pub metric: String,
    /// How the epoch is chosen whose parameters the run comes to.
    pub select: Select,
    /// The sparsifying schedule, where there is one.
    pub schedule: Option<Schedule>,
    /// Epochs without a better score after which the run (with a schedule: the phase) ends; `None` is never.
    pub patience: Option<usize>,
    /// Training rows that are scored after each epoch too, to see what is learnt by heart.
    pub train_scored: usize,
    /// Seed of order and initial values.
    pub seed: u64,
    /// The optimiser's.
    pub optimizer: Settings,
}

impl Plan {
    /// Steps over `rows` training rows.
    fn steps(&self, rows: usize) -> usize {
        rows.div_ceil(self.batch.max(1)) * self.epochs
    }

    /// The gates' learning rate over `steps` steps.
    ///
    /// A rate that rises and falls in straight lines sums to half its peak times the steps, so a soft threshold of rate x
    /// lambda takes `lambda x rate x steps / 2` from a gate in all. Given that distance (`gate_travel`), the rate follows from the
    /// steps in which gates move: how much is pruned no longer depends on how many rows there are.
    pub fn gate_rate(&self, steps: usize) -> f64 {
        match (self.gate_travel, self.optimizer.prox) {
            (Some(travel), Prox::Soft(lambda)) if lambda > 0.0 => {
                let (from, to) = self.gate_steps(steps);
                2.0 * travel / (f64::from(lambda) * (to - from) as f64)
            }
            _ => self.gate_lr,
        }
    }

    /// The steps of `steps` in which gates move: from the first up to the second.
    fn gate_steps(&self, steps: usize) -> (usize, usize) {
        let (from, to) = self.gate_window.unwrap_or((0.0, 1.0));
        let [from, to] = [from, to].map(|share| (share * steps as f64).round() as usize);
        (from, to.max(from + 1))
    }

    /// What at most stays from here on, after `done` of `steps` steps: told once, when the window ends.
    fn bound(&self, done: usize, steps: usize) -> Option<f64> {
        self.keep.filter(|_| done == self.gate_steps(steps).1)
    }

    /// All rates at `step` (from 0) of `steps`: up over the warm-up and down to 0. In a window of their own gates go down from their
    /// peak at once: their moments were gathered before it.
    pub fn rates(&self, step: usize, steps: usize) -> Rates {
        let warmup = (self.warmup * steps as f64).round() as usize;
        let factor = warm_up_and_decay(step, warmup, steps);
        let (from, to) = self.gate_steps(steps);
        let gate = match self.gate_window {
            None => factor,
            Some(_) if (from..to).contains(&step) => warm_up_and_decay(step - from, 0, to - from),
            Some(_) => 0.0,
        };
        Rates {
            main: self.lr * factor,
            gate: self.gate_rate(steps) * gate,
            head: self.head_lr * factor,
        }
    }

    /// The plan of every phase; one where there is no schedule.
    fn phases(&self) -> Result<Vec<Plan>, Stopped> {
        match &self.schedule {
            None => Ok(vec![self.clone()]),
            Some(schedule) => schedule.plans(self).map_err(Stopped::Schedule),
        }
    }

    /// The optimiser of a run over `rows` training rows, at its start.
    pub fn optimizer(&self, rows: usize, live: &Live) -> Optimizer {
        let optimizer = Optimizer::new(self.optimizer, &live.parameters);
        match self.budget {
            Some(budget) => optimizer.with_budget(Allocator::new(budget, self.steps(rows), live)),
            None => optimizer,
        }
    }
}

/// What a listener hears.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// From 1.
        step: usize,
        /// Of how many.
        steps: usize,
        /// Its mean loss.
        loss: f64,
        /// Ranks whose gate is open.
        kept: usize,
        /// Tokens of its rows.
        tokens: usize,
    },
    /// An epoch is done and scored.
    Epoch(&'a Epoch),
    /// A phase of a schedule is done. It is told again when a run goes on that was cut right after; the answer is not
    /// heard.
    Phase {
        /// From 0.
        number: usize,
        /// The parameters that it ended with.
        live: &'a Live,
    },
    /// What was asked for by [`Control::Save`] or [`Control::Stop`]; the answer is not heard.
    Checkpoint(Snapshot<'a>),
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Yes.
    Go,
    /// Yes, but first here is a checkpoint.
    Save,
    /// No: a checkpoint, then [`Stopped::Asked`].
    Stop,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The parameters of the chosen epoch.
    pub best: Live,
    /// Its number.
    pub best_epoch: usize,
    /// Every epoch.
    pub epochs: Vec<Epoch>,
}

/// Why a run ended without one.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The loss or a gradient was not finite.
    #[error(
        "step {step}: the loss is {loss}, the norm of its gradients {norm}; its training rows (from 0) are {rows:?}. A \
         smaller learning rate may help"
    )]
    NotFinite {
        /// From 1.
        step: usize,
        /// What it was.
        loss: f64,
        /// Of all gradients.
        norm: f64,
        /// Training rows of the step, from 0.
        rows: Vec<usize>,
    },
    /// The metric is none that this kind of task has.
    #[error("there is no metric {metric:?} here; there are {known}")]
    Metric {
        /// Asked for.
        metric: String,
        /// Those there are.
        known: String,
    },
    /// The schedule is none that this plan can follow.
    #[error("the schedule: {0}")]
    Schedule(String),
    /// The listener asked for it.
    #[error("stopped after step {step}")]
    Asked {
        /// The last one done.
        step: usize,
    },
    /// Something else.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Trains `learner` on `train`, scoring on `dev` after each epoch.
///
/// # Errors
/// A loss that is not finite; a metric that this kind of task has not; the listener's wish.
pub fn run(
    learner: &mut Learner<'_>,
    labels: &Labels,
    train: &[Example],
    dev: &[Example],
    plan: &Plan,
    listener: &mut dyn FnMut(Event<'_>) -> Control,
) -> Result<Outcome, Stopped> {
    resume(learner, labels, train, dev, plan, None, listener)
}

/// As [`run`], from where another one with the same learner, rows and plan was saved: what comes out has the same bits as
/// what the other one would have come to.
///
/// # Errors
/// As [`run`].
pub fn resume(
    learner: &mut Learner<'_>,
    labels: &Labels,
    train: &[Example],
    dev: &[Example],
    plan: &Plan,
    saved: Option<Saved>,
    listener: &mut dyn FnMut(Event<'_>) -> Control,
) -> Result<Outcome, Stopped> {
    let known = scores(labels, &[], &[]);
    if !known.contains_key(plan.metric.as_str()) {
        return Err(Stopped::Metric {
            metric: plan.metric.clone(),
            known: known.into_keys().collect::<Vec<_>>().join(", "),
        });
    }
    let again = sample(train.len(), plan.train_scored, plan.seed);
    let again: Vec<Example> = again.into_iter().map(|i| train[i].clone()).collect();
    let phases = plan.phases()?;
    let (mut state, mut optimizer) = match saved {
        Some(saved) => {
            learner.live = saved.live;
            (saved.state, saved.optimizer)
        }
        None => (State::default(), plan.optimizer(train.len(), &learner.live)),
    };
    *optimizer.settings_mut() = phases[state.phase].optimizer;
    loop {
        let now = &phases[state.phase];
        while !state.is_over(now) {
            one_epoch(
                learner,
                train,
                &phases,
                &mut state,
                &mut optimizer,
                listener,
            )?;
            let epoch = scored(learner, labels, dev, &again, &mut state);
            let wish = listener(Event::Epoch(&epoch));
            state.add(epoch, &learner.live, plan);
            heed(wish, &state, &learner.live, &optimizer, listener)?;
        }
        if plan.schedule.is_some() {
            let (number, live) = (state.phase, &learner.live);
            listener(Event::Phase { number, live });
        }
        if state.phase + 1 == phases.len() {
            break;
        }
        state.phase += 1;
        optimizer = phases[state.phase].optimizer(train.len(), &learner.live);
    }
    let chosen = choose(&state.points(), plan.select);
    let (best_epoch, best) = match chosen {
        Some(place) => {
            let chosen = state.candidates.swap_remove(place);
            (chosen.epoch, chosen.live)
        }
        None => (0, learner.live.clone()),
    };
    Ok(Outcome {
        best,
        best_epoch,
        epochs: state.epochs,
    })
}

/// The epoch that `state` has come to the end of, scored on `dev` and on the training rows in `again`.
fn scored(
    learner: &mut Learner<'_>,
    labels: &Labels,
    dev: &[Example],
    again: &[Example],
    state: &mut State,
) -> Epoch {
    let (kept_ranks, kept_parameters) = learner.live.kept();
    let train_scores = match again.is_empty() {
        true => BTreeMap::new(),
        false => score(learner, labels, again),
    };
    let epoch = Epoch {
        epoch: state.epochs.len() + 1,
        phase: state.phase,
        step: state.step,
        loss: state.loss / state.batches.max(1) as f64,
        scores: score(learner, labels, dev),
        train_scores,
        kept_ranks,
        kept_parameters,
        seconds: state.seconds,
        tokens: state.tokens,
        curve: std::mem::take(&mut state.curve),
    };
    (state.batches, state.loss) = (0, 0.0);
    epoch
}

/// About so many points of the loss over a run.
const CURVE: usize = 400;

/// What is left of the epoch that `state` is in.
fn one_epoch(
    learner: &mut Learner<'_>,
    train: &[Example],
    phases: &[Plan],
    state: &mut State,
    optimizer: &mut Optimizer,
    listener: &mut dyn FnMut(Event<'_>) -> Control,
) -> Result<(), Stopped> {
    let plan = &phases[state.phase];
    let per_epoch = train.len().div_ceil(plan.batch.max(1));
    let (before, steps) = (state.steps_before(), plan.steps(train.len()));
    let later = phases[state.phase + 1..]
        .iter()
        .map(|p| p.steps(train.len()));
    let in_all = before + steps + later.sum::<usize>();
    let every = in_all.div_ceil(CURVE).max(1);
    let order = batches(train, plan.batch, plan.seed, state.epochs.len() + 1);
    for batch in order.into_iter().skip(state.batches) {
        let start = Instant::now();
        let rows: Vec<&Example> = batch.iter().map(|&i| &train[i]).collect();
        let rates = plan.rates(state.step - before, steps);
        // Outside its window a gate does not move: asking closed ones would change nothing.
        let rest = plan.gate_window.is_some() && rates.gate == 0.0;
        let asked = !rest && state.step.is_multiple_of(plan.revive_every.max(1));
        let all = optimizer.wants_all() || asked;
        let bound = learner.bind(all);
        let (loss, mut gradients) = learner.gradients(&bound, &rows, state.step as u64);
        let masks = learner.live.masks(&bound);
        let active = |p: usize| masks[p].clone();
        let parameters = &mut learner.live.parameters;
        let norm = optimizer.step(parameters, &mut gradients, &active, rates);
        state.step += 1;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Stopped::NotFinite {
                step: state.step,
                loss,
                norm,
                rows: batch,
            });
        }
        if let Some(share) = plan.bound(state.step - before, steps) {
            learner.live.keep_at_most(share);
        }
        let tokens: usize = rows.iter().map(|r| r.ids.len()).sum();
        let kept = learner.live.kept().0;
        state.batches += 1;
        state.loss += loss;
        state.tokens += tokens;
        state.recent += loss;
        if state.batches.is_multiple_of(every) || state.batches == per_epoch {
            let since = match state.batches % every {
                0 => every,
                rest => rest,
            };
            let mean = state.recent / since as f64;
            state.curve.push((state.step, mean, kept));
            state.recent = 0.0;
        }
        state.seconds += start.elapsed().as_secs_f64();
        let wish = listener(Event::Step {
            step: state.step,
            steps: in_all,
            loss,
            kept,
            tokens,
        });
        heed(wish, state, &learner.live, optimizer, listener)?;
    }
    Ok(())
}

/// Does what the listener asked for.
fn heed(
    wish: Control,
    state: &State,
    live: &Live,
    optimizer: &Optimizer,
    listener: &mut dyn FnMut(Event<'_>) -> Control,
) -> Result<(), Stopped> {
    if wish != Control::Go {
        listener(Event::Checkpoint(Snapshot {
            state,
            live,
            optimizer,
        }));
    }
    match wish {
        Control::Stop => Err(Stopped::Asked { step: state.step }),
        Control::Go | Control::Save => Ok(()),
    }
}

/// Every metric on `rows`.
pub fn score(
    learner: &mut Learner<'_>,
    labels: &Labels,
    rows: &[Example],
) -> BTreeMap<&'static str, f64> {
    const AT_ONCE: usize = 64;
    let bound = learner.bind(false);
    // Rows of like length together: threads then end together.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| rows[i].ids.len());
    let mut logits = vec![Matrix::default(); rows.len()];
    for some in order.chunks(AT_ONCE) {
        let examples: Vec<&Example> = some.iter().map(|&i| &rows[i]).collect();
        for (&i, x) in some.iter().zip(learner.logits(&bound, &examples)) {
            logits[i] = x;
        }
    }
    let targets: Vec<_> = rows.iter().map(|r| r.target.clone()).collect();
    scores(labels, &logits, &targets)
}
