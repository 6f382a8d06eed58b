//! AdamW, the proximal step of the gates, the L1 term, and the clip over everything together.
//!
//! One step in order, as SoRA's original does it: the L1 subgradient joins the gates' gradients (and AdaLoRA's
//! orthogonality term those of its vectors); the norm over all gradients is clipped; AdamW moves A, B and the head; AdamW (its own epsilon, no decay) moves the gates, and the
//! proximal operator thresholds them; AdaLoRA's budget
//! closes what it does not pay for. Rows of a site's parameters that were left out of the step (ranks whose
//! gate is closed) are not touched at all.

use super::{
    adalora::Allocator,
    sora::{Kind, Parameter},
};
use crate::mat::Matrix;

/// What closes gates after a step.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prox {
    /// None.
    Off,
    /// Soft threshold at learning rate times lambda.
    Soft(f32),
    /// The original code's operator at an absolute xi.
    Official(f32),
}

impl Prox {
    /// The operator on one gate, at learning rate `lr`.
    pub fn apply(self, g: f32, lr: f32) -> f32 {
        match self {
            Prox::Off => g,
            Prox::Soft(lambda) => {
                let xi = lr * lambda;
                if g.abs() <= xi {
                    0.0
                } else {
                    g - xi.copysign(g)
                }
            }
            // Three masked steps in a row, each reading what the one before wrote.
            Prox::Official(xi) if xi > 0.0 => {
                let g = if g > xi { g - xi } else { g };
                let g = if g < -xi { g + xi } else { g };
                if g.abs() < xi { 0.0 } else { g }
            }
            Prox::Official(_) => g,
        }
    }
}

/// What does not change from step to step.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Epsilon of A, B and the head.
    pub eps: f64,
    /// Epsilon of the gates.
    pub gate_eps: f64,
    /// Decoupled decay of A and B.
    pub weight_decay: f64,
    /// Decoupled decay of the gates.
    pub gate_weight_decay: f64,
    /// Decoupled decay of the head.
    pub head_weight_decay: f64,
    /// Coefficient of the mean of |g|.
    pub l1: f64,
    /// Largest norm of all gradients together; 0 is no limit.
    pub clip: f64,
    /// What closes gates.
    pub prox: Prox,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-8,
            gate_eps: 1e-6,
            weight_decay: 0.01,
            gate_weight_decay: 0.0,
            head_weight_decay: 0.0,
            l1: 0.0,
            clip: 1.0,
            prox: Prox::Off,
        }
    }
}

/// Learning rates of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Of A, B.
    pub main: f64,
    /// Of the gates.
    pub gate: f64,
    /// Of the head.
    pub head: f64,
}

impl Rates {
    /// One for all.
    pub fn all(lr: f64) -> Self {
        Self {
            main: lr,
            gate: lr,
            head: lr,
        }
    }
}

/// The share of the learning rate at `step` of `total`: linear up over `warmup` steps, then linear down to 0.
pub fn warm_up_and_decay(step: usize, warmup: usize, total: usize) -> f64 {
    if step < warmup {
        return step as f64 / warmup as f64;
    }
    total.saturating_sub(step) as f64 / total.saturating_sub(warmup).max(1) as f64
}

/// The moments of every parameter.
#[derive(Debug, Clone)]
pub struct Optimizer {
    settings: Settings,
    steps: i32,
    moments: Vec<[Matrix; 2]>,
    budget: Option<Allocator>,
}

impl Optimizer {
    /// Moments of zero for `parameters`.
    pub fn new(settings: Settings, parameters: &[Parameter]) -> Self {
        let zeros = |p: &Parameter| {
            let zeros = || Matrix::zeros(p.value.rows(), p.value.cols());
            [zeros(), zeros()]
        };
        Self {
            settings,
            steps: 0,
            moments: parameters.iter().map(zeros).collect(),
            budget: None,
        }
    }

    /// Under AdaLoRA's budget of ranks.
    pub fn with_budget(self, budget: Allocator) -> Self {
        Self {
            budget: Some(budget),
            ..self
        }
    }

    /// AdaLoRA's budget, where there is one.
    pub fn budget(&self) -> Option<&Allocator> {
        self.budget.as_ref()
    }

    /// Likewise, to go on from a checkpoint.
    pub fn budget_mut(&mut self) -> Option<&mut Allocator> {
        self.budget.as_mut()
    }

    /// Whether every rank must take part in the next step: a budget is still falling, and closed ranks compete.
    pub fn wants_all(&self) -> bool {
        let done = self.steps as usize;
        self.budget.as_ref().is_some_and(|b| !b.settled(done))
    }

    /// Goes on from where another one stood: after `steps` steps, with the first and second moment of every parameter.
    pub fn restore(&mut self, steps: i32, moments: Vec<[Matrix; 2]>) {
        (self.steps, self.moments) = (steps, moments);
    }

    /// Steps taken, and the two moments of every parameter.
    pub fn moments(&self) -> (i32, &[[Matrix; 2]]) {
        (self.steps, &self.moments)
    }

    /// The settings, to change what closes gates between phases.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// What gradients of this norm are multiplied by.
    pub fn clip(&self, norm: f64) -> f64 {
        match self.settings.clip > 0.0 {
            true => (self.settings.clip / (norm + 1e-6)).min(1.0),
            false => 1.0,
        }
    }

