//! `bf16` weights: a step of K is a pair a column; activations are rounded to `bf16`, sums are `f32`.
//!
//! With AVX512-BF16 a dot is one VDPBF16PS on packed pairs. It adds the second product of a pair first and takes
//! subnormals for zero. Elsewhere the weights of a pair are widened to `f32` (a shift, a mask) and multiplied by two
//! fused steps in ascending K: the same rounded operands, another rounding of the sums. Activations are then
//! kept as rounded `f32`, which broadcast without work.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::simd::Avx512;
use crate::{
    mat::Mat,
    simd::{self, Kernel, LANES, Level, Simd},
};

use super::{
    dot::{Dot, Rows},
    drive::Job,
    f32::Fma,
    scratch::{row_stride, with_bytes},
};

/// Whether `level` multiplies `bf16` itself on this CPU.
pub(super) fn native(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    return level == Level::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return {
        _ = level;
        false
    };
}

/// Calls `run` with room for `x` as the dots of `level` read it.
pub(super) fn with_rows<R>(level: Level, x: Mat<'_>, run: impl FnOnce(Rows) -> R) -> R {
    let pairs = x.cols().div_ceil(2);
    let m = x.rows();
    let stride = row_stride(level, m, pairs * if native(level) { 4 } else { 8 });
    with_bytes(m * stride, |ptr| run(Rows { ptr, stride, m }))
}

/// Runs `job` with `bf16` weights.
///
/// # Safety
/// As [`Job::run`]; rows are those of [`with_rows`] at the same level.
pub(super) unsafe fn run(level: Level, job: Job<'_>) -> u64 {
    struct Run<'a>(Job<'a>);
    impl Kernel for Run<'_> {
        type Out = u64;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> u64 {
            // SAFETY: the promise of the function around.
            unsafe { self.0.run(Widen(s), Fma(s)) }
        }
    }
    #[cfg(target_arch = "x86_64")]
    if native(level) {
        // SAFETY: `native` detected the features; the rest is the caller's promise.
        return unsafe { trampoline(job) };
    }
    #[cfg(target_arch = "aarch64")]
    if level == Level::Neon {
        // SAFETY: the caller's promise.
        return unsafe { super::neon::bf16(job) };
    }
    simd::run_at(level, Run(job))
}

/// Two multiply-adds of widened weights.
#[derive(Clone, Copy)]
pub(super) struct Widen<S>(pub(super) S);

