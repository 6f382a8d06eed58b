//! The driver: which tile of a product is computed when, and what follows it.
//!
//! **Order of the loops.** Blocks of rows (whose converted activations stay in L2) are outermost, then groups of `P`
//! panels (a slice of weights that streams through L2), tiles of rows inside. K is not blocked: a group is at most 3 x 64
//! bytes a step, 590 KB at K = 3072 in `f32`. While a group is multiplied, the next one is prefetched, so that weights
//! arrive from memory behind the arithmetic. Where all rows fit one *tall* tile of one panel (9 to 16 rows, with 32
//! registers), weights are read exactly once, in the order of memory: two tiles would wait for memory in the first and only
//! multiply in the second.
//!
//! A low-rank part that holds a whole tile continues it in registers; parts that end inside it, the activation and the
//! residual follow while the tile is in L1: a store and a load of 24 vectors beside thousands of multiplications, and the
//! same bits as in registers.
//!
//! Not here: threads (callers split rows or panels), conversion of activations (the precision's file).

use std::ops::Range;

use super::{
    Init, Part, Product, WIDTH,
    dot::{CHUNK, Dot, Rows, peak},
    scratch::TALL_STRIDE,
    tile::{Ahead, Group, Place, Ranks, tile_any},
};
use crate::{mat::MatMut, simd::Simd};

