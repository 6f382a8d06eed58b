//! AdaLoRA (arXiv 2303.10512): a budget of ranks that falls, spent where singular values matter.
//!
//! `y += s ((x Pt) o e) Qt`. The singular values e are a site's gates (they start at 0), A and B its singular vectors
//! (small and normal, kept near orthogonal by a term of the loss). After each step the importance of every element is
//! smoothed, `I = |w dw|`, `m = b1 m + (1 - b1) I`, `u = b2 u + (1 - b2) |I - m|`; its score is `m u`, and a rank's that
//! of its value plus the means over its two vectors. Every so many steps all ranks but the budget's best are closed;
//! they may come back until the final choice. The order of operations is peft's, so that budgets agree.
//!
//! Not here: the step itself (`optim`), the gradient of values that are 0 (`model::linear::probe`).

use super::sora::{Live, Parameter};
use crate::mat::Matrix;

/// How the budget falls.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Budget {
    /// Mean rank of a site at the end.
    pub target_rank: usize,
    /// Share of the steps at the full budget.
    pub first: f64,
    /// Share of the steps at the end, with the choice made.
    pub last: f64,
    /// Steps between choices.
    pub every: usize,
    /// Smoothing of sensitivity and of its uncertainty.
    pub betas: (f32, f32),
    /// Coefficient of the mean distance of A At and Bt B from the identity.
    pub orthogonality: f32,
}

impl Budget {
    /// peft's constants, the budget falling from 10 % to 50 % of the steps.
    pub fn to(target_rank: usize) -> Self {
        Self {
            target_rank,
            first: 0.1,
            last: 0.5,
            every: 1,
            betas: (0.85, 0.85),
            orthogonality: 0.5,
        }
    }
}

/// What the budget is after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Ranks that may be open.
    pub ranks: usize,
    /// Whether to choose them now.
    pub choose: bool,
}

/// The smoothed importance of every element, and what has been chosen.
#[derive(Debug, Clone)]
pub struct Allocator {
    budget: Budget,
    /// Steps at the full budget.
    first: usize,
    /// The step after which the final choice is made.
    end: usize,
    /// Places of A, B and the values of every site.
    sites: Vec<[usize; 3]>,
    /// Ranks at the start.
    start: usize,
    /// Sensitivity and its uncertainty, by site: of A, of B, of the values.
    moments: Vec<[Matrix; 2]>,
    /// Ranks that stay closed in the step under way.
    closed: Vec<bool>,
}

impl Allocator {
    /// For a run of `steps` steps over `live`'s sites.
    pub fn new(budget: Budget, steps: usize, live: &Live) -> Self {
        let sites = live.triplets();
        let zeros = |&p: &usize| {
            let value = &live.parameters[p].value;
            [(); 2].map(|()| Matrix::zeros(value.rows(), value.cols()))
        };
        let ranks = |s: &[usize; 3]| live.parameters[s[0]].value.rows();
        let part = |share: f64| (share * steps as f64).round() as usize;
        Self {
            budget,
            first: part(budget.first),
            end: steps.saturating_sub(part(budget.last)),
            start: sites.iter().map(ranks).sum(),
            moments: sites.iter().flatten().map(zeros).collect(),
            closed: Vec::new(),
            sites,
        }
    }

    /// Whether closed ranks stay closed once `step` steps are done.
    pub fn settled(&self, step: usize) -> bool {
        step >= self.end
    }

    /// The budget after step `step` (from 1): full, then `target + (start - target) (1 - share of the fall)^3`, then the
    /// target.
    pub fn share(&self, step: usize) -> Share {
        let target = (self.budget.target_rank * self.sites.len()).min(self.start);
        if step > self.end || (step == self.end && step <= self.first) {
            return Share {
                ranks: target,
                choose: true,
            };
        }
        if step <= self.first {
            return Share {
                ranks: self.start,
                choose: false,
            };
        }
        let left = 1.0 - (step - self.first) as f64 / (self.end - self.first) as f64;
        let ranks = (self.start - target) as f64 * left.powi(3) + target as f64;
        Share {
            ranks: ranks as usize,
            choose: step.is_multiple_of(self.budget.every.max(1)) || step == self.end,
        }
    }

