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
//! Not here: which tile comes when and what follows it (`drive`), conversion of activations (the precision's file).

use super::{
    Panels, WIDTH,
    dot::{CHUNK, Dot, Rows, step},
};
use crate::simd::{Simd, prefetch};

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
            d.chunk(&mut acc, (x, rows.stride), (w, group.step, group.pitch));
            x = x.add(CHUNK * D::X_STEP);
            w = w.add(CHUNK * group.step);
        }
        for _ in 0..group.steps % CHUNK {
            step(d, &mut acc, (x, rows.stride), (w, group.pitch));
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