/// The low-rank parts of a product, in row order, scaled already.
pub(super) type Low<'a> = &'a [Part<'a>];

/// Bytes of converted activations that a block should fit into: half of an L2 of 1 MiB.
const BLOCK_BYTES: usize = 512 << 10;
/// Rows of a block, at least: weights are read again for each, from L3 by then.
const BLOCK_ROWS: usize = 96;
/// Up to so many tiles a group comes from memory hardly faster than it is multiplied: the next one is fetched to the second cache
/// all the while (two cores, one text through BERT-base: 16 tokens in bf16 8.7 ms without, 7.5 with; 17 in int8 5.6, to the
/// first cache, and 5.0). For more tiles the first cache does better.
const FEW_TILES: usize = 3;
/// So many rows times elements a step, at least, or nothing is fetched ahead: fewer rows take what memory gives, and what the
/// caches fetch by themselves along a panel does better (4 rows: f32 10.3 ms without, 11.2 with; bf16 5.2, 5.4; int8 2.63, 2.58).
const LEAST_WORK: usize = 16;
/// Bytes ahead of itself that a tall tile fetches its panel from memory (f32, two cores, weights cold: 195 GFLOP/s, 186 at half of
/// it, 105 without, and 135 with two tiles of 8 rows).
const STREAM_AHEAD: usize = 8192;

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

/// Adds what `part` has for the tile of `rows` (first, end) and `panels` at `place.out`.
///
/// # Safety
/// The shapes of the part agree with its rows and columns; `place.out` holds the tile.
#[inline(always)]
unsafe fn add_part<L: Dot>(
    fma: L,
    part: &Part<'_>,
    rows: (usize, usize),
    panels: (usize, usize),
    place: Place,
) {
    let own = panels_of(part);
    let (first, end) = (rows.0.max(part.rows.start), rows.1.min(part.rows.end));
    let (left, right) = (panels.0.max(own.start), panels.1.min(own.end));
    if first >= end || left >= right {
        return;
    }
    let group = Group::of(&part.up, left - own.start);
    for first in (first..end).step_by(L::TILE.0) {
        // SAFETY: the rectangle lies in the tile and in the part.
        unsafe {
            let at = (first - rows.0) * place.out_stride + (left - panels.0) * WIDTH;
            let out = place.out.add(at);
            let place = Place {
                start: out,
                start_stride: place.out_stride,
                out,
                ..place
            };
            let (ahead, row) = (Ahead::NOTHING, first - part.rows.start);
            let tile = (L::TILE.0.min(end - first), right - left);
            let t = Rows::of(part.t);
            tile_any(fma, tile, t, row, group, place, ahead, Ranks::NONE);
        }
    }
}

/// The panels of a part, as panels of `y`.
fn panels_of(part: &Part<'_>) -> Range<usize> {
    part.columns.start / WIDTH..part.columns.end.div_ceil(WIDTH)
}

/// A part that has all of a group's panels.
struct Covering {
    rows: Range<usize>,
    /// At the first of those rows.
    ranks: Ranks,
}

impl Covering {
    /// The one of `parts` at `row` that has all of `panels` (first, end); there is one at most, as parts are disjoint.
    fn of<'p>(
        mut parts: impl Iterator<Item = &'p Part<'p>>,
        row: usize,
        panels: (usize, usize),
    ) -> Option<Self> {
        let part = parts.find(|part| {
            let own = panels_of(part);
            part.rows.contains(&row) && own.start <= panels.0 && panels.1 <= own.end
        })?;
        let ranks = Ranks {
            t: part.t.as_ptr(),
            stride: part.t.stride(),
            up: Group::of(&part.up, panels.0 - panels_of(part).start),
        };
        let rows = part.rows.clone();
        Some(Self { rows, ranks })
    }

    /// The ranks of rows `first..end`, if all of them are in the part.
    fn at(&self, first: usize, end: usize) -> Option<Ranks> {
        let inside = self.rows.start <= first && end <= self.rows.end;
        inside.then(|| Ranks {
            t: (self.ranks.t).wrapping_add((first - self.rows.start) * self.ranks.stride),
            ..self.ranks
        })
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
    let (most_rows, _) = D::TILE;
    let rows_of_block = (BLOCK_BYTES / rows.stride.max(1))
        .max(BLOCK_ROWS)
        .next_multiple_of(most_rows);
    for start in (0..rows.m).step_by(rows_of_block) {
        let block = start..rows.m.min(start + rows_of_block);
        // SAFETY: the caller's promise; the rows of the block are converted before they are read.
        unsafe {
            d.prepare(product.x, rows, block.clone());
            drive_block(d, fma, rows, block, product, low, &mut y);
        }
    }
}

/// The rows in `block` of [`drive`].
///
/// # Safety
/// As [`drive`], and these rows are prepared.
#[inline(always)]
unsafe fn drive_block<D: Dot, L: Dot<S = D::S>>(
    d: D,
    fma: L,
    rows: Rows,
    block: Range<usize>,
    product: &Product<'_>,
    low: Low<'_>,
    y: &mut MatMut<'_>,
) {
    const MOST: usize = 16; // rows of the tallest tile of any level
    let s = d.simd();
    let Product { w, init, .. } = *product;
    let (out, out_stride) = (y.as_mut_ptr(), y.stride());
    let tall = rows.stride == TALL_STRIDE && block.len() > D::TILE.0 && block.len() <= D::TALL;
    let (most_rows, most_panels) = if tall { (block.len(), 1) } else { D::TILE };
    let shape = w.shape;
    let whole = shape.n / WIDTH; // panels with 16 columns; the ragged one passes through `edge`
    let zeros = [0.0f32; WIDTH * MOST];
    let mut edge = [0.0f32; WIDTH * MOST];
    let last = block.end == rows.m;
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
        // After the last group the next block of rows begins with the first.
        let then = match last || panel + p < shape.panels() {
            true => panel + p, // past the end of all: what was packed behind this weight is often needed next
            false => 0,
        };
        let next = w.bytes.as_ptr().wrapping_add(then * shape.panel_bytes());
        let col = panel * WIDTH;
        // Lines that a tile fetches a chunk: of the next group, and of the rows that come next.
        let chunks = (group.steps / CHUNK).max(1);
        let tiles = block.len().div_ceil(most_rows);
        let few = tiles <= FEW_TILES;
        let w_lines = match tall {
            true => CHUNK,
            false if few && block.len() * D::K_STEP < LEAST_WORK => 0,
            false => (group.pitch * p).div_ceil(64 * chunks * tiles),
        };
        // Rows far apart in a wider buffer would fetch what lies between them; a tall tile is all rows there are.
        let near = rows.stride <= 2 * group.steps * D::X_STEP && !tall;
        let x_lines = if near {
            most_rows * rows.stride / (64 * chunks)
        } else {
            0
        };
        let mut parts = low;
        let mut covering: Option<Covering> = None;
        let mut row = block.start;
        while row < block.end {
            let r = most_rows.min(block.end - row);
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
                let after = if row + r < block.end {
                    row + r
                } else {
                    block.start
                };
                let behind = (row - block.start) / most_rows * 64 * chunks * w_lines;
                let ahead = Ahead {
                    w: match tall {
                        true => group.panel.wrapping_add(STREAM_AHEAD),
                        false => next.wrapping_add(behind),
                    },
                    w_lines,
                    far: few,
                    x: rows.ptr.wrapping_add(after * rows.stride),
                    x_lines,
                };
                // Parts stand in row order: those above this tile are behind us until the next group of panels.
                while parts.first().is_some_and(|part| part.rows.end <= row) {
                    parts = &parts[1..];
                }
                let near = parts.iter().take_while(|part| part.rows.start < row + r);
                let own_panels = (panel, panel + p);
                if covering.as_ref().is_none_or(|c| c.rows.end <= row) {
                    covering = Covering::of(near.clone(), row, own_panels);
                }
                match covering.as_ref().and_then(|c| c.at(row, row + r)) {
                    Some(ranks) => tile_any(d, (r, p), rows, row, group, place, ahead, ranks),
                    None => {
                        tile_any(d, (r, p), rows, row, group, place, ahead, Ranks::NONE);
                        // No closure: one that is not inlined lacks the level's instructions, and each of them is a call.
                        for part in near {
                            add_part(fma, part, (row, row + r), own_panels, place);
                        }
                    }
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
            && <crate::simd::Avx512 as Simd>::TALL_ROWS <= 16
    );
    #[cfg(target_arch = "aarch64")]
    assert!(<crate::simd::Neon as Simd>::TILE_ROWS <= 8);
};
