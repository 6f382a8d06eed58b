//! The driver and the micro-kernel that every precision and level shares.
//!
//! All packed weights have one shape in memory: a *step* of K is one 32-bit word a column (one `f32`, two
//! `bf16`, four `i8`), a panel is `steps` times 16 words behind an optional header. So one register tile
//! serves everything: `R` rows of activations, broadcast word by word, times `P` panels. What a word
//! means is a [`Dot`], a few lines for each pair of precision and level.
//!
//! **One chain.** An element of the product is one chain of additions over ascending K, started from
//! its initial value, whatever the tile it lies in: edge tiles are the same function with smaller `R`
//! and `P`, and K is never split. So its bits depend on nothing but its row, its column and the level.
//!
//! **Order of the loops.** A group of `P` panels (the slice of weights that stays in L2) is outermost,
//! tiles of rows inside. K is not blocked: a group is at most 3 x 64 bytes a step, 590 KB at K = 3072 in
//! `f32`. While a group is multiplied, the next one is prefetched, so that weights arrive from memory
//! behind the arithmetic.
//!
//! The low-rank part, the activation and the residual follow tile by tile while the tile is in L1: a store
//! and a load of 24 vectors beside thousands of multiplications, and the same bits as in registers.
//!
//! Not here: threads (callers split rows or panels), conversion of activations (the precision's file).

use super::{
    Init, Panels, Part, Product, WIDTH,
    dot::{Dot, Rows, peak},
};
use crate::{
    mat::MatMut,
    simd::{Simd, prefetch},
};

/// The low-rank parts of a product, in row order, scaled already.
pub(super) type Low<'a> = &'a [Part<'a>];

/// Where a tile reads its initial sums and writes its results.
#[derive(Clone, Copy)]
struct Place {
    start: *const f32,
    start_stride: usize,
    out: *mut f32,
    out_stride: usize,
}

/// A group of panels that one call of the micro-kernel reads.
#[derive(Clone, Copy)]
struct Group {
    /// The first panel's header.
    panel: *const u8,
    /// Bytes of a panel's header.
    header: usize,
    /// Bytes from one panel to the next.
    pitch: usize,
    /// Bytes from one step to the next.
    step: usize,
    steps: usize,
}

impl Group {
    fn of(w: &Panels<'_>, first: usize) -> Self {
        let shape = w.shape;
        Self {
            panel: w.bytes[first * shape.panel_bytes()..].as_ptr(),
            header: shape.header(),
            pitch: shape.panel_bytes(),
            step: 4 * shape.stored_columns(first),
            steps: shape.steps(),
        }
    }
}

/// Steps between prefetches.
const CHUNK: usize = 4;

/// What a tile fetches while it multiplies, so many lines a chunk: its share of the next group, and the next tile's rows.
#[derive(Clone, Copy)]
struct Ahead {
    w: *const u8,
    w_lines: usize,
    x: *const u8,
    x_lines: usize,
}

impl Ahead {
    const NOTHING: Ahead = Ahead {
        w: std::ptr::null(),
        w_lines: 0,
        x: std::ptr::null(),
        x_lines: 0,
    };
}

/// One step of K: `acc += x w`.
///
/// # Safety
/// `x` holds `R` rows of a step, `stride` bytes apart; `w` is readable for 64 bytes at `P` places, `pitch` bytes apart.
#[inline(always)]
unsafe fn step<D: Dot, const R: usize, const P: usize>(
    d: D,
    acc: &mut [[D::Acc; P]; R],
    x: *const u8,
    stride: usize,
    w: *const u8,
    pitch: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut panels = [d.load(w); P];
        for p in 1..P {
            panels[p] = d.load(w.add(p * pitch));
        }
        for r in 0..R {
            let word = d.splat(x.add(r * stride));
            for p in 0..P {
                acc[r][p] = d.dot(acc[r][p], word, panels[p]);
            }
        }
    }
}