    /// One step. `gradients` are shaped as the parameters' values; `active` says of each parameter which rows took
    /// part. Returns the norm of all gradients before the clip.
    pub fn step(
        &mut self,
        parameters: &mut [Parameter],
        gradients: &mut [Matrix],
        active: &dyn Fn(usize) -> Option<Vec<bool>>,
        rates: Rates,
    ) -> f64 {
        self.steps += 1;
        let s = self.settings;
        let gates: usize = parameters
            .iter()
            .filter(|p| p.kind == Kind::Gate)
            .map(|p| p.value.as_slice().len())
            .sum();
        if s.l1 != 0.0 && gates > 0 {
            let share = (s.l1 / gates as f64) as f32;
            for (p, d) in parameters.iter().zip(&mut *gradients) {
                if p.kind == Kind::Gate {
                    let mut d = d.view_mut();
                    for r in 0..p.value.rows() {
                        let g = p.value.row(r)[0];
                        if g != 0.0 {
                            d.row_mut(r)[0] += share.copysign(g);
                        }
                    }
                }
            }
        }
        let number = self.steps as usize;
        if let Some(budget) = &mut self.budget {
            budget.before_step(number, parameters);
            budget.orthogonality(parameters, gradients);
        }
        let squares = gradients.iter().flat_map(Matrix::as_slice);
        let norm = squares.map(|&d| f64::from(d).powi(2)).sum::<f64>().sqrt();
        let scale = self.clip(norm);
        let parts = parameters
            .iter_mut()
            .zip(&*gradients)
            .zip(&mut self.moments);
        for (i, ((p, d), moments)) in parts.enumerate() {
            let (lr, eps, decay) = match p.kind {
                Kind::A | Kind::B | Kind::Weight | Kind::Embedding => {
                    (rates.main, s.eps, s.weight_decay)
                }
                Kind::Bias | Kind::Norm => (rates.main, s.eps, 0.0),
                Kind::Gate => (rates.gate, s.gate_eps, s.gate_weight_decay),
                Kind::Head => (rates.head, s.eps, s.head_weight_decay),
            };
            let one = Adam {
                lr,
                eps,
                keep: 1.0 - lr * decay,
                betas: s.betas,
                corrections: (
                    1.0 - s.betas.0.powi(self.steps),
                    1.0 - s.betas.1.powi(self.steps),
                ),
                scale,
            };
            let active = active(i);
            let [m, v] = moments;
            let (mut m, mut v, mut value) = (m.view_mut(), v.view_mut(), p.value.view_mut());
            for r in 0..value.rows() {
                if active.as_ref().is_some_and(|a| !a[r]) {
                    continue;
                }
                let value = value.row_mut(r);
                one.row(value, d.row(r), m.row_mut(r), v.row_mut(r));
                if p.kind == Kind::Gate {
                    value[0] = s.prox.apply(value[0], lr as f32);
                }
            }
        }
        if let Some(budget) = &mut self.budget {
            budget.after_step(number, parameters, gradients, scale as f32);
        }
        norm
    }
}

/// The constants of one parameter's step.
struct Adam {
    lr: f64,
    eps: f64,
    keep: f64,
    betas: (f64, f64),
    corrections: (f64, f64),
    scale: f64,
}

impl Adam {
    // theta = keep theta - lr (m / c1) / (sqrt(v / c2) + eps)
    fn row(&self, value: &mut [f32], d: &[f32], m: &mut [f32], v: &mut [f32]) {
        let (b1, b2) = (self.betas.0 as f32, self.betas.1 as f32);
        let (r1, r2) = ((1.0 - self.betas.0) as f32, (1.0 - self.betas.1) as f32);
        let step = (self.lr / self.corrections.0) as f32;
        let root = (1.0 / self.corrections.1.sqrt()) as f32;
        let (scale, keep, eps) = (self.scale as f32, self.keep as f32, self.eps as f32);
        for (((x, d), m), v) in value.iter_mut().zip(d).zip(m).zip(v) {
            let d = d * scale;
            *m = b1 * *m + r1 * d;
            *v = b2 * *v + r2 * d * d;
            *x = keep * *x - step * *m / (v.sqrt() * root + eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_operators_do_what_they_are_known_to_do() {
        let gates = [
            0.5, 1.0, 1.0001, 1.5, 1.999, 2.0, 2.001, 3.0, -1.5, -2.0, -2.5, -0.0,
        ];
        let official = [
            0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.001, 2.0, 0.0, -1.0, -1.5, 0.0,
        ];
        let soft = [
            0.0, 0.0, 1e-4, 0.5, 0.999, 1.0, 1.001, 2.0, -0.5, -1.0, -1.5, 0.0,
        ];
        for ((g, official), soft) in gates.into_iter().zip(official).zip(soft) {
            let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
            let (o, s) = (
                Prox::Official(1.0).apply(g, 0.1),
                Prox::Soft(10.0).apply(g, 0.1),
            );
            assert!(near(o, official), "official({g}) = {o}");
            assert!(near(s, soft), "soft({g}) = {s}");
            assert_eq!(Prox::Off.apply(g, 0.1), g);
            assert_eq!(Prox::Official(0.0).apply(g, 0.1), g);
        }
    }

    #[test]
    fn the_schedule_rises_and_falls() {
        let at = |step| warm_up_and_decay(step, 2, 6);
        assert_eq!(
            [at(0), at(1), at(2), at(4), at(6)],
            [0.0, 0.5, 1.0, 0.5, 0.0]
        );
        assert_eq!(warm_up_and_decay(0, 0, 4), 1.0);
    }
}
