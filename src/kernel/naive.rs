//! The `f64` side of the kernels' tests: pseudo-random inputs, plain copies and a difference quotient.
//!
//! Only compiled for tests; each kernel's own twin stands in its test file.

use crate::mat::Matrix;

/// Numbers in -1..1 that look random and are the same everywhere (a 64-bit linear congruence).
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66)
    }

    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    pub(crate) fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.next() * scale).collect()
    }

    pub(crate) fn matrix(&mut self, rows: usize, cols: usize, scale: f32) -> Matrix {
        Matrix::from_vec(self.vec(rows * cols, scale), rows, cols)
    }
}

/// `x` in `f64`.
pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The gradient of `f` at `x` by central differences of step `1e-5`: exact to about 1e-9 in `f64`.
pub(crate) fn differences(x: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let up = f(&x);
            x[i] = at - STEP;
            let down = f(&x);
            x[i] = at;
            (up - down) / (2.0 * STEP)
        })
        .collect()
}

/// Fails, naming `what` and the first element that is off, unless `|got - want| <= tolerance (1 + |want|)`.
#[track_caller]
pub(crate) fn assert_near(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(
            error <= tolerance * (1.0 + w.abs()),
            "{what}: element {i} is {g}, expected {w}"
        );
    }
}