/// `R` rows from `row` on times `P` panels, the whole of K.
///
/// # Safety
/// `rows` holds `row + R` rows of `group.steps` steps, `group` holds `P` panels whose every step is readable for
/// 64 bytes, `place` holds `R` rows of `16 * P` columns.
#[inline(always)]
unsafe fn tile<D: Dot, const R: usize, const P: usize>(
    d: D,
    rows: Rows,
    row: usize,
    group: Group,
    place: Place,
    mut ahead: Ahead,
) {
    let s = d.simd();
    // SAFETY: all reads and writes are inside what the caller promises; prefetches may go anywhere.
    unsafe {
        let mut acc = [[d.start(row, group.panel, place.start); P]; R];
        for r in 0..R {
            for p in 0..P {
                let from = place.start.add(r * place.start_stride + p * WIDTH);
                acc[r][p] = d.start(row + r, group.panel.add(p * group.pitch), from);
            }
        }
        let mut x = rows.ptr.add(row * rows.stride);
        let mut w = group.panel.add(group.header);
        let mut line = 0;
        for _ in 0..group.steps / CHUNK {
            if line < R * P {
                let at = line / P * place.out_stride + line % P * WIDTH;
                prefetch(place.out.add(at).cast_const().cast());
                line += 1;
            }
            for _ in 0..ahead.w_lines {
                prefetch(ahead.w);
                ahead.w = ahead.w.wrapping_add(64);
            }
            for _ in 0..ahead.x_lines {
                prefetch(ahead.x);
                ahead.x = ahead.x.wrapping_add(64);
            }
            for _ in 0..CHUNK {
                step(d, &mut acc, x, rows.stride, w, group.pitch);
                x = x.add(D::X_STEP);
                w = w.add(group.step);
            }
        }
        for _ in 0..group.steps % CHUNK {
            step(d, &mut acc, x, rows.stride, w, group.pitch);
            x = x.add(D::X_STEP);
            w = w.add(group.step);
        }
        for r in 0..R {
            for p in 0..P {
                let from = place.start.add(r * place.start_stride + p * WIDTH);
                let sum = d.finish(acc[r][p], row + r, group.panel.add(p * group.pitch), from);
                s.store_ptr(sum, place.out.add(r * place.out_stride + p * WIDTH));
            }
        }
    }
}

/// [`tile`] with `r` rows, `r <= TILE.0`.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn tile_rows<D: Dot, const P: usize>(
    d: D,
    r: usize,
    rows: Rows,
    row: usize,
    group: Group,
    place: Place,
    ahead: Ahead,
) {
    let most = D::TILE.0;
    // SAFETY: the caller's promise, word for word.
    unsafe {
        match r {
            1 => tile::<D, 1, P>(d, rows, row, group, place, ahead),
            2 if most >= 2 => tile::<D, 2, P>(d, rows, row, group, place, ahead),
            3 if most >= 3 => tile::<D, 3, P>(d, rows, row, group, place, ahead),
            4 if most >= 4 => tile::<D, 4, P>(d, rows, row, group, place, ahead),
            5 if most >= 5 => tile::<D, 5, P>(d, rows, row, group, place, ahead),
            6 if most >= 6 => tile::<D, 6, P>(d, rows, row, group, place, ahead),
            7 if most >= 7 => tile::<D, 7, P>(d, rows, row, group, place, ahead),
            8 if most >= 8 => tile::<D, 8, P>(d, rows, row, group, place, ahead),
            _ => unreachable!("a tile of {r} rows"),
        }
    }
}

/// [`tile_rows`] with `p` panels, `p <= TILE.1`.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn tile_any<D: Dot>(
    d: D,
    (r, p): (usize, usize),
    rows: Rows,
    row: usize,
    group: Group,
    place: Place,
    ahead: Ahead,
) {
    let most = D::TILE.1;
    // SAFETY: the caller's promise, word for word.
    unsafe {
        match p {
            1 => tile_rows::<D, 1>(d, r, rows, row, group, place, ahead),
            2 if most >= 2 => tile_rows::<D, 2>(d, r, rows, row, group, place, ahead),
            3 if most >= 3 => tile_rows::<D, 3>(d, r, rows, row, group, place, ahead),
            _ => unreachable!("a tile of {p} panels"),
        }
    }
}

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
    let own = (part.columns.start / WIDTH, part.columns.end.div_ceil(WIDTH));
    let (first, end) = (rows.0.max(part.rows.start), rows.1.min(part.rows.end));
    let (left, right) = (panels.0.max(own.0), panels.1.min(own.1));
    if first >= end || left >= right {
        return;
    }
    let group = Group::of(&part.up, left - own.0);
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
        let ahead = Ahead::NOTHING;
        let tile = (end - first, right - left);
        tile_any(
            fma,
            tile,
            Rows::of(part.t),
            first - part.rows.start,
            group,
            place,
            ahead,
        );
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
        let mut parts = low;
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
                // Parts stand in row order: those above this tile are behind us until the next group of panels.
                while parts.first().is_some_and(|part| part.rows.end <= row) {
                    parts = &parts[1..];
                }
                let near = parts.iter().take_while(|part| part.rows.start < row + r);
                for part in near {
                    add_part(fma, part, (row, row + r), (panel, panel + p), place);
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
