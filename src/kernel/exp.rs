//! The exponential function, one vector at a time, and what is one step away from it: the logistic function.
//!
//! `e^x = 2^n e^r` with `n = round(x / ln 2)` and `|r| <= ln 2 / 2`. `ln 2` is taken away in two parts, of
//! which the first has 15 significant bits: `n` has 8, so `n * LN2_HIGH` is exact with or without a fused
//! multiply-add, and every level reaches the same accuracy.
//!
//! `e^r = 1 + r + r^2 p(r)`. The coefficients of `p` are ours: the polynomial of degree 4 that minimises the
//! largest relative error of the whole expression over 800 Chebyshev points of
//! `|r| <= 1.001 ln 2 / 2`, as a linear program (minimise `t` under `|p(r_i) w_i - f_i w_i| <= t`), solved
//! again with each coefficient in turn fixed at its rounded `f32`, lowest first. Its error is 3.2e-9, a
//! twentieth of a rounding.
//!
//! Not here: softmax, which needs a row and not a vector.

use crate::simd::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// `ln 2` to 15 bits, and the rest.
const LN2_HIGH: f32 = 0.693_145_75;
const LN2_LOW: f32 = 1.428_606_8e-6;
const P: [f32; 5] = [
    0.499_999_94,
    0.166_665_21,
    0.041_668_274,
    0.008_368_683,
    0.001_382_005_2,
];

/// `e^x`.
///
/// # Accuracy
/// At most 1 unit in the last place; subnormal results are rounded once; overflow is infinity, below -104
/// it is 0, NaN stays NaN.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // The operand that may be NaN stands second: `min` and `max` return that one.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    s.scale2(exp_reduced(s, r), n)
}

/// `2^y` for `|y| <= 125`; used where the exponent was made in base 2.
#[inline(always)]
pub fn exp2<S: Simd>(s: S, y: S::F) -> S::F {
    let n = s.round(y);
    let r = s.mul(s.sub(y, n), s.splat(std::f32::consts::LN_2));
    s.scale2(exp_reduced(s, r), n)
}

/// `e^r` for `|r| <= 1.001 ln 2 / 2`.
#[inline(always)]
fn exp_reduced<S: Simd>(s: S, r: S::F) -> S::F {
    let p = horner(s, r, &P);
    s.add(s.fma(s.mul(p, r), r, r), s.splat(1.0))
}

/// `c[0] + c[1] x + c[2] x^2 + ..`, innermost first.
#[inline(always)]
pub(super) fn horner<S: Simd, const N: usize>(s: S, x: S::F, c: &[f32; N]) -> S::F {
    let mut p = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        p = s.fma(p, x, s.splat(c[i]));
    }
    p
}

/// `1 / (1 + e^-x)`.
///
/// # Accuracy
/// Within 3 units in the last place where the result is a normal number.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

#[cfg(test)]
mod tests;