    /// Adds the gradient of `w / n sum ||P Pt - I||` over the `n` matrices of singular vectors; returns the term itself.
    pub fn orthogonality(&self, parameters: &[Parameter], gradients: &mut [Matrix]) -> f64 {
        let vectors = self.sites.iter().flat_map(|s| &s[..2]);
        let share = f64::from(self.budget.orthogonality) / (2 * self.sites.len()).max(1) as f64;
        let mut term = 0.0;
        for &p in vectors {
            let value = &parameters[p].value;
            let r = value.rows();
            let mut distance = vec![0.0f64; r * r]; // P Pt - I
            for i in 0..r {
                for j in 0..r {
                    let products = value.row(i).iter().zip(value.row(j));
                    let dot: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    distance[i * r + j] = dot - f64::from(u8::from(i == j));
                }
            }
            let norm = distance.iter().map(|d| d * d).sum::<f64>().sqrt();
            term += share * norm;
            if norm == 0.0 {
                continue; // as torch has it: the gradient of a norm at 0 is 0
            }
            // d ||P Pt - I|| / dP = 2 (P Pt - I) P / ||P Pt - I||
            let mut out = gradients[p].view_mut();
            for i in 0..r {
                for j in 0..r {
                    let by = (2.0 * share * distance[i * r + j] / norm) as f32;
                    let to = out.row_mut(i).iter_mut();
                    to.zip(value.row(j)).for_each(|(d, x)| *d += by * x);
                }
            }
        }
        term
    }

    /// Before step `step` (from 1) moves the parameters: after the final choice, what is closed will stay so.
    pub fn before_step(&mut self, step: usize, parameters: &[Parameter]) {
        self.closed.clear();
        if step > self.end {
            let values = self.sites.iter().map(|[.., v]| &parameters[*v].value);
            let values = values.flat_map(Matrix::as_slice);
            self.closed.extend(values.map(|v| *v == 0.0));
        }
    }

    /// After step `step` (from 1), with the gradients that moved the parameters, each times `scale` (the clip's): smooths
    /// importance, and closes what the budget does not pay for.
    pub fn after_step(
        &mut self,
        step: usize,
        parameters: &mut [Parameter],
        gradients: &[Matrix],
        scale: f32,
    ) {
        if step > self.end {
            return self.close(&self.closed, parameters);
        }
        if step < self.end {
            self.smooth(parameters, gradients, scale);
        }
        let share = self.share(step);
        if share.choose {
            self.close(&self.surplus(share.ranks), parameters);
        }
    }

    /// The smoothed importance, for a checkpoint: of which parameter, and its two matrices.
    pub fn importance(&self) -> impl Iterator<Item = (usize, &[Matrix; 2])> {
        self.sites.iter().flatten().copied().zip(&self.moments)
    }

    /// Likewise, to go on from one.
    pub fn importance_mut(&mut self) -> impl Iterator<Item = (usize, &mut [Matrix; 2])> {
        self.sites.iter().flatten().copied().zip(&mut self.moments)
    }

    fn smooth(&mut self, parameters: &[Parameter], gradients: &[Matrix], scale: f32) {
        let (b1, b2) = self.budget.betas;
        let places = self.sites.iter().flatten();
        for (&p, [mean, spread]) in places.zip(&mut self.moments) {
            let (mut mean, mut spread) = (mean.view_mut(), spread.view_mut());
            let value = &parameters[p].value;
            for r in 0..value.rows() {
                let pairs = value.row(r).iter().zip(gradients[p].row(r));
                let moments = mean.row_mut(r).iter_mut().zip(spread.row_mut(r));
                for ((w, d), (m, u)) in pairs.zip(moments) {
                    let now = (w * d * scale).abs();
                    *m = b1 * *m + (1.0 - b1) * now;
                    *u = b2 * *u + (1.0 - b2) * (now - *m).abs();
                }
            }
        }
    }

    /// The score of every rank, site by site.
    fn scores(&self) -> Vec<f64> {
        let mean = |[m, u]: &[Matrix; 2], r: usize| {
            let products = m.row(r).iter().zip(u.row(r));
            let sum: f64 = products.map(|(m, u)| f64::from(*m) * f64::from(*u)).sum();
            sum / m.cols() as f64
        };
        let sites = self.moments.chunks_exact(3);
        sites
            .flat_map(|of| {
                let ranks = 0..of[2][0].rows();
                ranks.map(move |r| mean(&of[2], r) + mean(&of[0], r) + mean(&of[1], r))
            })
            .collect()
    }

    /// Which ranks are closed when `ranks` may be open: those with no better a score than the best that is not paid for.
    fn surplus(&self, ranks: usize) -> Vec<bool> {
        let scores = self.scores();
        let mut sorted = scores.clone();
        sorted.sort_by(f64::total_cmp);
        match self.start.saturating_sub(ranks).checked_sub(1) {
            None => vec![false; scores.len()],
            Some(last) => scores.iter().map(|s| *s <= sorted[last]).collect(),
        }
    }

    fn close(&self, closed: &[bool], parameters: &mut [Parameter]) {
        let mut closed = closed.iter();
        for [.., values] in &self.sites {
            let mut values = parameters[*values].value.view_mut();
            for (r, closed) in (0..values.rows()).zip(&mut closed) {
                if *closed {
                    values.row_mut(r)[0] = 0.0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
