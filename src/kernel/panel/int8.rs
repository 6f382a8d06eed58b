//! `i8` weights: a step of K is a quad a column; activations are quantised row by row, sums are exact in `i32`.
//!
//! Weights: one scale a column, `w = scale_c q`, `q` in -127..=127. Activations: one scale and one zero point a row,
//! `x = scale_r (q - zero)`, `q` in 0..=254. Asymmetric, because what follows a GELU lies in -0.17..max: a range
//! around zero would waste most of a bit there, and the zero point costs one multiplication a column and row:
//!
//! `sum x w = scale_r scale_c (sum q_x q_w - zero sum q_w)`
//!
//! where the sums of `q_w` stand in the panel's header. The bracket is exact in `i32` at every level, so
//! levels differ by their quantisation and epilogue alone (those with fused multiply-add not at all).
//!
//! With AVX512-VNNI a dot is one VPDPBUSD. AVX2 has VPMADDUBSW, whose sums of two saturate at 16 bits; so bytes are
//! widened to 16 bits and multiplied by VPMADDWD, exact at half the speed. AVX-512 without VNNI runs the AVX2 code. NEON: see `neon`.
//!
//! A row with an infinite or NaN activation comes out as NaN, as it would in `f32`.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

use super::{
    WIDTH,
    dot::{Dot, Rows},
    drive::Job,
    f32::Fma,
    quantise::{RowScale, quantise},
    scratch::{row_stride, with_bytes},
};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::{
    mat::Mat,
    simd::{LANES, Level, Scalar, Simd},
};

/// The sums of K products of `u8` and `i8` must fit `i32`.
pub(super) const MOST_K: usize = i32::MAX as usize / (255 * 127);

/// How activations are laid out for a dot.
#[derive(Clone, Copy, PartialEq)]
enum Dots {
    /// Quads of bytes, in portable code.
    Plain,
    /// Quads of bytes 128 less, NEON.
    #[cfg(target_arch = "aarch64")]
    Signed,
    /// Pairs of 16 bits, first and third, second and fourth of a quad: 8 bytes a step.
    #[cfg(target_arch = "x86_64")]
    Wide,
    /// Quads of bytes, VPDPBUSD.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

fn dots(level: Level) -> Dots {
    match level {
        #[cfg(target_arch = "aarch64")]
        Level::Neon => Dots::Signed,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if is_x86_feature_detected!("avx512vnni") => Dots::Vnni,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => Dots::Wide,
        _ => Dots::Plain,
    }
}

/// Quantised rows: the words of a product, and a scale a row.
#[derive(Clone, Copy)]
pub(super) struct Quantised {
    pub(super) rows: Rows,
    scales: *mut RowScale,
}

/// Calls `run` with room for `x` as the dots of `level` read it.
pub(super) fn with_rows<R>(level: Level, x: Mat<'_>, run: impl FnOnce(Quantised) -> R) -> R {
    let (m, k) = (x.rows(), x.cols());
    let bytes = k.next_multiple_of(LANES);
    let stride = match dots(level) {
        // Bytes are stored by whole vectors, behind the place of the words that they are widened to.
        #[cfg(target_arch = "x86_64")]
        Dots::Wide => row_stride(Level::Avx2, m, wide_skip(k) + bytes),
        _ => row_stride(level, m, bytes),
    };
    let head = (m * size_of::<RowScale>()).next_multiple_of(64);
    with_bytes(head + m * stride, |bytes| {
        let rows = Rows {
            ptr: bytes.wrapping_add(head),
            stride,
            m,
        };
        run(Quantised {
            rows,
            scales: bytes.cast(),
        })
    })
}

/// Where the bytes of a row of `k` lie before they are widened.
#[cfg(target_arch = "x86_64")]
fn wide_skip(k: usize) -> usize {
    4 * k.div_ceil(4)
}

/// Spreads `steps` quads of bytes, which lie behind `8 steps - 4 steps` bytes, to pairs of 16 bits from the start on.
///
/// # Safety
/// `p` is writable for `8 * steps` bytes.
#[cfg(target_arch = "x86_64")]
unsafe fn widen(p: *mut u8, steps: usize) {
    for i in 0..steps {
        // SAFETY: inside the row. Word i is read before the 8 bytes at 8 i are written, which reach at most its own
        // end (8 i + 8 <= 4 steps + 4 i + 4 for i < steps), so no unread word is lost.
        unsafe {
            let quad = p.add(4 * steps + 4 * i).cast::<u32>().read_unaligned();
            let even = quad & 0x00ff_00ff;
            let odd = quad >> 8 & 0x00ff_00ff;
            p.add(8 * i).cast::<[u32; 2]>().write_unaligned([even, odd]);
        }
    }
}

/// Runs `job` with `i8` weights; a peak when there are no rows.
///
/// # Safety
/// As [`Job::run`]; rows are those of [`with_rows`] at the same level.
pub(super) unsafe fn run(level: Level, quantised: Option<Quantised>, job: Job<'_>) -> u64 {
    let mut one = RowScale {
        scale: 1.0,
        zero: 0,
    };
    let scales = quantised.map_or(&raw mut one, |q| q.scales);
    // SAFETY: `dots` detected the features; the rest is the caller's promise.
    unsafe {
        match dots(level) {
            #[cfg(target_arch = "x86_64")]
            Dots::Vnni => avx512_vnni(scales, job),
            #[cfg(target_arch = "x86_64")]
            Dots::Wide => avx2(scales, job),
            #[cfg(target_arch = "aarch64")]
            Dots::Signed => super::neon::int8(scales, job),
            Dots::Plain => job.run(Plain(scales), Fma(Scalar)),
        }
    }
}

/// The header of a panel: scales and sums of its columns.
#[inline(always)]
pub(super) fn header(panel: *const u8) -> (*const f32, *const i32) {
    (panel.cast(), panel.wrapping_add(WIDTH * 4).cast())
}

/// Loops that the compiler vectorises as it can.
#[derive(Clone, Copy)]
struct Plain(*mut RowScale);

impl Dot for Plain {
    type S = Scalar;
    type Acc = [i32; WIDTH];
    type W = [[i8; 4]; WIDTH];
    type X = [u8; 4];
    const K_STEP: usize = 4;
    const X_STEP: usize = 4;

