//! Rotary positions: q and k are turned by angles that grow with the position.
//!
//! Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021), in the form that pairs
//! element `d` of a head with element `d + D/2`: with `c, s` the cosine and sine of `t theta^(-2d/D) / stretch`,
//!
//! ```text
//! y[d]       = x[d] c - x[d + D/2] s
//! y[d + D/2] = x[d + D/2] c + x[d] s
//! ```
//!
//! The tables are made as the reference makes them: frequencies and angles rounded to `f32` (at position 8000
//! that rounding is what decides the angle's last four digits), cosine and sine of that angle in `f64`, rounded.
//!
//! Not here: frequencies that depend on a text's length.

use crate::{
    kernel::reduce::{load_at, store_at},
    mat::{Mat, MatMut},
    simd::{self, Kernel, LANES, Level, Simd},
};

/// Cosines and sines for heads of one width and sequences up to a length.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// `[tokens x D/2]`
    cos: Vec<f32>,
    /// `[tokens x D/2]`
    sin: Vec<f32>,
    half: usize,
    tokens: usize,
}

impl Rotary {
    /// Tables for heads of `width` (even) and positions `0..tokens`, every frequency divided by `stretch`.
    ///
    /// # Panics
    /// When `width` is odd or 0.
    pub fn new(width: usize, theta: f32, stretch: f32, tokens: usize) -> Self {
        assert!(
            width > 0 && width.is_multiple_of(2),
            "rotary heads of width {width}"
        );
        let half = width / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|d| {
                let power = (2 * d) as f32 / width as f32;
                1.0 / f64::from(theta).powf(f64::from(power)) as f32 / stretch
            })
            .collect();
        let angles = (0..tokens).flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        let (cos, sin) = angles
            .map(|a| (f64::from(a).cos() as f32, f64::from(a).sin() as f32))
            .unzip();
        Self {
            cos,
            sin,
            half,
            tokens,
        }
    }

    /// The longest sequence.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Turns every head of `x [T x N D]` in place; row `t` is position `t` of its sequence.
    ///
    /// # Panics
    /// When there are more rows than positions, or the width is not a multiple of `D`.
    pub fn apply(&self, x: MatMut<'_>) {
        self.apply_at(simd::level(), x);
    }

    /// [`Rotary::apply`] at `level`.
    pub fn apply_at(&self, level: Level, x: MatMut<'_>) {
        self.turn(level, x, 1.0);
    }

    /// The gradient of [`Rotary::apply`], in place on `dy`: the same turn backwards, as the transpose of a rotation is its inverse.
    pub fn backward(&self, dy: MatMut<'_>) {
        self.backward_at(simd::level(), dy);
    }

    /// [`Rotary::backward`] at `level`.
    pub fn backward_at(&self, level: Level, dy: MatMut<'_>) {
        self.turn(level, dy, -1.0);
    }

    fn turn(&self, level: Level, x: MatMut<'_>, direction: f32) {
        assert!(
            x.rows() <= self.tokens,
            "{} tokens, but rotary tables for {}",
            x.rows(),
            self.tokens
        );
        assert!(
            x.cols().is_multiple_of(2 * self.half),
            "heads of a rotary row"
        );
        simd::run_at(
            level,
            Turn {
                cos: Mat::new(&self.cos, self.tokens, self.half),
                sin: Mat::new(&self.sin, self.tokens, self.half),
                direction,
                x,
            },
        );
    }
}

struct Turn<'a> {
    cos: Mat<'a>,
    sin: Mat<'a>,
    direction: f32,
    x: MatMut<'a>,
}

