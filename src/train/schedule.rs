//! The sparsifying scheduler (SoRA's Algorithm 1): one model trained at a rising list of strengths, from dense to sparse.
//!
//! The first phase trains as usual; each later one goes on from where the one before ended, at the next strength, with rates
//! that rise and fall anew. (In the original code the rates have reached 0 by then and stay there, so that gates shrink
//! and nothing learns: [`Schedule::frozen`].) Scores of every phase are told as shares of the first one's: on training
//! rows *memorisation*, on others *generalisation*.
//!
//! Pure but for the closure that trains a phase; saving what it came to is its caller's.

use super::{optim::Prox, run::Plan};

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
    /// The plan of phase `number` (from 0) of a run that is planned as `plan`.
    ///
    /// # Errors
    /// A plan without a proximal operator, or frozen with the soft one.
    pub fn plan(&self, number: usize, plan: &Plan) -> Result<Plan, String> {
        let strength = self.strengths[number] as f32;
        let mut plan = plan.clone();
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
            if self.frozen {
                (plan.lr, plan.gate_lr, plan.head_lr) = (0.0, 0.0, 0.0);
            }
        }
        Ok(plan)
    }
}

/// What training a phase came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trained {
    /// The metric on a sample of the training rows.
    pub train: f64,
    /// The metric on the development rows.
    pub dev: f64,
    /// Ranks whose gate is open.
    pub kept_ranks: usize,
    /// Parameters of A and B in them.
    pub kept_parameters: usize,
}

/// One phase.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Phase {
    /// From 0.
    pub number: usize,
    /// Of the proximal operator.
    pub strength: f64,
    /// The metric on a sample of the training rows.
    pub train: f64,
    /// The metric on the development rows.
    pub dev: f64,
    /// `train` in percent of the first phase's.
    pub memorisation: f64,
    /// `dev` in percent of the first phase's.
    pub generalisation: f64,
    /// Ranks whose gate is open.
    pub kept_ranks: usize,
    /// Parameters of A and B in them.
    pub kept_parameters: usize,
}

