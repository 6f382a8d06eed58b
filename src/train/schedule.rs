//! The sparsifying scheduler (SoRA's Algorithm 1): one model trained at a rising list of strengths, from dense to sparse.
//!
//! The first phase trains as usual; each later one goes on from where the one before ended, at the next strength, with rates
//! that rise and fall anew. (In the original code the rates have reached 0 by then and stay there, so that gates shrink
//! and nothing learns: [`Schedule::frozen`].) Scores of every phase are told as shares of the first one's: on training
//! rows *memorisation*, on others *generalisation*.
//!
//! Pure: lists, the plan of a phase, and the phases that epochs tell of. Training them is `run`'s.

use std::str::FromStr;

use super::{
    optim::Prox,
    run::{Epoch, Plan},
};

/// How strengths lie between two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spacing {
    /// By equal steps.
    Linear,
    /// Logarithms of equal steps between the exponentials: for small strengths next to linear.
    LogLinear,
    /// By equal factors; both ends must be above 0.
    Geometric,
}

type Curve = fn(f64) -> f64;

/// `count` strengths from `from` to `to`.
///
/// # Errors
/// What about the ends makes no rising list.
pub fn strengths(spacing: Spacing, from: f64, to: f64, count: usize) -> Result<Vec<f64>, String> {
    if count < 2 {
        return Err(format!("{count} strengths: a schedule has two or more"));
    }
    if spacing == Spacing::Geometric && from <= 0.0 {
        return Err(format!("geometric from {from}: it must be above 0"));
    }
    let (map, back): (Curve, Curve) = match spacing {
        Spacing::Linear => (|x| x, |x| x),
        Spacing::LogLinear => (f64::exp, f64::ln),
        Spacing::Geometric => (f64::ln, f64::exp),
    };
    let (a, b) = (map(from), map(to));
    let last = count - 1;
    let between = (1..last).map(|i| back(a + (b - a) * i as f64 / last as f64));
    let list: Vec<f64> = std::iter::once(from).chain(between).chain([to]).collect();
    rising(&list).map(|()| list)
}

/// A list of strengths as it is written on a command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Strengths(pub Vec<f64>);

impl FromStr for Strengths {
    type Err = String;

    /// `0,0.5,1`, or `linear:FROM:TO:COUNT`, likewise `log-linear` and `geometric`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |s: &str| {
            let number = s.trim().parse::<f64>();
            number.map_err(|_| format!("{text:?}: {s:?} is no number"))
        };
        let Some((spacing, ends)) = text.split_once(':') else {
            let list: Vec<f64> = text.split(',').map(number).collect::<Result<_, _>>()?;
            if list.len() < 2 {
                return Err(format!("{text:?}: a schedule has two strengths or more"));
            }
            rising(&list)?;
            return Ok(Self(list));
        };
        let spacing = match spacing {
            "linear" => Spacing::Linear,
            "log-linear" => Spacing::LogLinear,
            "geometric" => Spacing::Geometric,
            _ => {
                return Err(format!("{text:?}: known are linear, log-linear, geometric"));
            }
        };
        let ends: Vec<&str> = ends.split(':').collect();
        let [from, to, count] = ends[..] else {
            return Err(format!("{text:?}: FROM:TO:COUNT is wanted"));
        };
        let whole = count.parse::<usize>();
        let count = whole.map_err(|_| format!("{text:?}: {count:?} is no number of phases"))?;
        strengths(spacing, number(from)?, number(to)?, count).map(Self)
    }
}

/// Whether these are finite, not below 0, and each above the one before.
///
/// # Errors
/// The first that is not.
pub fn rising(list: &[f64]) -> Result<(), String> {
    let mut before = None;
    for &x in list {
        if !x.is_finite() || x < 0.0 {
            return Err(format!("{x} is no strength"));
        }
        match before {
            Some(b) if x <= b => return Err(format!("{x} after {b}: strengths must rise")),
            _ => before = Some(x),
        }
    }
    Ok(())
}

/// What to train, phase by phase.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Schedule {
    /// Of the plan's proximal operator: lambda of the soft one, xi of the official one. Rising.
    pub strengths: Vec<f64>,
    /// Epochs of every phase after the first.
    pub epochs: usize,
    /// Whether, as in the original code, rates are 0 after the first phase. Only the official operator, whose threshold is
    /// no share of a rate, then does anything.
    pub frozen: bool,
}

impl Schedule {
    /// The plan of every phase of a run that is planned as `plan`.
    ///
    /// # Errors
    /// Strengths that do not rise, and those of [`Schedule::plan`].
    pub fn plans(&self, plan: &Plan) -> Result<Vec<Plan>, String> {
        rising(&self.strengths)?;
        let numbers = 0..self.strengths.len();
        numbers.map(|number| self.plan(number, plan)).collect()
    }

    /// The plan of phase `number` (from 0) of a run that is planned as `plan`.
    ///
    /// # Errors
    /// A plan without a proximal operator, or frozen with the soft one.
    pub fn plan(&self, number: usize, plan: &Plan) -> Result<Plan, String> {
        let strength = self.strengths[number] as f32;
        let mut plan = Plan {
            schedule: None,
            ..plan.clone()
        };
        plan.optimizer.prox = match plan.optimizer.prox {
            Prox::Soft(_) if self.frozen => {
                return Err(
                    "rates of 0 make a soft threshold of 0: frozen wants the official one".into(),
                );
            }
            Prox::Soft(_) => Prox::Soft(strength),
            Prox::Official(_) => Prox::Official(strength),
            Prox::Off => return Err("a schedule of strengths wants a proximal operator".into()),
        };
        if number > 0 {
            plan.epochs = self.epochs;
            (plan.gate_window, plan.keep) = (None, None);
            if self.frozen {
                (plan.lr, plan.gate_lr, plan.head_lr) = (0.0, 0.0, 0.0);
                plan.gate_travel = None;
            }
        }
        Ok(plan)
    }
}

/// One phase, as it ended.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Phase {
    /// From 0.
    pub number: usize,
    /// Of the proximal operator.
    pub strength: f64,
    /// Its last epoch, from 1 over all phases.
    pub epoch: usize,
    /// The metric on a sample of the training rows, where it was taken.
    pub train: Option<f64>,
    /// The metric on the development rows.
    pub dev: f64,
    /// `train` in percent of the first phase's.
    pub memorisation: Option<f64>,
    /// `dev` in percent of the first phase's.
    pub generalisation: f64,
    /// Ranks whose gate is open.
    pub kept_ranks: usize,
    /// Parameters of A and B in them.
    pub kept_parameters: usize,
}

impl Schedule {
    /// Every phase that has begun, by the last of its `epochs` that there is.
    pub fn phases(&self, epochs: &[Epoch], metric: &str) -> Vec<Phase> {
        let mut out: Vec<Phase> = Vec::new();
        for (number, &strength) in self.strengths.iter().enumerate() {
            let Some(last) = epochs.iter().rfind(|e| e.phase == number) else {
                break;
            };
            let (train, dev) = (last.train_scores.get(metric), last.scores.get(metric));
            let (train, dev) = (train.copied(), dev.copied().unwrap_or(f64::NAN));
            let first = out.first().map_or((train, dev), |p| (p.train, p.dev));
            out.push(Phase {
                number,
                strength,
                epoch: last.epoch,
                train,
                dev,
                memorisation: train.zip(first.0).map(|(now, then)| 100.0 * now / then),
                generalisation: 100.0 * dev / first.1,
                kept_ranks: last.kept_ranks,
                kept_parameters: last.kept_parameters,
            });
        }
        out
    }
}

#[cfg(test)]
mod tests;
