//! A buffer of this thread for converted activations: grown when a larger product comes, never given back.

use std::cell::Cell;

use crate::simd::Level;

/// Scratch is handed out in cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]); // reached through pointers alone

thread_local! {
    static LINES: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Calls `run` with `bytes` writable and initialised bytes at a multiple of 64. Nested calls get buffers of their own.
pub(super) fn with_bytes<R>(bytes: usize, run: impl FnOnce(*mut u8) -> R) -> R {
    LINES.with(|cell| {
        let mut lines = cell.take();
        if lines.len() * 64 < bytes {
            lines.resize(bytes.div_ceil(64), Line([0; 64]));
        }
        let out = run(lines.as_mut_ptr().cast());
        cell.set(lines);
        out
    })
}

/// Rows of a tall tile: more than any other tile of a level has.
const TALL: std::ops::RangeInclusive<usize> = 9..=16;

/// Bytes from one row to the next under a tall tile. A constant, because 16 rows at a distance that is known at run time
/// alone take more address registers than there are; a line more than a power of two, so that no two rows share a cache set.
pub(super) const TALL_STRIDE: usize = 16384 + 64;

/// Bytes from one row to the next for `m` rows of `bytes` as `level` multiplies them: [`TALL_STRIDE`] if they are a tall tile
/// there, else whole lines, and not a multiple of 1024, at which the rows of a tile would share the few ways of one cache set.
pub(super) fn row_stride(level: Level, m: usize, bytes: usize) -> usize {
    if is_tall(level, m, bytes) {
        return TALL_STRIDE;
    }
    let stride = bytes.next_multiple_of(64);
    if stride.is_multiple_of(1024) {
        stride + 64
    } else {
        stride
    }
}

/// Whether `m` rows of `bytes` are one tall tile at `level`.
pub(super) fn is_tall(level: Level, m: usize, bytes: usize) -> bool {
    let has = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => true,
        _ => false,
    };
    has && TALL.contains(&m) && bytes < TALL_STRIDE
}
