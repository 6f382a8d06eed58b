//! A whole training run: epochs of shuffled, length-bucketed batches, scores on the development rows, the best epoch.
//!
//! The order of rows, the initial values and dropout are functions of the seed, so that all there is to know between two
//! steps is a [`State`], the parameters and the moments: what [`super::checkpoint`] writes and [`resume`] goes on from, bit for
//! bit. What happens is told to a listener, who may ask to save or to stop. A loss that is not finite ends the run with
//! the step and the rows. Nothing is read or written here.

use std::{collections::BTreeMap, time::Instant};

use super::{
    adalora::{Allocator, Budget},
    data::Labels,
    learner::{Example, Learner},
    metrics::scores,
    optim::{Optimizer, Rates, Settings, warm_up_and_decay},
    order::{batches, sample},
    sora::Live,
};
use crate::{error::Error, mat::Matrix};

/// How long, how fast, in what portions.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Plan {
    /// Passes over the training rows.
    pub epochs: usize,
    /// Rows of a step.
    pub batch: usize,
    /// Learning rate of A and B.
    pub lr: f64,
    /// Of the gates.
    pub gate_lr: f64,
    /// Of the head.
    pub head_lr: f64,
    /// Share of the steps over which rates rise.
    pub warmup: f64,
    /// Steps between those in which closed gates take part too; 1 is the exact method.
    pub revive_every: usize,
    /// AdaLoRA's.
    pub budget: Option<Budget>,
    /// The metric that picks the best epoch.
    pub metric: String,
    /// Epochs without a better score after which the run ends; `None` is never.
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

/// One epoch.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
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

/// The best epoch so far.
#[derive(Debug, Clone)]
pub struct Best {
    /// Its score.
    pub score: f64,
    /// From 1.
    pub epoch: usize,
    /// Its parameters.
    pub live: Live,
}

/// Where a run stands between two steps, but for parameters and moments.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Epochs that are done and scored.
    pub epochs: Vec<Epoch>,
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
    /// The best of `epochs`.
    pub best: Option<Best>,
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

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The parameters of the best epoch.
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

impl State {
    /// Whether `patience` has run out.
    fn is_stale(&self, plan: &Plan) -> bool {
        let best = self.best.as_ref().map_or(0, |b| b.epoch);
        plan.patience.is_some_and(|p| self.epochs.len() >= best + p)
    }
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
    let (mut state, mut optimizer) = match saved {
        Some(saved) => {
            learner.live = saved.live;
            (saved.state, saved.optimizer)
        }
        None => (State::default(), plan.optimizer(train.len(), &learner.live)),
    };
    while state.epochs.len() < plan.epochs && !state.is_stale(plan) {
        one_epoch(learner, train, plan, &mut state, &mut optimizer, listener)?;
        let (kept_ranks, kept_parameters) = learner.live.kept();
        let train_scores = match again.is_empty() {
            true => BTreeMap::new(),
            false => score(learner, labels, &again),
        };
        let epoch = Epoch {
            epoch: state.epochs.len() + 1,
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
        let value = epoch.scores[plan.metric.as_str()];
        if state.best.as_ref().is_none_or(|b| value > b.score) {
            state.best = Some(Best {
                score: value,
                epoch: epoch.epoch,
                live: learner.live.clone(),
            });
        }
        (state.batches, state.loss) = (0, 0.0);
        let wish = listener(Event::Epoch(&epoch));
        state.epochs.push(epoch);
        heed(wish, &state, &learner.live, &optimizer, listener)?;
    }
    let (best_epoch, best) = match state.best {
        Some(best) => (best.epoch, best.live),
        None => (0, learner.live.clone()),
    };
    Ok(Outcome {
        best,
        best_epoch,
        epochs: state.epochs,
    })
}

/// About so many points of the loss over a run.
const CURVE: usize = 400;

/// What is left of the epoch that `state` is in.
fn one_epoch(
    learner: &mut Learner<'_>,
    train: &[Example],
    plan: &Plan,
    state: &mut State,
    optimizer: &mut Optimizer,
    listener: &mut dyn FnMut(Event<'_>) -> Control,
) -> Result<(), Stopped> {
    let per_epoch = train.len().div_ceil(plan.batch.max(1));
    let steps = plan.steps(train.len());
    let every = steps.div_ceil(CURVE).max(1);
    let warmup = (plan.warmup * steps as f64).round() as usize;
    let rates = Rates {
        main: plan.lr,
        gate: plan.gate_lr,
        head: plan.head_lr,
    };
    let order = batches(train, plan.batch, plan.seed, state.epochs.len() + 1);
    for batch in order.into_iter().skip(state.batches) {
        let start = Instant::now();
        let rows: Vec<&Example> = batch.iter().map(|&i| &train[i]).collect();
        let all = optimizer.wants_all() || state.step.is_multiple_of(plan.revive_every.max(1));
        let bound = learner.bind(all);
        let (loss, mut gradients) = learner.gradients(&bound, &rows, state.step as u64);
        let rates = rates.scaled(warm_up_and_decay(state.step, warmup, steps));
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
            steps,
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
