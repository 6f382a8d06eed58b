//! Activation functions, element by element, and their derivatives.
//!
//! Each is one straight line of vector operations, so that a product can apply it to a finished sum in
//! registers ([`Activation::vector`]).
//!
//! * Exact GELU is `x Phi(x) = max(x, 0) - a Phi(-a)` with `a = |x|`: what is taken away is small (at most
//!   0.17), so its error hardly shows, and no digit is lost for negative `x` as in `1 + erf`.
//!   `Phi(-a) = 2^(-1 + L(a))` where `L` is a polynomial: `log2 Phi(-a)` is almost a parabola, and a
//!   polynomial of degree 9 follows it further than any polynomial of that degree follows `Phi`.
//!   The coefficients are ours: they minimise the largest error of `max(a, 1) Phi(-a)` (relative error where
//!   that is below 1e-7) over 1200 Chebyshev points of `0 <= a <= 12`, by the linear program and the rounding
//!   that `exp.rs` describes; the error left is 3.0e-8. Beyond 12 the value is below 1e-31 and kept.
//! * The tanh approximation of GELU is `x sigmoid(2u)`, `u = sqrt(2 / pi) (x + 0.044715 x^3)`: the same
//!   function without a tanh, and right in the negative tail too.
//! * `tanh x` is `x + x^3 P(x^2)` below 0.625 (relative error 4.6e-9, same method, weight `1 / tanh x`) and
//!   `1 - 2 / (e^2x + 1)` above.
//!
//! Not here: gated products (two halves of one buffer are the business of the MLP).

use serde::{Deserialize, Serialize};

use crate::{
    kernel::exp::{exp, exp2, horner, sigmoid},
    simd::{self, Kernel, LANES, Level, Simd},
};

/// `L(a) = L[0] a + L[1] a^2 + ..`
const L: [f32; 9] = [
    -1.151_107_7,
    -0.459_180_15,
    -0.052_597_445,
    0.007_226_624,
    -0.000_269_315,
    -0.000_131_371_17,
    2.910_897_3e-5,
    -2.462_541_7e-6,
    7.533_477_5e-8,
];
const L_END: f32 = 12.0;
const TANH: [f32; 5] = [
    -0.333_332_8,
    0.133_314_06,
    -0.053_736_515,
    0.020_628_167,
    -0.005_692_296_7,
];
const TANH_SMALL: f32 = 0.625;
/// `2 sqrt(2 / pi)`, and that times 0.044715.
const U1: f32 = 1.595_769;
const U3: f32 = 0.071_354_814;
/// `1 / sqrt(2 pi)`
const INV_SQRT_2PI: f32 = 0.398_942_3;

/// The activation functions that encoder configurations name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x Phi(x)` with the exact normal distribution function (`gelu` in a config).
    Gelu,
    /// The tanh approximation of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^-x)` (`silu`, `swish`).
    Silu,
    /// `tanh x`.
    Tanh,
}

impl Activation {
    /// One vector; for epilogues in registers.
    ///
    /// # Accuracy
    /// Within `1e-7 max(1, |x|)` of the true value.
    #[inline(always)]
    pub fn vector<S: Simd>(self, s: S, x: S::F) -> S::F {
        let zero = s.splat(0.0);
        match self {
            Activation::Gelu => {
                let (a, tail) = normal_tail(s, x);
                s.sub(s.max(zero, x), s.mul(a, tail))
            }
            Activation::GeluTanh => {
                let minus = s.sub(zero, gelu_tanh_argument(s, x));
                s.div(x, s.add(s.splat(1.0), exp(s, minus)))
            }
            Activation::Relu => s.max(zero, x),
            Activation::Silu => s.div(x, s.add(s.splat(1.0), exp(s, s.sub(zero, x)))),
            Activation::Tanh => tanh(s, x),
        }
    }

