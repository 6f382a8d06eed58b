//! Activation functions, element by element.

use crate::simd::{self, Kernel, LANES, Simd};

/// The activation functions that encoder configurations name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    #[inline(always)]
    pub fn vector<S: Simd>(self, s: S, x: S::F) -> S::F {
        // STUB of the interface: kernels land here.
        let mut lanes = [0.0; LANES];
        s.store(x, &mut lanes);
        for x in &mut lanes {
            *x = self.plain(f64::from(*x)) as f32;
        }
        s.load(&lanes)
    }

    fn plain(self, x: f64) -> f64 {
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Tanh => x.tanh(),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh | Activation::Gelu => {
                0.5 * x
                    * (1.0
                        + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
            }
        }
    }

    /// Applies it to every element of `x`, at the level of this process.
    pub fn apply(self, x: &mut [f32]) {
        simd::run(Apply {
            activation: self,
            x,
        });
    }
}

struct Apply<'a> {
    activation: Activation,
    x: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for chunk in self.x.chunks_mut(LANES) {
            if chunk.len() == LANES {
                s.store(self.activation.vector(s, s.load(chunk)), chunk);
            } else {
                let y = self.activation.vector(s, s.load_part(chunk));
                s.store_part(y, chunk);
            }
        }
    }
}
