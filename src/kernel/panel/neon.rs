//! NEON's dots: a word of a row is taken by lane from a register that holds the row's next four.
//!
//! A broadcast costs a vector instruction here, so the tile does not broadcast: [`ByLane`] loads 16 bytes of each of
//! its rows at once and multiplies by element. With 6 rows times 16 columns, 24 registers hold sums, 6 the rows; two are
//! left for weights, which pass through 4 columns at a time. Sums are the same chains as everywhere.
//!
//! Integer dots want both operands signed: activations are stored 128 less, and so is their zero point, which leaves
//! the sums of `int8` as they are. With the DotProd feature (most CPUs since 2018) a dot is one SDOT, elsewhere products
//! of bytes are added by twos, which 16 bits just hold: 2 x 128 x 127 = 32512.
//!
//! Not here: dots of `bf16` (BFDOT), which round sums in another way than widening does.

use std::{
    arch::{aarch64::*, asm, is_aarch64_feature_detected},
    array::from_fn,
    ops::Range,
};

use super::{
    bf16::Widen,
    dot::{CHUNK, Dot, Rows},
    drive::Job,
    f32::Fma,
    int8::header,
    quantise::{RowScale, quantise},
};
use crate::{
    mat::Mat,
    simd::{Neon, NeonVector, Simd, widen_bf16},
};

/// Runs `job` with `f32` weights.
///
/// # Safety
/// As [`Job::run`]; rows are `f32`.
pub(super) unsafe fn f32(job: Job<'_>) -> u64 {
    let fma = ByLane(Fma(Neon));
    // SAFETY: the caller's promise.
    unsafe { job.run(fma, fma) }
}

/// Runs `job` with `bf16` weights.
///
/// # Safety
/// As [`Job::run`]; rows are pairs of widened `bf16`.
pub(super) unsafe fn bf16(job: Job<'_>) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { job.run(ByLane(Widen(Neon)), ByLane(Fma(Neon))) }
}

/// Runs `job` with `i8` weights.
///
/// # Safety
/// As [`Job::run`]; rows are quads of bytes, `scales` has one a row.
pub(super) unsafe fn int8(scales: *mut RowScale, job: Job<'_>) -> u64 {
    // SAFETY: the feature was detected; the rest is the caller's promise.
    unsafe {
        if is_aarch64_feature_detected!("dotprod") {
            sdot(scales, job)
        } else {
            job.run(Bytes::<false>(scales), ByLane(Fma(Neon)))
        }
    }
}

/// # Safety
/// The CPU has the feature; the rest as [`int8`].
#[target_feature(enable = "dotprod")]
unsafe fn sdot(scales: *mut RowScale, job: Job<'_>) -> u64 {
    // SAFETY: this function carries the feature that `Bytes<true>` stands for; the rest is the caller's promise.
    unsafe { job.run(ByLane(Bytes::<true>(scales)), ByLane(Fma(Neon))) }
}

/// A dot that takes a row's words by lane.
trait Lanes: Dot<Acc = [Self::Sums; 4]> {
    /// Sums of four columns.
    type Sums: Copy;
    /// 16 bytes of a row: as many steps as [`Dot::X_STEP`] says.
    type Row: Copy;
    /// A step of four columns.
    type Weights: Copy;

    /// Loads 16 bytes of a row.
    ///
    /// # Safety
    /// `p` is readable for as many.
    unsafe fn row(self, p: *const u8) -> Self::Row;
    /// Loads a step of four columns.
    ///
    /// # Safety
    /// `p` is readable for 16 bytes.
    unsafe fn weights(self, p: *const u8) -> Self::Weights;
    /// `sums + x . w` for step `I` of those in `x`.
    fn lane<const I: i32>(self, sums: Self::Sums, x: Self::Row, w: Self::Weights) -> Self::Sums;
}

/// A dot whose chunks go by lane; single steps are its own.
#[derive(Clone, Copy)]
struct ByLane<D>(D);

/// Step `I` of those in `rows`, as [`super::dot::step`].
///
/// # Safety
/// `w.0` is readable for 64 bytes at `P` places, `w.1` bytes apart.
#[inline(always)]
unsafe fn by_lane<D: Lanes, const I: i32, const R: usize, const P: usize>(
    d: D,
    acc: &mut [[D::Acc; P]; R],
    rows: [D::Row; R],
    w: (*const u8, usize),
) {
    for p in 0..P {
        for four in 0..4 {
            // SAFETY: the caller's promise.
            let w = unsafe { d.weights(w.0.add(p * w.1 + 16 * four)) };
            for r in 0..R {
                acc[r][p][four] = d.lane::<I>(acc[r][p][four], rows[r], w);
            }
        }
    }
}

