//! The loops around the micro-kernel: groups of panels, tiles of rows, and what follows a tile.
//!
//! A group of panels (the slice of weights that stays in L2) is outermost, tiles of rows inside. K is not blocked: a group
//! is at most 3 x 64 bytes a step, 590 KB at K = 3072 in `f32`.
//!
//! The low-rank part, the activation and the residual follow tile by tile while the tile is in L1: a store and a load of 24
//! vectors beside thousands of multiplications, and the same bits as in registers. A ragged last panel passes through a
//! padded tile on the stack, so that the micro-kernel knows whole vectors alone.
//!
//! Not here: threads (callers split rows or panels).

use super::{
    Init, Panels, Product, WIDTH,
    tile::{Ahead, CHUNK, Dot, Group, Place, Rows, peak, tile_any},
};
use crate::{
    mat::{Mat, MatMut},
    simd::Simd,
};

/// The low-rank part of a product: rows `t [m x R]`, scaled already, and its `up` panels.
pub(super) type Low<'a> = Option<(Mat<'a>, Panels<'a>)>;

/// Activation and residual over a tile of `r` rows and `p` panels at `place.out`, written to `to`; the
/// last panel has `cols` columns there. `row` and `col` are the tile's corner in the residual.
///
/// # Safety
/// `place.out` holds `r` rows of `16 p` columns, `to` holds `r` rows of `16 (p - 1) + cols`.
#[inline(always)]
unsafe fn finish<S: Simd>(
    s: S,
    product: &Product<'_>,
    (r, p, cols): (usize, usize, usize),
    (row, col): (usize, usize),
    place: Place,
    to: (*mut f32, usize),
) {
    for i in 0..r {
        for j in 0..p {
            let n = if j == p - 1 { cols } else { WIDTH };
            // SAFETY: inside the caller's promise; the residual has y's shape.
            unsafe {
                let mut v = s.load_ptr(place.out.add(i * place.out_stride + j * WIDTH));
                if let Some(activation) = product.activation {
                    v = activation.vector(s, v);
                }
                if let Some(x) = product.residual {
                    let from = x.as_ptr().add((row + i) * x.stride() + col + j * WIDTH);
                    let x = if n == WIDTH {
                        s.load_ptr(from)
                    } else {
                        s.load_part_ptr(from, n)
                    };
                    v = s.add(v, x);
                }
                let to = to.0.add(i * to.1 + j * WIDTH);
                if n == WIDTH {
                    s.store_ptr(v, to);
                } else {
                    s.store_part_ptr(v, to, n);
                }
            }
        }
    }
}

/// What runs inside a level: a whole product, or the peak of its arithmetic.
pub(super) enum Job<'a> {
    /// `product` into `y`; `rows` are its activations as the level's [`Dot`] reads them.
    Product {
        product: &'a Product<'a>,
        low: Low<'a>,
        rows: Rows,
        y: MatMut<'a>,
    },
    /// So many rounds of [`peak`].
    Peak(usize),
}

impl Job<'_> {
    /// Does the job with `d` (low-rank parts with `fma`), and returns the operations of a peak.
    ///
    /// # Safety
    /// `rows` holds `y.rows()` rows of the weight's steps. The shapes of `product`, `low` and `y` agree. The
    /// caller's target features include those of `d`.
    #[inline(always)]
    pub(super) unsafe fn run<D: Dot, L: Dot<S = D::S>>(self, d: D, fma: L) -> u64 {
        match self {
            Job::Product {
                product,
                low,
                rows,
                y,
            } => {
                // SAFETY: the caller's promise.
                unsafe { drive(d, fma, rows, product, low, y) };
                0
            }
            Job::Peak(rounds) => peak(d, rounds),
        }
    }
}

