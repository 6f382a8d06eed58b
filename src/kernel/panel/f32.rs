//! `f32` weights: a step of K is one `f32` a column, a dot is one multiply-add, at every level.

use std::ops::Range;

use super::{
    dot::{Dot, Rows},
    drive::Job,
    scratch::{row_stride, with_bytes},
};
use crate::{
    mat::Mat,
    simd::{self, Kernel, Level, Simd},
};

/// Rows of a tall tile: more than the ways of a set of the first cache, 8 at the least.
const TALL: std::ops::RangeInclusive<usize> = 9..=16;
/// Bytes at which lines share a set of the first cache.
const SETS_BYTES: usize = 4096;

/// Multiply-adds of `f32`, fused where the level can.
#[derive(Clone, Copy)]
pub(super) struct Fma<S>(pub(super) S);

impl<S: Simd> Dot for Fma<S> {
    type S = S;
    type Acc = S::F;
    type W = S::F;
    type X = S::F;
    const K_STEP: usize = 1;
    const X_STEP: usize = 4;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }
    #[inline(always)]
    unsafe fn prepare(self, _: Mat<'_>, _: Rows, _: Range<usize>) {}
    #[inline(always)]
    unsafe fn start(self, _row: usize, _panel: *const u8, from: *const f32) -> S::F {
        // SAFETY: the caller promises 16 elements.
        unsafe { self.0.load_ptr(from) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> S::F {
        // SAFETY: the caller promises 64 bytes, and the load needs no alignment.
        unsafe { self.0.load_ptr(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const u8) -> S::F {
        // SAFETY: the caller promises 4 bytes, of a row of `f32`.
        self.0.splat(unsafe { *p.cast::<f32>() })
    }
    #[inline(always)]
    fn dot(self, acc: S::F, x: S::F, w: S::F) -> S::F {
        self.0.fma(x, w, acc)
    }
    #[inline(always)]
    unsafe fn finish(self, acc: S::F, _: usize, _: *const u8, _: *const f32) -> S::F {
        acc
    }
}

/// Calls `run` with `x` as the dots read it: as it lies, unless more rows than a cache set has ways would share that set.
pub(super) fn with_rows<R>(x: Mat<'_>, run: impl FnOnce(Rows) -> R) -> R {
    let (m, bytes) = (x.rows(), x.cols() * size_of::<f32>());
    if !TALL.contains(&m) || !(x.stride() * size_of::<f32>()).is_multiple_of(SETS_BYTES) {
        return run(Rows::of(x));
    }
    let stride = row_stride(bytes);
    with_bytes(m * stride, |ptr| {
        for r in 0..m {
            // SAFETY: the scratch has `m` rows of `stride` bytes, and a row of `x` is `bytes` long.
            unsafe {
                let to = ptr.add(r * stride).cast::<f32>();
                to.copy_from_nonoverlapping(x.row(r).as_ptr(), x.cols());
            }
        }
        run(Rows { ptr, stride, m })
    })
}

/// Runs `job` with `f32` weights.
///
/// # Safety
/// As [`Job::run`]; rows are `f32`.
pub(super) unsafe fn run(level: Level, job: Job<'_>) -> u64 {
    struct Run<'a>(Job<'a>);
    impl Kernel for Run<'_> {
        type Out = u64;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> u64 {
            // SAFETY: the promise of the function around.
            unsafe { self.0.run(Fma(s), Fma(s)) }
        }
    }
    simd::run_at(level, Run(job))
}