/// The steps whose words lie in 16 bytes of a row: four, or two where a word is 8 bytes.
///
/// # Safety
/// As [`Dot::chunk`], for these steps.
#[inline(always)]
unsafe fn by_register<D: Lanes, const R: usize, const P: usize>(
    d: D,
    acc: &mut [[D::Acc; P]; R],
    x: (*const u8, usize),
    (w, step, pitch): (*const u8, usize, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let rows = from_fn(|r| d.row(x.0.add(r * x.1)));
        by_lane::<D, 0, R, P>(d, acc, rows, (w, pitch));
        by_lane::<D, 1, R, P>(d, acc, rows, (w.add(step), pitch));
        if D::X_STEP == 4 {
            by_lane::<D, 2, R, P>(d, acc, rows, (w.add(2 * step), pitch));
            by_lane::<D, 3, R, P>(d, acc, rows, (w.add(3 * step), pitch));
        }
    }
}

impl<D: Lanes> Dot for ByLane<D> {
    type S = D::S;
    type Acc = D::Acc;
    type W = D::W;
    type X = D::X;
    const K_STEP: usize = D::K_STEP;
    const X_STEP: usize = D::X_STEP;
    const TILE: (usize, usize) = D::TILE;

    #[inline(always)]
    fn simd(self) -> D::S {
        self.0.simd()
    }
    #[inline(always)]
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows, which: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe { self.0.prepare(x, rows, which) }
    }
    #[inline(always)]
    unsafe fn start(self, row: usize, panel: *const u8, from: *const f32) -> D::Acc {
        // SAFETY: the caller's promise.
        unsafe { self.0.start(row, panel, from) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> D::W {
        // SAFETY: the caller's promise.
        unsafe { self.0.load(p) }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const u8) -> D::X {
        // SAFETY: the caller's promise.
        unsafe { self.0.splat(p) }
    }
    #[inline(always)]
    fn dot(self, acc: D::Acc, x: D::X, w: D::W) -> D::Acc {
        self.0.dot(acc, x, w)
    }
    #[inline(always)]
    unsafe fn chunk<const R: usize, const P: usize>(
        self,
        acc: &mut [[D::Acc; P]; R],
        x: (*const u8, usize),
        (w, step, pitch): (*const u8, usize, usize),
    ) -> (*const u8, *const u8) {
        let steps = 16 / D::X_STEP;
        for first in (0..CHUNK).step_by(steps) {
            // SAFETY: the caller's promise.
            unsafe {
                let x = (x.0.add(first * D::X_STEP), x.1);
                by_register(self.0, acc, x, (w.add(first * step), step, pitch));
            }
        }
        // SAFETY: at most one past the last step.
        unsafe { (x.0.add(CHUNK * D::X_STEP), w.add(CHUNK * step)) }
    }
    #[inline(always)]
    unsafe fn finish(
        self,
        acc: D::Acc,
        row: usize,
        panel: *const u8,
        from: *const f32,
    ) -> <D::S as Simd>::F {
        // SAFETY: the caller's promise.
        unsafe { self.0.finish(acc, row, panel, from) }
    }
}

// Safety of the intrinsics below, but SDOT: NEON is there on every AArch64.
impl Lanes for Fma<Neon> {
    type Sums = float32x4_t;
    type Row = float32x4_t;
    type Weights = float32x4_t;

    #[inline(always)]
    unsafe fn row(self, p: *const u8) -> float32x4_t {
        // SAFETY: the caller promises 16 bytes.
        unsafe { vld1q_f32(p.cast()) }
    }
    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> float32x4_t {
        // SAFETY: the caller promises 16 bytes.
        unsafe { vld1q_f32(p.cast()) }
    }
    #[inline(always)]
    fn lane<const I: i32>(self, sums: float32x4_t, x: float32x4_t, w: float32x4_t) -> float32x4_t {
        // SAFETY: NEON.
        unsafe { vfmaq_laneq_f32::<I>(sums, w, x) }
    }
}

impl Lanes for Widen<Neon> {
    type Sums = float32x4_t;
    type Row = float32x4_t;
    type Weights = (float32x4_t, float32x4_t);

    #[inline(always)]
    unsafe fn row(self, p: *const u8) -> float32x4_t {
        // SAFETY: the caller promises 16 bytes.
        unsafe { vld1q_f32(p.cast()) }
    }
    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> (float32x4_t, float32x4_t) {
        // SAFETY: the caller promises 16 bytes.
        unsafe { widen_bf16(p) }
    }
    #[inline(always)]
    fn lane<const I: i32>(
        self,
        sums: float32x4_t,
        x: float32x4_t,
        w: (float32x4_t, float32x4_t),
    ) -> float32x4_t {
        // SAFETY: NEON.
        unsafe {
            match I {
                0 => vfmaq_laneq_f32::<1>(vfmaq_laneq_f32::<0>(sums, w.0, x), w.1, x),
                _ => vfmaq_laneq_f32::<3>(vfmaq_laneq_f32::<2>(sums, w.0, x), w.1, x),
            }
        }
    }
}

/// Signed bytes by signed bytes: by SDOT, whose CPU feature `Bytes<true>` proves, or by widening products.
#[derive(Clone, Copy)]
struct Bytes<const SDOT: bool>(*mut RowScale);

/// How much less than [`RowScale`] says elsewhere bytes and zero points are.
const SHIFT: i8 = -128;

/// `sums` and the four products in each column of `w` and `x`.
///
/// # Safety
/// The CPU has the feature, and the caller is inlined into a function that is compiled with it.
#[inline(always)]
unsafe fn sdot_quads(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone. (The intrinsic is not stable.)
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// [`sdot_quads`] with quad `I` of `x` for all columns.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn sdot_lane<const I: i32>(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sums = inout(vreg) sums, w = in(vreg) w, x = in(vreg) x, lane = const I,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

impl<const SDOT: bool> Dot for Bytes<SDOT> {
    type S = Neon;
    type Acc = [int32x4_t; 4];
    type W = [int8x16_t; 4];
    type X = int8x16_t;
    const K_STEP: usize = 4;
    const X_STEP: usize = 4;

    #[inline(always)]
    fn simd(self) -> Neon {
        Neon
    }
    #[inline(always)]
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows, which: Range<usize>) {
        for r in which {
            // SAFETY: the rows have room for a scale and whole vectors each.
            unsafe {
                let to = rows.ptr.add(r * rows.stride);
                quantise(Neon, x.row(r), SHIFT, to, self.0.add(r));
            }
        }
    }
    #[inline(always)]
    unsafe fn start(self, row: usize, panel: *const u8, _from: *const f32) -> [int32x4_t; 4] {
        // SAFETY: the row has a scale, the caller promises the header.
        unsafe {
            let zero = -(*self.0.add(row)).zero;
            from_fn(|i| vmulq_n_s32(vld1q_s32(header(panel).1.add(4 * i)), zero))
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> [int8x16_t; 4] {
        // SAFETY: the caller promises 64 bytes.
        from_fn(|i| unsafe { vld1q_s8(p.cast::<i8>().add(16 * i)) })
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const u8) -> int8x16_t {
        // SAFETY: the caller promises 4 bytes.
        unsafe { vreinterpretq_s8_s32(vld1q_dup_s32(p.cast())) }
    }
    #[inline(always)]
    fn dot(self, mut acc: [int32x4_t; 4], x: int8x16_t, w: [int8x16_t; 4]) -> [int32x4_t; 4] {
        for i in 0..4 {
            // SAFETY: NEON; the feature where `SDOT` says so.
            acc[i] = unsafe {
                if SDOT {
                    sdot_quads(acc[i], w[i], x)
                } else {
                    let low = vmull_s8(vget_low_s8(w[i]), vget_low_s8(x));
                    let pairs = vpaddq_s16(low, vmull_high_s8(w[i], x));
                    vpadalq_s16(acc[i], pairs)
                }
            };
        }
        acc
    }
    #[inline(always)]
    unsafe fn finish(
        self,
        acc: [int32x4_t; 4],
        row: usize,
        panel: *const u8,
        from: *const f32,
    ) -> NeonVector {
        let s = Neon;
        // SAFETY: the row has a scale, the caller promises the header and 16 elements.
        unsafe {
            let scale = s.mul(
                s.load_ptr(header(panel).0),
                s.splat((*self.0.add(row)).scale),
            );
            s.fma(s.convert_i32(acc), scale, s.load_ptr(from))
        }
    }
}

impl Lanes for Bytes<true> {
    type Sums = int32x4_t;
    type Row = int8x16_t;
    type Weights = int8x16_t;

    #[inline(always)]
    unsafe fn row(self, p: *const u8) -> int8x16_t {
        // SAFETY: the caller promises 16 bytes.
        unsafe { vld1q_s8(p.cast()) }
    }
    #[inline(always)]
    unsafe fn weights(self, p: *const u8) -> int8x16_t {
        // SAFETY: the caller promises 16 bytes.
        unsafe { vld1q_s8(p.cast()) }
    }
    #[inline(always)]
    fn lane<const I: i32>(self, sums: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: a `Bytes<true>` proves the feature.
        unsafe { sdot_lane::<I>(sums, w, x) }
    }
}