    #[inline(always)]
    fn simd(self) -> Scalar {
        Scalar
    }
    #[inline(always)]
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows, which: Range<usize>) {
        for r in which {
            // SAFETY: `with_rows` gave room for a scale and whole vectors a row.
            unsafe {
                quantise(
                    Scalar,
                    x.row(r),
                    0,
                    rows.ptr.add(r * rows.stride),
                    self.0.add(r),
                )
            };
        }
    }
    #[inline(always)]
    unsafe fn start(self, row: usize, panel: *const u8, _from: *const f32) -> [i32; WIDTH] {
        // SAFETY: the row has a scale, the caller promises the header.
        unsafe {
            let zero = (*self.0.add(row)).zero;
            header(panel)
                .1
                .cast::<[i32; WIDTH]>()
                .read_unaligned()
                .map(|sum| sum * -zero)
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> [[i8; 4]; WIDTH] {
        // SAFETY: the caller promises 64 bytes.
        unsafe { p.cast::<[[i8; 4]; WIDTH]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const u8) -> [u8; 4] {
        // SAFETY: the caller promises 4 bytes.
        unsafe { *p.cast::<[u8; 4]>() }
    }
    #[inline(always)]
    fn dot(self, mut acc: [i32; WIDTH], x: [u8; 4], w: [[i8; 4]; WIDTH]) -> [i32; WIDTH] {
        for c in 0..WIDTH {
            for i in 0..4 {
                acc[c] += i32::from(x[i]) * i32::from(w[c][i]);
            }
        }
        acc
    }
    #[inline(always)]
    unsafe fn finish(
        self,
        acc: [i32; WIDTH],
        row: usize,
        panel: *const u8,
        from: *const f32,
    ) -> [f32; WIDTH] {
        let s = Scalar;
        // SAFETY: the row has a scale, the caller promises the header and 16 elements.
        unsafe {
            let scale = s.mul(
                s.load_ptr(header(panel).0),
                s.splat((*self.0.add(row)).scale),
            );
            s.fma(acc.map(|x| x as f32), scale, s.load_ptr(from))
        }
    }
}

/// VPMADDWD on bytes widened to 16 bits.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Wide(Avx2, *mut RowScale);

/// # Safety
/// The CPU has the features; the rest as [`Job::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(scales: *mut RowScale, job: Job<'_>) -> u64 {
    // SAFETY: this function carries the features that the proofs stand for; the rest is the caller's promise.
    unsafe {
        let s = Avx2::assume();
        job.run(Wide(s, scales), Fma(s))
    }
}

// Safety of the intrinsics below: a `Wide` exists only inside `avx2`.
#[cfg(target_arch = "x86_64")]
impl Dot for Wide {
    type S = Avx2;
    type Acc = [__m256i; 2];
    type W = [[__m256i; 2]; 2];
    type X = [__m256i; 2];
    const K_STEP: usize = 4;
    const X_STEP: usize = 8;
    // Four registers of weights and two of activations: more rows than four would spill.
    const TILE: (usize, usize) = (4, 1);

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self.0
    }
    #[inline(always)]
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows, which: Range<usize>) {
        for r in which {
            // SAFETY: `with_rows` gave room for a scale a row, and for whole vectors behind `wide_skip` bytes.
            unsafe {
                let to = rows.ptr.add(r * rows.stride);
                quantise(
                    self.0,
                    x.row(r),
                    0,
                    to.add(wide_skip(x.cols())),
                    self.1.add(r),
                );
                widen(to, x.cols().div_ceil(4));
            }
        }
    }
    #[inline(always)]
    unsafe fn start(self, row: usize, panel: *const u8, _from: *const f32) -> [__m256i; 2] {
        // SAFETY: the row has a scale, the caller promises the header.
        unsafe {
            let zero = _mm256_set1_epi32(-(*self.1.add(row)).zero);
            let sums = header(panel).1.cast::<__m256i>();
            [
                _mm256_mullo_epi32(zero, _mm256_loadu_si256(sums)),
                _mm256_mullo_epi32(zero, _mm256_loadu_si256(sums.add(1))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> [[__m256i; 2]; 2] {
        // SAFETY: the caller promises 64 bytes.
        unsafe {
            let (a, b) = (
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            );
            let even = |w| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
            [
                [even(a), _mm256_srai_epi16::<8>(a)],
                [even(b), _mm256_srai_epi16::<8>(b)],
            ]
        }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const u8) -> [__m256i; 2] {
        // SAFETY: the caller promises 8 bytes.
        unsafe {
            let [even, odd] = *p.cast::<[i32; 2]>();
            [_mm256_set1_epi32(even), _mm256_set1_epi32(odd)]
        }
    }
    #[inline(always)]
    fn dot(self, mut acc: [__m256i; 2], x: [__m256i; 2], w: [[__m256i; 2]; 2]) -> [__m256i; 2] {
        for half in 0..2 {
            for i in 0..2 {
                // SAFETY: a `Wide` proves the features.
                acc[half] =
                    unsafe { _mm256_add_epi32(acc[half], _mm256_madd_epi16(x[i], w[half][i])) };
            }
        }
        acc
    }
    #[inline(always)]
    unsafe fn finish(
        self,
        acc: [__m256i; 2],
        row: usize,
        panel: *const u8,
        from: *const f32,
    ) -> <Avx2 as Simd>::F {
        let s = self.0;
        // SAFETY: the row has a scale, the caller promises the header and 16 elements.
        unsafe {
            let sums = s.convert_i32(acc);
            let scale = s.mul(
                s.load_ptr(header(panel).0),
                s.splat((*self.1.add(row)).scale),
            );
            s.fma(sums, scale, s.load_ptr(from))
        }
    }
}

/// VPDPBUSD.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Vnni(Avx512, *mut RowScale);

/// # Safety
/// The CPU has the features; the rest as [`Job::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn avx512_vnni(scales: *mut RowScale, job: Job<'_>) -> u64 {
    // SAFETY: this function carries the features that the proofs stand for; the rest is the caller's promise.
    unsafe {
        let s = Avx512::assume();
        job.run(Vnni(s, scales), Fma(s))
    }
}

// Safety of the intrinsics below: a `Vnni` exists only inside `avx512_vnni`.
#[cfg(target_arch = "x86_64")]
impl Dot for Vnni {
    type S = Avx512;
    type Acc = __m512i;
    type W = __m512i;
    type X = __m512i;
    const K_STEP: usize = 4;
    const X_STEP: usize = 4;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows, which: Range<usize>) {
        for r in which {
            // SAFETY: `with_rows` gave room for a scale and whole vectors a row.
            unsafe {
                quantise(
                    self.0,
                    x.row(r),
                    0,
                    rows.ptr.add(r * rows.stride),
                    self.1.add(r),
                )
            };
        }
    }
    #[inline(always)]
    unsafe fn start(self, row: usize, panel: *const u8, _from: *const f32) -> __m512i {
        // SAFETY: the row has a scale, the caller promises the header.
        unsafe {
            let zero = _mm512_set1_epi32(-(*self.1.add(row)).zero);
            _mm512_mullo_epi32(zero, _mm512_loadu_si512(header(panel).1.cast()))
        }
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
    fn dot(self, acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
        // SAFETY: a `Vnni` proves the features.
        unsafe { _mm512_dpbusd_epi32(acc, x, w) }
    }
    #[inline(always)]
    unsafe fn finish(self, acc: __m512i, row: usize, panel: *const u8, from: *const f32) -> __m512 {
        let s = self.0;
        // SAFETY: the row has a scale, the caller promises the header and 16 elements.
        unsafe {
            let sums = _mm512_cvtepi32_ps(acc);
            let scale = s.mul(
                s.load_ptr(header(panel).0),
                s.splat((*self.1.add(row)).scale),
            );
            s.fma(sums, scale, s.load_ptr(from))
        }
    }
}