impl Kernel for Turn<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let half = self.cos.cols();
        let (forward, zero) = (s.splat(self.direction), s.splat(0.0));
        for t in 0..self.x.rows() {
            let (cos, sin) = (self.cos.row(t), self.sin.row(t));
            for head in self.x.row_mut(t).chunks_exact_mut(2 * half) {
                let (low, high) = head.split_at_mut(half);
                for i in 0..half.div_ceil(LANES) {
                    let (a, b) = (load_at(s, low, i), load_at(s, high, i));
                    let c = load_at(s, cos, i);
                    let sn = s.mul(load_at(s, sin, i), forward);
                    let minus = s.sub(zero, sn);
                    store_at(s, s.fma(a, c, s.mul(b, minus)), low, i);
                    store_at(s, s.fma(b, c, s.mul(a, sn)), high, i);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::naive::{Noise, assert_near, wide},
        simd::levels,
    };

    /// Two products and a sum of values up to 3.
    const TOLERANCE: f64 = 5e-7;

    fn naive(x: &[f64], width: usize, theta: f64, t: usize, direction: f64) -> Vec<f64> {
        let mut y = x.to_vec();
        for head in (0..x.len()).step_by(width) {
            for d in 0..width / 2 {
                let power = f64::from((2 * d) as f32 / width as f32);
                let frequency = 1.0 / theta.powf(power) as f32;
                let angle = f64::from(t as f32 * frequency);
                let (sin, cos) = (angle.sin() * direction, angle.cos());
                let (a, b) = (x[head + d], x[head + d + width / 2]);
                y[head + d] = a * cos - b * sin;
                y[head + d + width / 2] = b * cos + a * sin;
            }
        }
        y
    }

    #[test]
    fn heads_turn_and_turn_back() {
        for width in [2, 8, 16, 20, 32, 64] {
            let rotary = Rotary::new(width, 160_000.0, 1.0, 130);
            let x = Noise::new(width as u64).matrix(130, 3 * width, 3.0);
            for &level in levels() {
                for direction in [1.0, -1.0] {
                    let mut y = x.clone();
                    if direction > 0.0 {
                        rotary.apply_at(level, y.view_mut());
                    } else {
                        rotary.backward_at(level, y.view_mut());
                    }
                    for t in 0..130 {
                        let want = naive(&wide(x.row(t)), width, 160_000.0, t, direction);
                        assert_near(&format!("{width} at {level:?}"), y.row(t), &want, TOLERANCE);
                    }
                }
            }
        }
    }

    #[test]
    fn columns_beside_the_heads_are_left_alone() {
        let x = Noise::new(9).matrix(5, 24, 1.0);
        let mut y = x.clone();
        Rotary::new(8, 10_000.0, 1.0, 5).apply(y.view_mut().col_range(8..16));
        for t in 0..5 {
            assert_eq!(y.row(t)[..8], x.row(t)[..8]);
            assert_eq!(y.row(t)[16..], x.row(t)[16..]);
            assert_eq!(y.row(t)[8..16] == x.row(t)[8..16], t == 0);
        }
    }

    #[test]
    fn tables_equal_the_reference_at_far_positions() {
        // torch 2.15: 1 / theta ** (arange(0, D, 2) / D), times the position, cos and sin; element 0, 1, D/4, D/2 - 1.
        type Golden = (f32, usize, usize, [f32; 4], [f32; 4]);
        let golden: [Golden; 3] = [
            (
                10_000.0,
                64,
                8191,
                [-0.646_390_5, -0.842_082_8, 0.973_987_6, 0.460_456_07],
                [-0.763_006_8, -0.539_348_3, 0.226_601_54, 0.887_682_5],
            ),
            (
                160_000.0,
                64,
                8191,
                [-0.646_390_5, -0.959_715_7, -0.057_115_56, 0.997_230_1],
                [-0.763_006_8, 0.280_972_78, 0.998_367_55, 0.074_377_99],
            ),
            (
                10_000.0,
                20,
                511,
                [-0.471_678_88, -0.717_386_5, 0.387_216_5, 0.991_773_5],
                [0.881_770_4, 0.696_675_4, -0.921_988_8, 0.128_005_25],
            ),
        ];
        for (theta, width, t, cos, sin) in golden {
            let rotary = Rotary::new(width, theta, 1.0, t + 1);
            let half = width / 2;
            for (i, d) in [0, 1, width / 4, half - 1].into_iter().enumerate() {
                let at = t * half + d;
                assert!((rotary.cos[at] - cos[i]).abs() < 1.2e-7, "cos {d} at {t}");
                assert!((rotary.sin[at] - sin[i]).abs() < 1.2e-7, "sin {d} at {t}");
            }
        }
    }
}
