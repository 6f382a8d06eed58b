//! A buffer of this thread for converted activations: grown when a larger product comes, never given back.

use std::cell::Cell;

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

/// Bytes from one row to the next for rows of `bytes`: whole lines, and not a multiple of 4096, at which the rows of a
/// tile would share the few ways of one cache set.
pub(super) fn row_stride(bytes: usize) -> usize {
    let stride = bytes.next_multiple_of(64);
    if stride.is_multiple_of(1024) {
        stride + 64
    } else {
        stride
    }
}