/// The whole product: every group of panels, every tile of rows.
///
/// `rows` are the activations as `d` reads them; `fma` multiplies the low-rank part.
///
/// # Safety
/// `rows` holds `y.rows()` rows of the weight's steps. The shapes of `product`, `low` and `y` agree.
#[inline(always)]
unsafe fn drive<D: Dot, L: Dot<S = D::S>>(
    d: D,
    fma: L,
    rows: Rows,
    product: &Product<'_>,
    low: Low<'_>,
    mut y: MatMut<'_>,
) {
    const MOST: usize = 8; // rows and panels of the largest tile of any level
    let s = d.simd();
    let Product { x, w, init, .. } = *product;
    let (out, out_stride) = (y.as_mut_ptr(), y.stride());
    let (most_rows, most_panels) = D::TILE;
    let shape = w.shape;
    let whole = shape.n / WIDTH; // panels with 16 columns; the ragged one passes through `edge`
    let zeros = [0.0f32; WIDTH * MOST];
    let mut edge = [0.0f32; WIDTH * MOST];
    // SAFETY: the caller's promise.
    unsafe { d.prepare(x, rows) };
    let mut panel = 0;
    while panel < shape.panels() {
        let ragged = panel == whole;
        let p = if ragged {
            1
        } else {
            most_panels.min(whole - panel)
        };
        let cols = if ragged { shape.n % WIDTH } else { WIDTH };
        let group = Group::of(&w, panel);
        let next = w
            .bytes
            .as_ptr()
            .wrapping_add((panel + p) * shape.panel_bytes());
        let col = panel * WIDTH;
        // Lines that a tile fetches a chunk: of the next group, and of the rows that come next.
        let chunks = (group.steps / CHUNK).max(1);
        let w_lines = (group.pitch * p).div_ceil(64 * chunks * rows.m.div_ceil(most_rows).max(1));
        // Rows far apart in a wider buffer would fetch what lies between them.
        let near = rows.stride <= 2 * group.steps * D::X_STEP;
        let x_lines = if near {
            most_rows * rows.stride / (64 * chunks)
        } else {
            0
        };
        let mut row = 0;
        while row < rows.m {
            let r = most_rows.min(rows.m - row);
            // SAFETY: the tile lies inside `y`, whose shape agrees with all operands; a ragged panel is loaded and
            // stored through `edge`, which has room for `most_rows` rows of one panel.
            unsafe {
                let here = out.add(row * out_stride + col);
                let place = if ragged {
                    for i in 0..r {
                        let from = match init {
                            Init::Zero => s.splat(0.0),
                            Init::Bias(b) => s.load_part_ptr(b.as_ptr().add(col), cols),
                            Init::Keep => s.load_part_ptr(here.add(i * out_stride), cols),
                        };
                        s.store_ptr(from, edge.as_mut_ptr().add(i * WIDTH));
                    }
                    let edge = edge.as_mut_ptr();
                    Place {
                        start: edge,
                        start_stride: WIDTH,
                        out: edge,
                        out_stride: WIDTH,
                    }
                } else {
                    let (start, start_stride) = match init {
                        Init::Zero => (zeros.as_ptr(), 0),
                        Init::Bias(b) => (b.as_ptr().add(col), 0),
                        Init::Keep => (here.cast_const(), out_stride),
                    };
                    Place {
                        start,
                        start_stride,
                        out: here,
                        out_stride,
                    }
                };
                let ahead = Ahead {
                    w: next.wrapping_add(row / most_rows * 64 * chunks * w_lines),
                    w_lines,
                    x: rows.ptr.wrapping_add((row + r) % rows.m * rows.stride),
                    x_lines,
                };
                tile_any(d, (r, p), rows, row, group, place, ahead);
                if let Some((t, up)) = low {
                    let place = Place {
                        start: place.out,
                        start_stride: place.out_stride,
                        ..place
                    };
                    let group = Group::of(&up, panel);
                    tile_any(fma, (r, p), Rows::of(t), row, group, place, Ahead::NOTHING);
                }
                if ragged || product.activation.is_some() || product.residual.is_some() {
                    let to = (here, out_stride);
                    finish(s, product, (r, p, cols), (row, col), place, to);
                }
            }
            row += r;
        }
        panel += p;
    }
}

/// Rows of the largest tile must fit the scratch of ragged panels.
const _: () = {
    assert!(<crate::simd::Scalar as Simd>::TILE_ROWS <= 8);
    #[cfg(target_arch = "x86_64")]
    assert!(
        <crate::simd::Avx2 as Simd>::TILE_ROWS <= 8
            && <crate::simd::Avx512 as Simd>::TILE_ROWS <= 8
    );
};
