//! Packing activations into panels at the moment of a product: keys, values, position tables.
//!
//! The panel kernels want their second operand packed. Inside attention that operand is an activation too, and
//! packing it costs little against the products it serves: each key is read by every query. Rows that become
//! output columns (keys) are transposed 16 by 16; rows that become depth (values) are copied 16 floats at a time.
//!
//! [`Words`] is the scratch for it: it only grows, and starts on a cache line, as the kernels load whole lines.
//!
//! Not here: weights (packed once, `panel/`), and products with general strides (`gemm`).

use crate::{
    kernel::panel::{PanelShape, Precision, WIDTH},
    mat::Mat,
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

/// Panels of `n` output columns over a depth of `k`.
pub fn shape(n: usize, k: usize) -> PanelShape {
    PanelShape {
        n,
        k,
        precision: Precision::F32,
        tight: false,
    }
}

/// Packs `x [n x k]`, rows becoming output columns, into `to` of `shape(n, k)`.
///
/// # Panics
/// When `to` has another length.
pub fn pack_rows(x: Mat<'_>, to: &mut [f32]) {
    pack_rows_by(x, to, |r| r);
}

/// [`pack_rows`] of the rows in descending order.
pub fn pack_rows_reversed(x: Mat<'_>, to: &mut [f32]) {
    pack_rows_by(x, to, |r| x.rows() - 1 - r);
}

fn pack_rows_by(x: Mat<'_>, to: &mut [f32], row: impl Fn(usize) -> usize) {
    let (n, k) = (x.rows(), x.cols());
    assert_eq!(to.len(), n.div_ceil(WIDTH) * WIDTH * k, "panels of {x:?}");
    if k == 0 {
        return;
    }
    for (p, panel) in to.chunks_exact_mut(WIDTH * k).enumerate() {
        let count = (n - p * WIDTH).min(WIDTH);
        // Columns past the end repeat the last row: never read, and no branch in the loop.
        let rows: [&[f32]; WIDTH] =
            std::array::from_fn(|c| x.row(row(p * WIDTH + c.min(count - 1))));
        for (d, step) in panel.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            *step = std::array::from_fn(|c| rows[c][d]);
        }
    }
}

/// Packs `x [k x n]`, rows becoming depth, into `to` of `shape(n, k)`.
///
/// # Panics
/// When `to` has another length.
pub fn pack_depth(x: Mat<'_>, to: &mut [f32]) {
    let (n, k) = (x.cols(), x.rows());
    assert_eq!(to.len(), n.div_ceil(WIDTH) * WIDTH * k, "panels of {x:?}");
    if k == 0 {
        return;
    }
    for (p, panel) in to.chunks_exact_mut(WIDTH * k).enumerate() {
        let from = p * WIDTH;
        for (t, step) in panel.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            let rest = &x.row(t)[from..];
            match rest.first_chunk::<WIDTH>() {
                Some(whole) => *step = *whole,
                None => {
                    step.fill(0.0);
                    step[..rest.len()].copy_from_slice(rest);
                }
            }
        }
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
            let shape = shape(n, k);
            let mut results = Vec::new();
            for way in 0..3 {
                let to = words.get_mut(shape.bytes() / 4);
                to.fill(f32::NAN);
                match way {
                    0 => pack_rows(w.view(), to),
                    1 => pack_depth(wt.view(), to),
                    _ => pack_rows_reversed(reversed.view(), to),
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
                    assert!((results[0].row(r)[c] - want).abs() < 1e-5, "{n} x {k}");
                }
            }
            assert!(
                results[0] == results[1] && results[0] == results[2],
                "{n} x {k}"
            );
        }
    }

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
