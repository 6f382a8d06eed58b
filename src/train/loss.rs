//! Losses and their gradients at the logits: cross entropy, squared error, a sigmoid a label.
//!
//! Each adds the share of one row; what a mean divides by is given, because rows of one step may be spread over
//! threads and accumulated batches. Sums and exponents are f64: a few numbers a row.

use crate::mat::{Mat, MatMut};

/// What a row should have been.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// This label.
    Class(usize),
    /// This number.
    Value(f32),
    /// These labels, one flag each.
    Many(Vec<bool>),
    /// A label for each token; `None` where there is nothing to learn.
    Tokens(Vec<Option<usize>>),
}

impl Target {
    /// What one row counts in the mean: elements for flags, labelled tokens for tokens, else 1.
    pub fn weight(&self) -> usize {
        match self {
            Target::Class(_) | Target::Value(_) => 1,
            Target::Many(flags) => flags.len(),
            Target::Tokens(labels) => labels.iter().flatten().count(),
        }
    }

    /// The loss of one row times its weight over `count`, and its gradient.
    ///
    /// `logits [1 x labels]` (for tokens `[tokens x labels]`), `dlogits` likewise, written.
    ///
    /// # Panics
    /// When the target does not fit the logits: rows are checked when they are read.
    pub fn loss(&self, logits: Mat<'_>, count: f64, mut dlogits: MatMut<'_>) -> f64 {
        match self {
            Target::Class(label) => cross_entropy(logits.row(0), *label, count, dlogits.row_mut(0)),
            Target::Value(value) => {
                // mean (y - t)^2
                let error = f64::from(logits.row(0)[0]) - f64::from(*value);
                dlogits.row_mut(0)[0] = (2.0 * error / count) as f32;
                error * error / count
            }
            Target::Many(flags) => {
                let mut loss = 0.0;
                let d = dlogits.row_mut(0);
                for ((&x, &flag), d) in logits.row(0).iter().zip(flags).zip(d) {
                    // -log sigmoid(x) or -log(1 - sigmoid(x)), without an overflow
                    let x = f64::from(x);
                    let y = f64::from(u8::from(flag));
                    loss += x.max(0.0) - x * y + (-x.abs()).exp().ln_1p();
                    *d = ((1.0 / (1.0 + (-x).exp()) - y) / count) as f32;
                }
                loss / count
            }
            Target::Tokens(labels) => {
                assert_eq!(labels.len(), logits.rows(), "one label a token");
                let mut loss = 0.0;
                for (r, label) in labels.iter().enumerate() {
                    match label {
                        None => dlogits.row_mut(r).fill(0.0),
                        Some(label) => {
                            loss += cross_entropy(logits.row(r), *label, count, dlogits.row_mut(r));
                        }
                    }
                }
                loss
            }
        }
    }
}

/// `-log softmax(x)[label] / count` and its gradient, `(softmax(x) - [label]) / count`.
fn cross_entropy(x: &[f32], label: usize, count: f64, d: &mut [f32]) -> f64 {
    let top = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = x.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    for (j, (d, &x)) in d.iter_mut().zip(x).enumerate() {
        let p = (f64::from(x) - top).exp() / sum;
        *d = ((p - f64::from(u8::from(j == label))) / count) as f32;
    }
    (sum.ln() + top - f64::from(x[label])) / count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mat::Matrix;

    /// A central difference of step 1e-3 in f32 logits, against sums of a few terms.
    const TOLERANCE: f64 = 1e-4;

    #[test]
    fn gradients_equal_differences() {
        let logits = Matrix::from_vec(vec![0.3, -1.2, 2.0, 0.1, 0.7, -0.4], 2, 3);
        let one = Matrix::from_vec(logits.row(0).to_vec(), 1, 3);
        let single = Matrix::from_vec(vec![0.8], 1, 1);
        for (target, x) in [
            (Target::Class(1), &one),
            (Target::Value(2.5), &single),
            (Target::Many(vec![true, false, true]), &one),
            (Target::Tokens(vec![None, Some(2)]), &logits),
        ] {
            let mut d = Matrix::zeros(x.rows(), x.cols());
            let loss = |x: &Matrix, d: &mut Matrix| target.loss(x.view(), 3.0, d.view_mut());
            loss(x, &mut d);
            for i in 0..x.as_slice().len() {
                let moved = |by: f32| {
                    let mut data = x.as_slice().to_vec();
                    data[i] += by;
                    let moved = Matrix::from_vec(data, x.rows(), x.cols());
                    loss(&moved, &mut Matrix::zeros(x.rows(), x.cols()))
                };
                let want = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                let got = f64::from(d.as_slice()[i]);
                assert!(
                    (got - want).abs() < TOLERANCE,
                    "{target:?} at {i}: {got} for {want}"
                );
            }
        }
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let x = Matrix::from_vec(vec![1e4, -1e4], 1, 2);
        for target in [Target::Class(1), Target::Many(vec![false, true])] {
            let mut d = Matrix::zeros(1, 2);
            assert!(target.loss(x.view(), 1.0, d.view_mut()).is_finite());
            assert!(d.as_slice().iter().all(|d| d.is_finite()));
        }
    }
}
