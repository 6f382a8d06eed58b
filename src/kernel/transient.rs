//! Packing activations into panels at the moment of a product: keys, values, position tables.
//!
//! The panel kernels want their second operand packed. Inside attention that operand is an activation too, and
//! packing it costs little against the products it serves: each key is read by every query. Rows that become
//! output columns (keys) are transposed 16 by 16; rows that become depth (values) are copied 16 floats at a time. Both
//! can be rounded to pairs of `bf16` on the way.
//!
//! [`Words`] is the scratch for it: it only grows, and starts on a cache line, as the kernels load whole lines.
//!
//! Not here: weights (packed once, `panel/`), and products with general strides (`gemm`).

use crate::{
    kernel::panel::{PanelShape, Precision, WIDTH},
    mat::Mat,
    simd::{self, Kernel, Simd},
};

/// `f32`s of a cache line.
const LINE: usize = 16;

/// A growing buffer of `f32` that starts on a cache line. What it holds is unspecified until written.
#[derive(Debug, Default)]
pub struct Words(Vec<f32>);

impl Words {
    /// The first `n` words, growing the buffer where needed.
    pub fn get_mut(&mut self, n: usize) -> &mut [f32] {
        if self.0.len() < n + LINE {
            // Grow by half at least: lengths of sequences rise in small steps.
            self.0.resize((n + LINE).max(self.0.len() * 3 / 2), 0.0);
        }
        let start = self.start();
        &mut self.0[start..start + n]
    }

    /// The first `n` words.
    ///
    /// # Panics
    /// When the buffer never was that long.
    pub fn get(&self, n: usize) -> &[f32] {
        let start = self.start();
        &self.0[start..start + n]
    }

    fn start(&self) -> usize {
        // `align_offset` may give up in principle; then any start is right, only slower.
        self.0.as_ptr().align_offset(LINE * 4).min(LINE - 1)
    }
}

/// Panels of `n` output columns over a depth of `k`, of `f32` or `bf16`.
pub fn shape(precision: Precision, n: usize, k: usize) -> PanelShape {
    PanelShape {
        n,
        k,
        precision,
        tight: false,
    }
}

/// Packs `x [n x k]`, rows becoming output columns, into `to` of `shape(precision, n, k)`.
///
/// # Panics
/// When `to` has another length.
pub fn pack_rows(precision: Precision, x: Mat<'_>, to: &mut [f32]) {
    pack_rows_by(precision, x, to, |r| r);
}

/// [`pack_rows`] of the rows in descending order.
pub fn pack_rows_reversed(precision: Precision, x: Mat<'_>, to: &mut [f32]) {
    pack_rows_by(precision, x, to, |r| x.rows() - 1 - r);
}

/// Packs `x [k x n]`, rows becoming depth, into `to` of `shape(precision, n, k)`.
///
/// # Panics
/// When `to` has another length.
pub fn pack_depth(precision: Precision, x: Mat<'_>, to: &mut [f32]) {
    assert_eq!(
        4 * to.len(),
        shape(precision, x.cols(), x.rows()).bytes(),
        "panels of {x:?}"
    );
    simd::run(Depth { precision, x, to });
}

fn pack_rows_by(precision: Precision, x: Mat<'_>, to: &mut [f32], row: impl Fn(usize) -> usize) {
    assert_eq!(
        4 * to.len(),
        shape(precision, x.rows(), x.cols()).bytes(),
        "panels of {x:?}"
    );
    simd::run(Rows {
        precision,
        x,
        to,
        row,
    });
}

/// `low` and `high` rounded to `bf16` (to nearest, ties to even), as one word of a step.
#[inline(always)]
fn pair(low: f32, high: f32) -> f32 {
    let round = |x: f32| {
        let bits = x.to_bits();
        (bits + 0x7fff + (bits >> 16 & 1)) >> 16
    };
    f32::from_bits(round(low) | round(high) << 16)
}

/// Not arithmetic of the level, but its wide shuffles: the loops compile with the level's features.
struct Rows<'a, F> {
    precision: Precision,
    x: Mat<'a>,
    to: &'a mut [f32],
    row: F,
}

