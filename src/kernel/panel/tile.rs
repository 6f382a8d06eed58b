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
    scratch::TALL_STRIDE,
};
use crate::simd::{Simd, prefetch, prefetch_far};

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
    /// To the second cache, not the first.
    pub(super) far: bool,
    pub(super) x: *const u8,
    pub(super) x_lines: usize,
}

impl Ahead {
    pub(super) const NOTHING: Ahead = Ahead {
        w: std::ptr::null(),
        w_lines: 0,
        far: false,
        x: std::ptr::null(),
        x_lines: 0,
    };
}

/// Ranks that continue the sums of a tile while they are in registers: `sum += t up`, rank after rank.
#[derive(Clone, Copy)]
pub(super) struct Ranks {
    /// The tile's first row of `t`.
    pub(super) t: *const f32,
    /// Elements from one row of `t` to the next.
    pub(super) stride: usize,
    /// The second factor's panels of these columns, `f32`; none where it has no steps.
    pub(super) up: Group,
}

impl Ranks {
    pub(super) const NONE: Ranks = Ranks {
        t: std::ptr::null(),
        stride: 0,
        up: Group {
            panel: std::ptr::null(),
            header: 0,
            pitch: 0,
            step: 0,
            steps: 0,
        },
    };
}

/// `R` rows from `row` on times `P` panels, the whole of K, then `ranks`.
///
/// # Safety
/// `rows` holds `row + R` rows of `group.steps` steps, `group` holds `P` panels whose every step is readable for
/// 64 bytes, `place` holds `R` rows of `16 * P` columns; `ranks` holds `R` rows of `t` and `P` panels.
#[inline(always)]
unsafe fn tile<D: Dot, const R: usize, const P: usize>(
    d: D,
    rows: Rows,
    row: usize,
    group: Group,
    place: Place,
    mut ahead: Ahead,
    ranks: Ranks,
) {
    let s = d.simd();
    let stride = if R > D::TILE.0 {
        TALL_STRIDE
    } else {
        rows.stride
    };
    // SAFETY: all reads and writes are inside what the caller promises; prefetches may go anywhere.
    unsafe {
        let mut acc = [[d.start(row, group.panel, place.start); P]; R];
        for r in 0..R {
            for p in 0..P {
                let from = place.start.add(r * place.start_stride + p * WIDTH);
                acc[r][p] = d.start(row + r, group.panel.add(p * group.pitch), from);
            }
        }
        let mut x = rows.ptr.add(row * stride).cast_const();
        let mut w = group.panel.add(group.header);
        let mut line = 0;
        for _ in 0..group.steps / CHUNK {
            if line < R * P {
                let at = line / P * place.out_stride + line % P * WIDTH;
                prefetch(place.out.add(at).cast_const().cast());
                line += 1;
            }
            for _ in 0..ahead.w_lines {
                match ahead.far {
                    true => prefetch_far(ahead.w),
                    false => prefetch(ahead.w),
                }
                ahead.w = ahead.w.wrapping_add(64);
            }
            for _ in 0..ahead.x_lines {
                prefetch(ahead.x);
                ahead.x = ahead.x.wrapping_add(64);
            }
            (x, w) = d.chunk(&mut acc, (x, stride), (w, group.step, group.pitch));
        }
        for _ in 0..group.steps % CHUNK {
            step(d, &mut acc, (x, stride), (w, group.pitch));
            x = x.add(D::X_STEP);
            w = w.add(group.step);
        }
        let mut sums = [[s.splat(0.0); P]; R];
        for r in 0..R {
            for p in 0..P {
                let from = place.start.add(r * place.start_stride + p * WIDTH);
                sums[r][p] = d.finish(acc[r][p], row + r, group.panel.add(p * group.pitch), from);
            }
        }
        for k in 0..ranks.up.steps {
            let up = ranks.up.panel.add(k * ranks.up.step).cast::<f32>();
            let mut panels = [s.load_ptr(up); P];
            for p in 1..P {
                panels[p] = s.load_ptr(up.byte_add(p * ranks.up.pitch));
            }
            for r in 0..R {
                let t = s.splat(*ranks.t.add(r * ranks.stride + k));
                for p in 0..P {
                    sums[r][p] = s.fma(t, panels[p], sums[r][p]);
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                s.store_ptr(sums[r][p], place.out.add(r * place.out_stride + p * WIDTH));
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
    ranks: Ranks,
) {
    let most = D::TILE.0;
    // SAFETY: the caller's promise, word for word.
    unsafe {
        match r {
            1 => tile::<D, 1, P>(d, rows, row, group, place, ahead, ranks),
            2 if most >= 2 => tile::<D, 2, P>(d, rows, row, group, place, ahead, ranks),
            3 if most >= 3 => tile::<D, 3, P>(d, rows, row, group, place, ahead, ranks),
            4 if most >= 4 => tile::<D, 4, P>(d, rows, row, group, place, ahead, ranks),
            5 if most >= 5 => tile::<D, 5, P>(d, rows, row, group, place, ahead, ranks),
            6 if most >= 6 => tile::<D, 6, P>(d, rows, row, group, place, ahead, ranks),
            7 if most >= 7 => tile::<D, 7, P>(d, rows, row, group, place, ahead, ranks),
            8 if most >= 8 => tile::<D, 8, P>(d, rows, row, group, place, ahead, ranks),
            _ => unreachable!("a tile of {r} rows"),
        }
    }
}

/// [`tile`] with more rows than `TILE.0`, `r <= TALL`, and one panel.
///
/// # Safety
/// As [`tile`]; rows lie [`TALL_STRIDE`] apart.
#[inline(always)]
unsafe fn tall<D: Dot>(
    d: D,
    r: usize,
    rows: Rows,
    row: usize,
    group: Group,
    place: Place,
    ahead: Ahead,
    ranks: Ranks,
) {
    let most = D::TALL;
    // SAFETY: the caller's promise, word for word.
    unsafe {
        match r {
            9 if most >= 9 => tile::<D, 9, 1>(d, rows, row, group, place, ahead, ranks),
            10 if most >= 10 => tile::<D, 10, 1>(d, rows, row, group, place, ahead, ranks),
            11 if most >= 11 => tile::<D, 11, 1>(d, rows, row, group, place, ahead, ranks),
            12 if most >= 12 => tile::<D, 12, 1>(d, rows, row, group, place, ahead, ranks),
            13 if most >= 13 => tile::<D, 13, 1>(d, rows, row, group, place, ahead, ranks),
            14 if most >= 14 => tile::<D, 14, 1>(d, rows, row, group, place, ahead, ranks),
            15 if most >= 15 => tile::<D, 15, 1>(d, rows, row, group, place, ahead, ranks),
            16 if most >= 16 => tile::<D, 16, 1>(d, rows, row, group, place, ahead, ranks),
            _ => unreachable!("a tall tile of {r} rows"),
        }
    }
}

/// [`tile_rows`] with `p` panels, `p <= TILE.1`, or one panel and up to `TALL` rows.
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
    ranks: Ranks,
) {
    let most = D::TILE.1;
    // SAFETY: the caller's promise, word for word.
    unsafe {
        match p {
            _ if r > D::TILE.0 => tall(d, r, rows, row, group, place, ahead, ranks),
            1 => tile_rows::<D, 1>(d, r, rows, row, group, place, ahead, ranks),
            2 if most >= 2 => tile_rows::<D, 2>(d, r, rows, row, group, place, ahead, ranks),
            3 if most >= 3 => tile_rows::<D, 3>(d, r, rows, row, group, place, ahead, ranks),
            _ => unreachable!("a tile of {p} panels"),
        }
    }
}
