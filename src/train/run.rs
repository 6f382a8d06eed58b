//! A whole training run: epochs of shuffled, length-bucketed batches, scores on the development rows, the best epoch.
//!
//! The order of rows, the initial values and dropout are functions of the seed. What happens is told to a listener,
//! who may ask to stop. A loss that is not finite ends the run with the step and the rows.

use std::{collections::BTreeMap, time::Instant};

use super::{
    adalora::{Allocator, Budget},
    learner::{Example, Learner},
    metrics::scores,
    optim::{Optimizer, Rates, Settings, warm_up_and_decay},
    random::Random,
    sora::Live,
};
use crate::{error::Error, mat::Matrix, spec::Problem};

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
    /// Seed of order and initial values.
    pub seed: u64,
    /// The optimiser's.
    pub optimizer: Settings,
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
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Yes.
    Go,
    /// Stop here, with what is best so far.
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
    /// Ranks whose gate is open.
    pub kept_ranks: usize,
    /// Parameters of A and B in them.
    pub kept_parameters: usize,
    /// Seconds of training so far, scoring left out.
    pub seconds: f64,
    /// Tokens trained so far.
    pub tokens: usize,
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
        "step {step}: the loss is {loss}; its training rows (from 0) are {rows:?}. A smaller learning rate may help"
    )]
    NotFinite {
        /// From 1.
        step: usize,
        /// What it was.
        loss: f64,
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
    /// Something else.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Trains `learner` on `train`, scoring on `dev` after each epoch.
///
/// # Errors
/// A loss that is not finite; a metric that this kind of task has not.
pub fn run(
    learner: &mut Learner<'_>,
    problem: Problem,
    train: &[Example],
    dev: &[Example],
    plan: &Plan,
    listener: &mut dyn FnMut(Event<'_>) -> Control,
) -> Result<Outcome, Stopped> {
    let per_epoch = train.len().div_ceil(plan.batch.max(1));
    let steps = per_epoch * plan.epochs;
    let warmup = (plan.warmup * steps as f64).round() as usize;
    let rates = Rates {
        main: plan.lr,
        gate: plan.gate_lr,
        head: plan.head_lr,
    };
    let mut optimizer = Optimizer::new(plan.optimizer, &learner.live.parameters);
    if let Some(budget) = plan.budget {
        optimizer = optimizer.with_budget(Allocator::new(budget, steps, &learner.live));
    }
    let mut best: Option<(f64, usize, Live)> = None;
    let (mut epochs, mut step, mut seconds, mut tokens) = (Vec::new(), 0, 0.0, 0);
    let mut stop = false;
    for epoch in 1..=plan.epochs {
        let (start, mut sum, mut done) = (Instant::now(), 0.0, 0);
        for batch in batches(train, plan.batch, plan.seed, epoch) {
            let rows: Vec<&Example> = batch.iter().map(|&i| &train[i]).collect();
            let all = optimizer.wants_all() || step % plan.revive_every.max(1) == 0;
            let bound = learner.bind(all);
            let (loss, mut gradients) = learner.gradients(&bound, &rows, step as u64);
            let rates = rates.scaled(warm_up_and_decay(step, warmup, steps));
            step += 1;
            let masks = learner.live.masks(&bound);
            let active = |p: usize| masks[p].clone();
            let parameters = &mut learner.live.parameters;
            let norm = optimizer.step(parameters, &mut gradients, &active, rates);
            if !loss.is_finite() || !norm.is_finite() {
                return Err(Stopped::NotFinite {
                    step,
                    loss,
                    rows: batch,
                });
            }
            let here: usize = rows.iter().map(|r| r.ids.len()).sum();
            (sum, done, tokens) = (sum + loss, done + 1, tokens + here);
            let (kept, _) = learner.live.kept();
            let event = Event::Step {
                step,
                steps,
                loss,
                kept,
                tokens: here,
            };
            if listener(event) == Control::Stop {
                stop = true;
                break;
            }
        }
        seconds += start.elapsed().as_secs_f64();
        let scores = score(learner, problem, dev);
        let known = || scores.keys().copied().collect::<Vec<_>>().join(", ");
        let Some(&value) = scores.get(plan.metric.as_str()) else {
            return Err(Stopped::Metric {
                metric: plan.metric.clone(),
                known: known(),
            });
        };
        let (kept_ranks, kept_parameters) = learner.live.kept();
        let report = Epoch {
            epoch,
            step,
            loss: sum / f64::from(done.max(1)),
            scores,
            kept_ranks,
            kept_parameters,
            seconds,
            tokens,
        };
        let control = listener(Event::Epoch(&report));
        epochs.push(report);
        if best.as_ref().is_none_or(|(b, ..)| value > *b) {
            best = Some((value, epoch, learner.live.clone()));
        }
        if stop || control == Control::Stop {
            break;
        }
    }
    let (_, best_epoch, best) = best.unwrap_or((0.0, 0, learner.live.clone()));
    Ok(Outcome {
        best,
        best_epoch,
        epochs,
    })
}

/// Every metric on `rows`.
pub fn score(
    learner: &mut Learner<'_>,
    problem: Problem,
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
    scores(problem, &logits, &targets)
}

/// The rows of an epoch in batches: shuffled, rows of like length together, batches shuffled again.
fn batches(rows: &[Example], size: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    const BUCKETS: usize = 50; // batches that are sorted together
    let size = size.max(1);
    let mut random = Random::new(seed, &format!("order of epoch {epoch}"));
    let mut order: Vec<usize> = (0..rows.len()).collect();
    random.shuffle(&mut order);
    for bucket in order.chunks_mut(size * BUCKETS) {
        bucket.sort_by_key(|&i| rows[i].ids.len());
    }
    let mut batches: Vec<Vec<usize>> = order.chunks(size).map(<[usize]>::to_vec).collect();
    random.shuffle(&mut batches);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::loss::Target;

    #[test]
    fn an_epoch_takes_every_row_once_in_batches_of_like_length() {
        let rows: Vec<Example> = (0..103)
            .map(|i| Example {
                ids: vec![1; 1 + i * 7 % 31],
                types: vec![0; 1 + i * 7 % 31],
                target: Target::Class(0),
            })
            .collect();
        let found = batches(&rows, 8, 3, 1);
        assert_eq!(found, batches(&rows, 8, 3, 1));
        assert_ne!(found, batches(&rows, 8, 3, 2));
        let spread = found.iter().map(|b| {
            let lengths = b.iter().map(|&i| rows[i].ids.len());
            lengths.clone().max().unwrap() - lengths.min().unwrap()
        });
        assert!(spread.max().unwrap() <= 4);
        let mut all = found.concat();
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<_>>());
    }
}