/// Runs every phase: `train` is given its number and plan, and trains the model that the one before left.
///
/// # Errors
/// Those of `train`, and a plan that no phase can be made of (`wrong` makes the error).
pub fn phases<E>(
    schedule: &Schedule,
    plan: &Plan,
    wrong: impl Fn(String) -> E,
    train: &mut dyn FnMut(usize, &Plan) -> Result<Trained, E>,
) -> Result<Vec<Phase>, E> {
    rising(&schedule.strengths).map_err(&wrong)?;
    let mut out: Vec<Phase> = Vec::new();
    for (number, &strength) in schedule.strengths.iter().enumerate() {
        let plan = schedule.plan(number, plan).map_err(&wrong)?;
        let t = train(number, &plan)?;
        let (train_first, dev_first) = out.first().map_or((t.train, t.dev), |p| (p.train, p.dev));
        out.push(Phase {
            number,
            strength,
            train: t.train,
            dev: t.dev,
            memorisation: 100.0 * t.train / train_first,
            generalisation: 100.0 * t.dev / dev_first,
            kept_ranks: t.kept_ranks,
            kept_parameters: t.kept_parameters,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optim::Settings;

    fn plan(prox: Prox) -> Plan {
        Plan {
            epochs: 7,
            batch: 8,
            lr: 1e-3,
            gate_lr: 2e-3,
            head_lr: 3e-3,
            warmup: 0.1,
            revive_every: 1,
            budget: None,
            metric: "accuracy".into(),
            patience: None,
            train_scored: 0,
            seed: 1,
            optimizer: Settings {
                prox,
                ..Settings::default()
            },
        }
    }

    fn schedule(frozen: bool) -> Schedule {
        Schedule {
            strengths: vec![0.0, 1.0, 2.0],
            epochs: 3,
            frozen,
        }
    }

    #[test]
    fn lists_are_those_of_the_formulas() {
        let near = |got: Vec<f64>, want: &[f64]| {
            let pairs = got.iter().zip(want);
            let same = got.len() == want.len();
            assert!(
                same && pairs
                    .into_iter()
                    .all(|(a, b)| (a - b).abs() <= 1e-9 * b.abs()),
                "{got:?}"
            );
        };
        let linear = strengths(Spacing::Linear, 0.0, 7e-4, 7).unwrap();
        near(
            linear.clone(),
            &(0..7)
                .map(|i| f64::from(i) * 7e-4 / 6.0)
                .collect::<Vec<_>>(),
        );
        near(
            strengths(Spacing::Geometric, 1e-4, 1e-2, 3).unwrap(),
            &[1e-4, 1e-3, 1e-2],
        );
        let log = strengths(Spacing::LogLinear, 0.0, 7e-4, 7).unwrap();
        assert!(log.iter().zip(&linear).all(|(a, b)| (a - b).abs() < 1e-7));
        let far = strengths(Spacing::LogLinear, 0.0, 2.0, 3).unwrap();
        near(far, &[0.0, ((1.0 + 2f64.exp()) / 2.0).ln(), 2.0]);
        for (spacing, from, to, count, why) in [
            (Spacing::Geometric, 0.0, 1.0, 3, "above 0"),
            (Spacing::Linear, 1.0, 1.0, 3, "rise"),
            (Spacing::Linear, -1.0, 1.0, 3, "no strength"),
            (Spacing::Linear, 0.0, 1.0, 1, "two or more"),
        ] {
            let error = strengths(spacing, from, to, count).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn later_phases_have_their_strength_and_rates_built_anew_or_frozen() {
        let first = schedule(false).plan(0, &plan(Prox::Soft(9.0))).unwrap();
        assert_eq!((first.epochs, first.optimizer.prox), (7, Prox::Soft(0.0)));
        let second = schedule(false).plan(1, &plan(Prox::Soft(9.0))).unwrap();
        assert_eq!((second.epochs, second.optimizer.prox), (3, Prox::Soft(1.0)));
        assert_eq!(
            (second.lr, second.gate_lr, second.head_lr),
            (1e-3, 2e-3, 3e-3)
        );
        let frozen = schedule(true).plan(2, &plan(Prox::Official(9.0))).unwrap();
        assert_eq!(frozen.optimizer.prox, Prox::Official(2.0));
        assert_eq!((frozen.lr, frozen.gate_lr, frozen.head_lr), (0.0, 0.0, 0.0));
        assert!(schedule(true).plan(1, &plan(Prox::Soft(9.0))).is_err());
        assert!(schedule(false).plan(1, &plan(Prox::Off)).is_err());
    }

    #[test]
    fn phases_follow_each_other_and_are_measured_against_the_first() {
        let mut seen = Vec::new();
        let run = phases(
            &schedule(false),
            &plan(Prox::Soft(0.0)),
            |e| e,
            &mut |number, plan| {
                seen.push((number, plan.optimizer.prox));
                let left = 1.0 / (1 + number) as f64;
                Ok(Trained {
                    train: 0.8 * left,
                    dev: 0.5 * left,
                    kept_ranks: 6 / (1 + number),
                    kept_parameters: 60 / (1 + number),
                })
            },
        );
        let run = run.unwrap();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[2], (2, Prox::Soft(2.0)));
        assert_eq!((run[0].memorisation, run[0].generalisation), (100.0, 100.0));
        assert_eq!((run[1].memorisation, run[1].generalisation), (50.0, 50.0));
        assert_eq!((run[2].kept_parameters, run[2].strength), (20, 2.0));
        let mut runs = 0;
        let failed = phases(
            &schedule(false),
            &plan(Prox::Soft(0.0)),
            |e| e,
            &mut |_, _| {
                runs += 1;
                Err::<Trained, _>("no".to_owned())
            },
        );
        assert_eq!((failed, runs), (Err("no".to_owned()), 1));
    }
}