impl<F: Fn(usize) -> usize> Kernel for Rows<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (x, k) = (self.x, self.x.cols());
        if k == 0 {
            return;
        }
        let steps = steps(self.precision, k);
        for (p, panel) in self.to.chunks_exact_mut(WIDTH * steps).enumerate() {
            let count = (x.rows() - p * WIDTH).min(WIDTH);
            // Columns past the end repeat the last row: never read, and no branch in the loop.
            let rows: [&[f32]; WIDTH] =
                std::array::from_fn(|c| &x.row((self.row)(p * WIDTH + c.min(count - 1)))[..k]);
            let panel = panel.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate();
            if self.precision == Precision::F32 {
                panel.for_each(|(d, step)| *step = std::array::from_fn(|c| rows[c][d]));
                continue;
            }
            for (d, step) in panel {
                *step = if 2 * d + 1 < k {
                    std::array::from_fn(|c| pair(rows[c][2 * d], rows[c][2 * d + 1]))
                } else {
                    std::array::from_fn(|c| pair(rows[c][2 * d], 0.0))
                };
            }
        }
    }
}

/// As [`Rows`], rows becoming depth.
struct Depth<'a> {
    precision: Precision,
    x: Mat<'a>,
    to: &'a mut [f32],
}

impl Kernel for Depth<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (x, k) = (self.x, self.x.rows());
        if k == 0 {
            return;
        }
        let steps = steps(self.precision, k);
        for (p, panel) in self.to.chunks_exact_mut(WIDTH * steps).enumerate() {
            let from = p * WIDTH;
            // 16 columns of a row, zeros past its end.
            let part = |t: usize| -> [f32; WIDTH] {
                let rest = &x.row(t)[from..];
                rest.first_chunk()
                    .copied()
                    .unwrap_or_else(|| std::array::from_fn(|c| rest.get(c).copied().unwrap_or(0.0)))
            };
            let panel = panel.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate();
            if self.precision == Precision::F32 {
                panel.for_each(|(t, step)| *step = part(t));
                continue;
            }
            for (t, step) in panel {
                let low = part(2 * t);
                let high = if 2 * t + 1 < k {
                    part(2 * t + 1)
                } else {
                    [0.0; WIDTH]
                };
                *step = std::array::from_fn(|c| pair(low[c], high[c]));
            }
        }
    }
}

/// Words of a column over a depth of `k`.
fn steps(precision: Precision, k: usize) -> usize {
    match precision {
        Precision::F32 => k,
        Precision::Bf16 => k.div_ceil(2),
        Precision::Int8 => unreachable!("activations are packed as floats"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::{
            naive::Noise,
            panel::{Init, Panels, Product},
        },
        mat::Matrix,
    };

    #[test]
    fn products_of_packed_activations_are_products() {
        let mut words = Words::default();
        for (n, k) in [(1, 8), (7, 20), (16, 16), (33, 5), (50, 64)] {
            let mut noise = Noise::new((n * k) as u64);
            let (x, w) = (noise.matrix(3, k, 1.0), noise.matrix(n, k, 1.0));
            let mut wt = Matrix::zeros(k, n);
            let mut reversed = Matrix::zeros(n, k);
            for r in 0..n {
                reversed
                    .view_mut()
                    .row_mut(n - 1 - r)
                    .copy_from_slice(w.row(r));
                for c in 0..k {
                    wt.view_mut().row_mut(c)[r] = w.row(r)[c];
                }
            }
            for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, BF16)] {
                let shape = shape(precision, n, k);
                let mut results = Vec::new();
                for way in 0..3 {
                    let to = words.get_mut(shape.bytes() / 4);
                    to.fill(f32::NAN);
                    match way {
                        0 => pack_rows(precision, w.view(), to),
                        1 => pack_depth(precision, wt.view(), to),
                        _ => pack_rows_reversed(precision, reversed.view(), to),
                    }
                    let mut y = Matrix::zeros(3, n);
                    let product = Product {
                        x: x.view(),
                        w: Panels::of_words(to, shape),
                        init: Init::Zero,
                        activation: None,
                        residual: None,
                    };
                    product.into(y.view_mut());
                    results.push(y);
                }
                for r in 0..3 {
                    for c in 0..n {
                        let want: f32 = x.row(r).iter().zip(w.row(c)).map(|(x, w)| x * w).sum();
                        assert!((results[0].row(r)[c] - want).abs() < tolerance, "{n} x {k}");
                    }
                }
                assert!(
                    results[0] == results[1] && results[0] == results[2],
                    "{n} x {k}"
                );
            }
        }
    }

    /// Sums of up to 64 products below 1 of numbers that were rounded by 2^-9 of themselves at most.
    const BF16: f32 = 0.1;

    #[test]
    fn scratch_starts_on_a_line_and_only_grows() {
        let mut words = Words::default();
        for n in [0, 1, 100, 50, 1000] {
            let at = words.get_mut(n).as_ptr();
            assert_eq!(at.align_offset(64), 0);
        }
        let long = words.get(1000).as_ptr();
        assert_eq!(words.get_mut(10).as_ptr(), long);
    }
}
