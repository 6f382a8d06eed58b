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
mod tests {
    use super::*;
    use crate::simd::{Kernel, LANES, levels, run_at};

    struct Both<'a>(&'a [f32; LANES]);

    impl Kernel for Both<'_> {
        type Out = [[f32; LANES]; 2];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Out {
            let (x, mut out) = (s.load(self.0), [[0.0; LANES]; 2]);
            s.store(exp(s, x), &mut out[0]);
            s.store(sigmoid(s, x), &mut out[1]);
            out
        }
    }

    /// The distance of `got` from `want` in units of the last place of an `f32` near `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let exponent = want.abs().log2().floor().max(-126.0);
        (f64::from(got) - want).abs() / (exponent - 23.0).exp2()
    }

    #[test]
    fn exp_is_within_one_ulp_and_sigmoid_within_three() {
        for &level in levels() {
            let mut worst = [0.0f64; 2];
            for i in 0..60_000 {
                let x: [f32; LANES] =
                    std::array::from_fn(|l| ((i * LANES + l) as f32 / 960_000.0 - 0.54) * 192.0);
                let got = run_at(level, Both(&x));
                for l in 0..LANES {
                    let e = f64::from(x[l]).exp();
                    if e <= f64::from(f32::MAX) {
                        worst[0] = worst[0].max(ulps(got[0][l], e));
                    }
                    let g = 1.0 / (1.0 + f64::from(-x[l]).exp());
                    if g > f64::from(f32::MIN_POSITIVE) * 4.0 {
                        worst[1] = worst[1].max(ulps(got[1][l], g));
                    }
                }
            }
            assert!(worst[0] <= 1.0 && worst[1] <= 3.0, "{level:?}: {worst:?}");
        }
    }

    #[test]
    fn levels_with_fused_multiply_add_agree_bit_for_bit() {
        use crate::simd::Level;
        let fused: Vec<_> = levels().iter().filter(|&&l| l != Level::Scalar).collect();
        for i in 0..20_000 {
            // From far below the subnormals to overflow.
            let x: [f32; LANES] =
                std::array::from_fn(|l| ((i * LANES + l) as f32 / 320_000.0 - 0.54) * 195.0);
            for pair in fused.windows(2) {
                assert_eq!(
                    run_at(*pair[0], Both(&x)),
                    run_at(*pair[1], Both(&x)),
                    "{x:?}"
                );
            }
        }
    }

    #[test]
    fn the_ends_are_right_and_nan_stays() {
        let mut x = [0.0; LANES];
        x[..7].copy_from_slice(&[
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            89.5,
            -104.5,
            -1e9,
            1.0,
        ]);
        for &level in levels() {
            let [e, g] = run_at(level, Both(&x));
            assert_eq!(e[..2], [f32::INFINITY, 0.0]);
            assert!(e[2].is_nan() && g[2].is_nan());
            assert_eq!(e[3..6], [f32::INFINITY, 0.0, 0.0]);
            assert_eq!((e[7], g[7], g[0], g[1]), (1.0, 0.5, 1.0, 0.0));
        }
    }
}
