//! Layer normalisation of rows, and its gradient.
//!
//! `y = (x - mean) / sqrt(variance + eps) * weight + bias`, mean and (biased) variance over the row. Two
//! passes: the mean first, then the squares of the differences, because `E[x^2] - E[x]^2` loses all digits
//! on rows whose mean is large against their spread, which the outlier columns of encoders cause. Sums run in
//! the fixed order of `reduce.rs`, so a row's bits depend on that row alone.
//!
//! The forward can take in the residual first (`x += r`), which saves one pass over memory; what the backward
//! needs is the sum, so a caller that records it adds before.
//!
//! Not here: dropping the mean (no encoder this crate reads does so).

use crate::{
    kernel::reduce::{Sums, lanes_at, load_at, store_at, sum},
    mat::{Mat, MatMut},
    simd::{self, Kernel, LANES, Level, Simd},
};

/// The parameters of a layer norm over rows of width `H`.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm<'a> {
    /// `[H]`
    pub weight: &'a [f32],
    /// `[H]`, where the model has one.
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm<'_> {
    /// Normalises the rows of `x [T x H]` in place, after adding `residual [T x H]` if there is one.
    ///
    /// # Panics
    /// When a shape differs.
    ///
    /// # Accuracy
    /// Within `1e-6 (|y| + |bias| + |weight|)` of the `f64` formula while the mean is not thousands of times the spread.
    pub fn in_place(&self, x: MatMut<'_>, residual: Option<Mat<'_>>) {
        self.in_place_at(simd::level(), x, residual);
    }

    /// [`LayerNorm::in_place`] at `level`.
    pub fn in_place_at(&self, level: Level, x: MatMut<'_>, residual: Option<Mat<'_>>) {
        self.check(x.cols());
        if let Some(r) = residual {
            assert_eq!(
                (r.rows(), r.cols()),
                (x.rows(), x.cols()),
                "residual of a norm"
            );
        }
        simd::run_at(
            level,
            InPlace {
                norm: *self,
                x,
                residual,
            },
        );
    }

    /// Writes the normalised rows of `x [T x H]` to `y [T x H]`.
    ///
    /// # Panics
    /// When a shape differs.
    pub fn forward(&self, x: Mat<'_>, mut y: MatMut<'_>) {
        y.copy_from(x);
        self.in_place(y, None);
    }

    /// The gradients of [`LayerNorm::forward`] at `x`: `dx` is written, `dweight [H]` and `dbias [H]` are added
    /// to (they are parameters, shared by all rows), each where asked for.
    ///
    /// # Panics
    /// When a shape differs.
    pub fn backward(
        &self,
        x: Mat<'_>,
        dy: Mat<'_>,
        dx: MatMut<'_>,
        dweight: Option<&mut [f32]>,
        dbias: Option<&mut [f32]>,
    ) {
        self.backward_at(simd::level(), x, dy, dx, dweight, dbias);
    }

    /// [`LayerNorm::backward`] at `level`.
    pub fn backward_at(
        &self,
        level: Level,
        x: Mat<'_>,
        dy: Mat<'_>,
        dx: MatMut<'_>,
        dweight: Option<&mut [f32]>,
        dbias: Option<&mut [f32]>,
    ) {
        self.check(x.cols());
        for (rows, cols) in [(dy.rows(), dy.cols()), (dx.rows(), dx.cols())] {
            assert_eq!((rows, cols), (x.rows(), x.cols()), "gradient of a norm");
        }
        for d in [&dweight, &dbias].into_iter().flatten() {
            assert_eq!(d.len(), x.cols(), "parameter gradient of a norm");
        }
        simd::run_at(
            level,
            Backward {
                norm: *self,
                x,
                dy,
                dx,
                dweight,
                dbias,
            },
        );
    }

    fn check(&self, width: usize) {
        assert!(width > 0, "a norm over rows of no width");
        assert_eq!(self.weight.len(), width, "weight of a norm");
        if let Some(bias) = self.bias {
            assert_eq!(bias.len(), width, "bias of a norm");
        }
    }
}

