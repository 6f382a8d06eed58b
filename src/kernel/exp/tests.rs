//! The exponential and the logistic function at every level, in units of the last place.

use super::*;
use crate::simd::{Kernel, LANES, Level, levels, run_at};

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

/// Against a constant (the first 8 bytes of the BLAKE3 of AVX2's answers), so that levels are compared that no one machine
/// has together.
#[test]
fn levels_with_fused_multiply_add_agree_bit_for_bit_on_every_architecture() {
    const BITS: &str = "af21f00c9fe1622a";
    for &level in levels().iter().filter(|&&l| l != Level::Scalar) {
        let mut hash = blake3::Hasher::new();
        for i in 0..20_000 {
            // From far below the subnormals to overflow.
            let x: [f32; LANES] =
                std::array::from_fn(|l| ((i * LANES + l) as f32 / 320_000.0 - 0.54) * 195.0);
            for y in run_at(level, Both(&x)).as_flattened() {
                hash.update(&y.to_le_bytes());
            }
        }
        assert_eq!(&hash.finalize().to_hex()[..16], BITS, "{level:?}");
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