    /// The derivative at one vector.
    ///
    /// # Accuracy
    /// Within 5e-7 of the true value.
    #[inline(always)]
    pub fn derivative_vector<S: Simd>(self, s: S, x: S::F) -> S::F {
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        match self {
            // d/dx x Phi(x) = Phi(x) + x phi(x)
            Activation::Gelu => {
                let (_, tail) = normal_tail(s, x);
                let phi = s.select_lt(x, zero, tail, s.sub(one, tail));
                let half = s.mul(s.mul(x, s.splat(-0.5)), x);
                let density = s.mul(exp(s, half), s.splat(INV_SQRT_2PI));
                // Beyond 20 the density is 0 and `x` may be infinite.
                let near = s.min(s.splat(20.0), s.max(s.splat(-20.0), x));
                s.fma(near, density, phi)
            }
            // d/dx x g(2u) = g (1 + x (1 - g) (2u)')
            Activation::GeluTanh => {
                let near = s.min(s.splat(20.0), s.max(s.splat(-20.0), x));
                let (g, rest) = sigmoid_pair(s, gelu_tanh_argument(s, near));
                let slope = s.fma(s.mul(near, near), s.splat(3.0 * U3), s.splat(U1));
                s.mul(g, s.fma(s.mul(near, slope), rest, one))
            }
            Activation::Relu => s.select_lt(zero, x, one, zero),
            // d/dx x g(x) = g (1 + x (1 - g))
            Activation::Silu => {
                let near = s.min(s.splat(87.0), s.max(s.splat(-87.0), x));
                let (g, rest) = sigmoid_pair(s, near);
                s.mul(g, s.fma(near, rest, one))
            }
            // d/dx tanh x = 1 - tanh^2 x
            Activation::Tanh => {
                let t = tanh(s, x);
                s.fma(s.sub(zero, t), t, one)
            }
        }
    }

    /// Applies it to every element of `x`, at the level of this process.
    pub fn apply(self, x: &mut [f32]) {
        self.apply_at(simd::level(), x);
    }

    /// [`Activation::apply`] at `level`.
    pub fn apply_at(self, level: Level, x: &mut [f32]) {
        simd::run_at(level, Apply { f: self, x });
    }

    /// `dx = dy f'(x)`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn backward(self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        self.backward_at(simd::level(), x, dy, dx);
    }

    /// [`Activation::backward`] at `level`.
    pub fn backward_at(self, level: Level, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        assert!(
            x.len() == dy.len() && x.len() == dx.len(),
            "activation backward over {}, {} and {} elements",
            x.len(),
            dy.len(),
            dx.len()
        );
        simd::run_at(level, Backward { f: self, x, dy, dx });
    }
}

/// `(min(|x|, 12), Phi(-min(|x|, 12)))`
#[inline(always)]
fn normal_tail<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let a = s.min(s.splat(L_END), s.abs(x));
    let log2 = s.fma(horner(s, a, &L), a, s.splat(-1.0));
    (a, exp2(s, log2))
}

/// `2 sqrt(2 / pi) (x + 0.044715 x^3)`
#[inline(always)]
fn gelu_tanh_argument<S: Simd>(s: S, x: S::F) -> S::F {
    s.mul(x, s.fma(s.mul(x, x), s.splat(U3), s.splat(U1)))
}

/// `g = 1 / (1 + e^-x)` and `1 - g`, neither by a difference of near equals.
#[inline(always)]
fn sigmoid_pair<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    (sigmoid(s, x), sigmoid(s, s.sub(s.splat(0.0), x)))
}

#[inline(always)]
fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let a = s.abs(x);
    let x2 = s.mul(x, x);
    let small = s.fma(s.mul(horner(s, x2, &TANH), x2), x, x);
    let e = exp(s, s.add(a, a));
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    let large = s.select_lt(x, zero, s.sub(zero, large), large);
    s.select_lt(a, s.splat(TANH_SMALL), small, large)
}

struct Apply<'a> {
    f: Activation,
    x: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for chunk in self.x.chunks_mut(LANES) {
            if chunk.len() == LANES {
                s.store(self.f.vector(s, s.load(chunk)), chunk);
            } else {
                s.store_part(self.f.vector(s, s.load_part(chunk)), chunk);
            }
        }
    }
}

struct Backward<'a> {
    f: Activation,
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks(LANES).zip(self.dy.chunks(LANES));
        for ((x, dy), dx) in rows.zip(self.dx.chunks_mut(LANES)) {
            if x.len() == LANES {
                let slope = self.f.derivative_vector(s, s.load(x));
                s.store(s.mul(s.load(dy), slope), dx);
            } else {
                let slope = self.f.derivative_vector(s, s.load_part(x));
                s.store_part(s.mul(s.load_part(dy), slope), dx);
            }
        }
    }
}

#[cfg(test)]
mod tests;
