//! The micro-kernel that every precision and level shares.
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
//! **Waiting for memory.** Between steps a tile asks for three things: its own place in `y` (a store that misses stalls
//! the tiles after it), the next tile's rows, and its share of the next group of panels, so that weights arrive from
//! memory behind the arithmetic whatever the number of rows.
//!
//! Not here: the loops over tiles (`drive`), conversion of activations (the precision's file).

use super::{Panels, WIDTH};
use crate::{
    mat::Mat,
    simd::{Simd, prefetch},
};

/// How one step of K is multiplied at one level. Everything is inlined into the level's trampoline.
pub(super) trait Dot: Copy {
    /// Vectors of the epilogue.
    type S: Simd;
    /// Sixteen sums in the making.
    type Acc: Copy;
    /// A step of a panel: 16 words.
    type W: Copy;
    /// A step of a row, in all lanes.
    type X: Copy;
    /// Elements of K a step.
    const K_STEP: usize;
    /// Bytes of a row a step.
    const X_STEP: usize;
    /// Rows and panels of the register tile, at most the level's.
    const TILE: (usize, usize) = (Self::S::TILE_ROWS, Self::S::TILE_PANELS);

    /// The level's vectors.
    fn simd(self) -> Self::S;
    /// Writes the rows of `x` to `rows` as this dot reads them; nothing to do where it reads `f32`.
    ///
    /// # Safety
    /// `x` has as many rows as `rows`, which lie in the scratch that the precision laid out.
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows);
    /// The first value of a chain: `from` is the initial sum of 16 columns, `panel` their panel (its header), `row`
    /// the row.
    ///
    /// # Safety
    /// `from` is readable for 16 elements, `panel` for the header.
    unsafe fn start(self, row: usize, panel: *const u8, from: *const f32) -> Self::Acc;
    /// Loads a step of a panel.
    ///
    /// # Safety
    /// `p` is readable for 64 bytes.
    unsafe fn load(self, p: *const u8) -> Self::W;
    /// Broadcasts a step of a row.
    ///
    /// # Safety
    /// `p` is readable for [`Dot::X_STEP`] bytes.
    unsafe fn splat(self, p: *const u8) -> Self::X;
    /// `acc + x . w`
    fn dot(self, acc: Self::Acc, x: Self::X, w: Self::W) -> Self::Acc;
    /// The finished sums, as `f32`. Same meaning and duties as [`Dot::start`].
    ///
    /// # Safety
    /// As [`Dot::start`].
    unsafe fn finish(
        self,
        acc: Self::Acc,
        row: usize,
        panel: *const u8,
        from: *const f32,
    ) -> <Self::S as Simd>::F;
}

/// Rows of activations as the micro-kernel reads them: `m` rows of [`Dot::X_STEP`] bytes a step.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) ptr: *mut u8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    pub(super) m: usize,
}

impl Rows {
    /// `f32` activations as they are, never written.
    pub(super) fn of(x: Mat<'_>) -> Self {
        Self {
            ptr: x.as_ptr().cast_mut().cast(),
            stride: x.stride() * 4,
            m: x.rows(),
        }
    }
}

/// Where a tile reads its initial sums and writes its results.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: *const f32,
    pub(super) start_stride: usize,
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// A group of panels that one call of the micro-kernel reads.
#[derive(Clone, Copy)]
pub(super) struct Group {
    /// The first panel's header.
    pub(super) panel: *const u8,
    /// Bytes of a panel's header.
    pub(super) header: usize,
    /// Bytes from one panel to the next.
    pub(super) pitch: usize,
    /// Bytes from one step to the next.
    pub(super) step: usize,
    pub(super) steps: usize,
}

impl Group {
    pub(super) fn of(w: &Panels<'_>, first: usize) -> Self {
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
pub(super) const CHUNK: usize = 4;

/// What a tile fetches while it multiplies, so many lines a chunk: its share of the next group, and the next tile's rows.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) w: *const u8,
    pub(super) w_lines: usize,
    pub(super) x: *const u8,
    pub(super) x_lines: usize,
}

impl Ahead {
    pub(super) const NOTHING: Ahead = Ahead {
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
pub(super) unsafe fn tile_any<D: Dot>(
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

/// Runs `rounds` steps of 24 independent chains with nothing but registers, and returns the multiplications and
/// additions that were done: what the arithmetic units can do at most.
#[inline(always)]
pub(super) fn peak<D: Dot>(d: D, rounds: usize) -> u64 {
    let bytes = std::hint::black_box([0x01u8; 128]);
    let sums = [0.0f32; WIDTH];
    let chains = D::TILE.0 * D::TILE.1;
    // SAFETY: the arrays are as long as a header, a step and a vector.
    unsafe {
        let (x, w) = (d.splat(bytes.as_ptr()), d.load(bytes.as_ptr()));
        let mut acc = [d.start(0, bytes.as_ptr(), sums.as_ptr()); 24];
        for _ in 0..rounds {
            for i in 0..24 {
                if i < chains {
                    acc[i] = d.dot(acc[i], x, w);
                }
            }
        }
        for acc in acc {
            let sum = d.finish(acc, 0, bytes.as_ptr(), sums.as_ptr());
            std::hint::black_box(d.simd().sum(sum));
        }
    }
    (rounds * chains * WIDTH * D::K_STEP * 2) as u64
}