impl<S: Simd> Dot for Widen<S> {
    type S = S;
    type Acc = S::F;
    type W = (S::F, S::F);
    type X = (S::F, S::F);
    const K_STEP: usize = 2;
    const X_STEP: usize = 8;
    // Two vectors a panel and two a row: fewer rows or panels than `f32`, or registers spill.
    const TILE: (usize, usize) = match S::LEVEL {
        Level::Avx512 => (8, 2),
        Level::Avx2 => (4, 1),
        Level::Neon => (5, 1),
        _ => (S::TILE_ROWS, S::TILE_PANELS),
    };

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }
    /// Rounds to `bf16`, kept as `f32`; a missing second of a pair is 0.
    #[inline(always)]
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows, which: Range<usize>) {
        let (s, k) = (self.0, x.cols());
        for r in which {
            let from = x.row(r).as_ptr();
            // SAFETY: `with_rows` gave room for k rounded up to pairs; the reads stay inside the row.
            unsafe {
                let to = rows.ptr.add(r * rows.stride).cast::<f32>();
                let mut i = 0;
                while i + LANES <= k {
                    s.store_ptr(s.round_bf16(s.load_ptr(from.add(i))), to.add(i));
                    i += LANES;
                }
                if i < k {
                    let left = s.round_bf16(s.load_part_ptr(from.add(i), k - i));
                    match (k - i).next_multiple_of(2) {
                        LANES => s.store_ptr(left, to.add(i)),
                        n => s.store_part_ptr(left, to.add(i), n),
                    }
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn start(self, _row: usize, _panel: *const u8, from: *const f32) -> S::F {
        // SAFETY: the caller promises 16 elements.
        unsafe { self.0.load_ptr(from) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> (S::F, S::F) {
        // SAFETY: the caller promises 64 bytes.
        unsafe { self.0.load_bf16_pairs_ptr(p) }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const u8) -> (S::F, S::F) {
        // SAFETY: the caller promises 8 bytes, of a row of `f32`.
        let [a, b] = unsafe { *p.cast::<[f32; 2]>() };
        (self.0.splat(a), self.0.splat(b))
    }
    #[inline(always)]
    fn dot(self, acc: S::F, x: (S::F, S::F), w: (S::F, S::F)) -> S::F {
        self.0.fma(x.1, w.1, self.0.fma(x.0, w.0, acc))
    }
    #[inline(always)]
    unsafe fn finish(self, acc: S::F, _: usize, _: *const u8, _: *const f32) -> S::F {
        acc
    }
}

/// VDPBF16PS.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Native(Avx512);

/// # Safety
/// The CPU has the features; the rest as [`Job::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn trampoline(job: Job<'_>) -> u64 {
    // SAFETY: this function carries the features that the proofs stand for; the rest is the caller's promise.
    unsafe {
        let s = Avx512::assume();
        job.run(Native(s), Fma(s))
    }
}

// Safety of the intrinsics below: a `Native` exists only inside `trampoline`.
#[cfg(target_arch = "x86_64")]
impl Dot for Native {
    type S = Avx512;
    type Acc = __m512;
    type W = __m512i;
    type X = __m512i;
    const K_STEP: usize = 2;
    const X_STEP: usize = 4;
    // Sixteen sums do not keep VDPBF16PS busy (70 % of the peak with weights in cache; two tiles of 24 reach 95).
    const TALL: usize = 0;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }
    /// Rounds to packed pairs of `bf16`; a missing second of a pair is 0.
    #[inline(always)]
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows, which: Range<usize>) {
        const BOTH: usize = 2 * LANES;
        let k = x.cols();
        for r in which {
            let from = x.row(r).as_ptr();
            // SAFETY: whole vectors lie inside the row; masks name what is left of it, and whole pairs of the target.
            unsafe {
                let to = rows.ptr.add(r * rows.stride).cast::<i16>();
                let mut i = 0;
                while i + BOTH <= k {
                    let a = _mm512_loadu_ps(from.add(i));
                    let b = _mm512_loadu_ps(from.add(i + LANES));
                    let v = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
                    _mm512_storeu_si512(to.add(i).cast(), v);
                    i += BOTH;
                }
                if i < k {
                    let left = (1u64 << (k - i)) - 1;
                    let whole = (1u64 << (k - i).next_multiple_of(2)) - 1;
                    let a = _mm512_maskz_loadu_ps(left as u16, from.add(i));
                    let b =
                        _mm512_maskz_loadu_ps((left >> LANES) as u16, from.wrapping_add(i + LANES));
                    let v = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a));
                    _mm512_mask_storeu_epi16(to.add(i), whole as u32, v);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn start(self, _row: usize, _panel: *const u8, from: *const f32) -> __m512 {
        // SAFETY: the caller promises 16 elements.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> __m512i {
        // SAFETY: the caller promises 64 bytes.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const u8) -> __m512i {
        // SAFETY: the caller promises 4 bytes.
        unsafe { _mm512_set1_epi32(*p.cast::<i32>()) }
    }
    #[inline(always)]
    fn dot(self, acc: __m512, x: __m512i, w: __m512i) -> __m512 {
        // SAFETY: a `Native` proves the features; vectors of equal size.
        unsafe {
            _mm512_dpbf16_ps(
                acc,
                std::mem::transmute::<__m512i, __m512bh>(x),
                std::mem::transmute::<__m512i, __m512bh>(w),
            )
        }
    }
    #[inline(always)]
    unsafe fn finish(self, acc: __m512, _: usize, _: *const u8, _: *const f32) -> __m512 {
        acc
    }
}
