//! Softmax of a row, the same for rows of scores inside attention, and the gradient.
//!
//! `p_j = e^(x_j - m) / sum_k e^(x_k - m)` with `m` the largest element, so nothing overflows and at least one
//! term is 1. The sum runs in the fixed order of `reduce.rs`.
//!
//! Attention leaves the division to the end (it divides D outputs instead of T probabilities): it calls
//! [`exponents`], which stops before it.
//!
//! Not here: a masked form. Ragged batches have no padding, and a window is a shorter row.

use crate::{
    kernel::{
        exp::{self, exp},
        reduce::{Sums, dot, lanes_at, load_at, max, store_at},
    },
    mat::{Mat, MatMut},
    simd::{self, Kernel, LANES, Level, Simd},
};

/// Replaces every row of `x [M x N]` by its softmax. Rows of no width stay as they are.
///
/// # Accuracy
/// Within `1e-6 p` of the `f64` formula for scores of magnitude up to 8; the rounding of `x_j - m` adds
/// `6e-8 |x_j - m|` relative to that.
pub fn softmax(x: MatMut<'_>) {
    softmax_at(simd::level(), x);
}

/// [`softmax`] at `level`.
pub fn softmax_at(level: Level, x: MatMut<'_>) {
    simd::run_at(level, Softmax(x));
}

/// Replaces every row of `d`, the gradient of what [`softmax`] returned as `p`, by the gradient of its
/// input: `p (d - p . d)`.
///
/// # Panics
/// When a shape differs.
pub fn backward(p: Mat<'_>, d: MatMut<'_>) {
    backward_at(simd::level(), p, d);
}

/// [`backward`] at `level`.
pub fn backward_at(level: Level, p: Mat<'_>, d: MatMut<'_>) {
    assert_eq!(
        (d.rows(), d.cols()),
        (p.rows(), p.cols()),
        "gradient of a softmax"
    );
    simd::run_at(level, Backward { p, d });
}

/// `1 / (1 + e^-x)` of every element, in place.
pub fn sigmoid(x: &mut [f32]) {
    sigmoid_at(simd::level(), x);
}

/// [`sigmoid`] at `level`.
pub fn sigmoid_at(level: Level, x: &mut [f32]) {
    simd::run_at(level, Sigmoid(x));
}

/// Replaces a row of scores that is not empty by `e^(scale x - max)` and returns the sum of that; `scale > 0`.
#[inline(always)]
pub fn exponents<S: Simd>(s: S, row: &mut [f32], scale: f32) -> f32 {
    let minus = s.splat(-max(s, row) * scale);
    let scale = s.splat(scale);
    let mut sums = Sums::new(s);
    for i in 0..row.len().div_ceil(LANES) {
        let e = exp(s, s.fma(load_at(s, row, i), scale, minus));
        store_at(s, e, row, i);
        sums.product(s, i, e, lanes_at(s, row.len(), i));
    }
    sums.total(s)
}

struct Softmax<'a>(MatMut<'a>);

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if self.0.cols() == 0 {
            return;
        }
        for r in 0..self.0.rows() {
            let row = self.0.row_mut(r);
            let sum = s.splat(exponents(s, row, 1.0));
            for i in 0..row.len().div_ceil(LANES) {
                store_at(s, s.div(load_at(s, row, i), sum), row, i);
            }
        }
    }
}

struct Backward<'a> {
    p: Mat<'a>,
    d: MatMut<'a>,
}

impl Kernel for Backward<'_> {
    type Out = ();
    // From `p = e^(x - m) / sum`: dp_j / dx_k = p_j ([j = k] - p_k). The mean is taken out twice: what the first left of it
    // is rounding, which a key that all queries see alike would multiply.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for r in 0..self.p.rows() {
            let (p, d) = (self.p.row(r), self.d.row_mut(r));
            let mean = s.splat(-dot(s, p, d));
            for i in 0..p.len().div_ceil(LANES) {
                store_at(s, s.add(load_at(s, d, i), mean), d, i);
            }
            let minus = s.splat(-dot(s, p, d));
            for i in 0..p.len().div_ceil(LANES) {
                let dx = s.mul(load_at(s, p, i), s.add(load_at(s, d, i), minus));
                store_at(s, dx, d, i);
            }
        }
    }
}

struct Sigmoid<'a>(&'a mut [f32]);

impl Kernel for Sigmoid<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in 0..self.0.len().div_ceil(LANES) {
            store_at(s, exp::sigmoid(s, load_at(s, self.0, i)), self.0, i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::naive::{Noise, assert_near, differences, wide},
        mat::Matrix,
        simd::levels,
    };

    fn naive(x: &[f64]) -> Vec<f64> {
        let m = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = x.iter().map(|x| (x - m).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|e| e / sum).collect()
    }

    #[test]
    fn rows_are_distributions_near_the_formula() {
        for &level in levels() {
            for width in [1, 2, 15, 16, 17, 67, 512, 1023] {
                for scale in [1e-3, 4.0, 80.0] {
                    let x = Noise::new(width as u64).matrix(3, width, scale);
                    let mut y = x.clone();
                    softmax_at(level, y.view_mut());
                    for r in 0..3 {
                        let want = naive(&wide(x.row(r)));
                        for (&got, want) in y.row(r).iter().zip(want) {
                            // A difference of 160 is rounded to 1e-5.
                            let budget = want * (1e-6 + 2e-7 * f64::from(scale)) + 1e-44;
                            assert!((f64::from(got) - want).abs() <= budget, "{got} for {want}");
                        }
                    }
                }
            }
            let mut one = Matrix::from_vec(vec![f32::MAX, f32::MIN], 1, 2);
            softmax_at(level, one.view_mut());
            assert_eq!(one.as_slice(), [1.0, 0.0]);
            softmax_at(level, Matrix::zeros(2, 0).view_mut());
        }
    }

    #[test]
    fn the_gradient_equals_differences() {
        for &level in levels() {
            for width in [1, 3, 16, 33] {
                let mut noise = Noise::new(width as u64);
                let (x, dp) = (noise.vec(width, 3.0), noise.matrix(1, width, 1.0));
                let mut p = Matrix::from_vec(x.clone(), 1, width);
                softmax_at(level, p.view_mut());
                let mut dx = dp.clone();
                backward_at(level, p.view(), dx.view_mut());
                let want = differences(&wide(&x), |x| {
                    let p = naive(x);
                    p.iter()
                        .zip(dp.row(0))
                        .map(|(p, &d)| p * f64::from(d))
                        .sum()
                });
                assert_near(
                    &format!("width {width} at {level:?}"),
                    dx.row(0),
                    &want,
                    1e-6,
                );
            }
        }
    }

    #[test]
    fn sigmoid_covers_the_tail_of_a_slice() {
        for &level in levels() {
            let xs = Noise::new(3).vec(35, 9.0);
            let mut got = xs.clone();
            sigmoid_at(level, &mut got);
            let want: Vec<f64> = wide(&xs).iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
            assert_near(&format!("{level:?}"), &got, &want, 3e-7);
        }
    }
}
