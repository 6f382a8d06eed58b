//! `f32` weights: a step of K is one `f32` a column, a dot is one multiply-add, at every level.

use std::ops::Range;

use super::{
    dot::{Dot, Rows},
    drive::Job,
    scratch::{TALL_STRIDE, is_tall, with_bytes},
};
use crate::{
    mat::Mat,
    simd::{self, Kernel, Level, Simd},
};

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

/// Calls `run` with `x` as the dots of `level` read it: as it lies, or copied to the rows of a tall tile.
pub(super) fn with_rows<R>(level: Level, x: Mat<'_>, run: impl FnOnce(Rows) -> R) -> R {
    let m = x.rows();
    if !is_tall(level, m, x.cols() * size_of::<f32>()) {
        return run(Rows::of(x));
    }
    with_bytes(m * TALL_STRIDE, |ptr| {
        for r in 0..m {
            // SAFETY: the scratch has `m` rows, and a row of `x` is shorter than their distance.
            unsafe {
                let to = ptr.add(r * TALL_STRIDE).cast::<f32>();
                to.copy_from_nonoverlapping(x.row(r).as_ptr(), x.cols());
            }
        }
        let stride = TALL_STRIDE;
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
    #[cfg(target_arch = "aarch64")]
    if level == Level::Neon {
        // SAFETY: the caller's promise.
        return unsafe { super::neon::f32(job) };
    }
    simd::run_at(level, Run(job))
}