/// `(mean, 1 / sqrt(variance + eps))` of a row.
#[inline(always)]
fn moments<S: Simd>(s: S, row: &[f32], eps: f32) -> (f32, f32) {
    let width = row.len() as f32;
    let mean = sum(s, row) / width;
    let minus = s.splat(-mean);
    let mut squares = Sums::new(s);
    for i in 0..row.len().div_ceil(LANES) {
        let d = s.mul(s.add(load_at(s, row, i), minus), lanes_at(s, row.len(), i));
        squares.product(s, i, d, d);
    }
    (mean, 1.0 / (squares.total(s) / width + eps).sqrt())
}

struct InPlace<'a> {
    norm: LayerNorm<'a>,
    x: MatMut<'a>,
    residual: Option<Mat<'a>>,
}

impl Kernel for InPlace<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let vectors = self.x.cols().div_ceil(LANES);
        for r in 0..self.x.rows() {
            let row = self.x.row_mut(r);
            if let Some(residual) = self.residual {
                let add = residual.row(r);
                for i in 0..vectors {
                    store_at(s, s.add(load_at(s, row, i), load_at(s, add, i)), row, i);
                }
            }
            let (mean, scale) = moments(s, row, self.norm.eps);
            let (minus, scale) = (s.splat(-mean), s.splat(scale));
            for i in 0..vectors {
                let hat = s.mul(s.add(load_at(s, row, i), minus), scale);
                let bias = match self.norm.bias {
                    Some(bias) => load_at(s, bias, i),
                    None => s.splat(0.0),
                };
                store_at(s, s.fma(hat, load_at(s, self.norm.weight, i), bias), row, i);
            }
        }
    }
}

struct Backward<'a> {
    norm: LayerNorm<'a>,
    x: Mat<'a>,
    dy: Mat<'a>,
    dx: MatMut<'a>,
    dweight: Option<&'a mut [f32]>,
    dbias: Option<&'a mut [f32]>,
}

impl Kernel for Backward<'_> {
    type Out = ();
    /// With `h = (x - mean) scale` and `g = dy weight`, the line `y = h weight + bias` gives
    /// `dx = scale (g - mean(g) - h mean(g h))`, `dweight += dy h`, `dbias += dy`.
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let width = self.x.cols();
        let vectors = width.div_ceil(LANES);
        for r in 0..self.x.rows() {
            let (x, dy) = (self.x.row(r), self.dy.row(r));
            let (mean, scale) = moments(s, x, self.norm.eps);
            let (minus, scale) = (s.splat(-mean), s.splat(scale));
            let (mut sum_g, mut sum_gh) = (Sums::new(s), Sums::new(s));
            for i in 0..vectors {
                let d = load_at(s, dy, i);
                let h = s.mul(s.add(load_at(s, x, i), minus), scale);
                let g = s.mul(d, load_at(s, self.norm.weight, i));
                sum_g.add(s, i, g);
                sum_gh.product(s, i, g, h);
                if let Some(dweight) = self.dweight.as_deref_mut() {
                    store_at(s, s.fma(d, h, load_at(s, dweight, i)), dweight, i);
                }
                if let Some(dbias) = self.dbias.as_deref_mut() {
                    store_at(s, s.add(d, load_at(s, dbias, i)), dbias, i);
                }
            }
            let mean_g = s.splat(-sum_g.total(s) / width as f32);
            let mean_gh = s.splat(-sum_gh.total(s) / width as f32);
            let dx = self.dx.row_mut(r);
            for i in 0..vectors {
                let h = s.mul(s.add(load_at(s, x, i), minus), scale);
                let g = s.mul(load_at(s, dy, i), load_at(s, self.norm.weight, i));
                let d = s.mul(scale, s.fma(h, mean_gh, s.add(g, mean_g)));
                store_at(s, d, dx, i);
            }
        }
    }
}

#[cfg(test)]
mod tests;
