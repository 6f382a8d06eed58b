//! AVX2 + FMA: a vector of 16 lanes is two registers of 8.
//!
//! Safety, once for the file: an [`Avx2`] exists only inside [`trampoline`] (or one that promises as much), which
//! is only called after AVX2, FMA and F16C were detected, so every intrinsic here is available. Memory is touched only
//! through pointers whose reach the trait's callers promise.

use std::arch::x86_64::*;

use super::{Kernel, Level, Simd};

/// Proof of AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, for a trampoline elsewhere.
    ///
    /// # Safety
    /// The CPU has these features and the caller is compiled with them.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }

    /// Lanes of integers as `f32`.
    #[inline(always)]
    pub(crate) fn convert_i32(self, lanes: [__m256i; 2]) -> V {
        // SAFETY: the file's argument.
        unsafe { V(_mm256_cvtepi32_ps(lanes[0]), _mm256_cvtepi32_ps(lanes[1])) }
    }
}

/// Compiles `kernel` with AVX2, FMA and F16C and runs it.
///
/// # Safety
/// The CPU has these features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn trampoline<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2(()))
}

/// Lanes 0 to 7 and 8 to 15.
#[derive(Debug, Clone, Copy)]
pub struct V(__m256, __m256);

/// A mask of the first `n` of 8 lanes.
#[inline(always)]
fn mask(n: usize) -> __m256i {
    const ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: n <= 8, so 8 elements from 8 - n on lie inside the table; AVX2 by the file's argument.
    unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - n.min(8)).cast()) }
}

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) => $intrinsic:ident;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: V),+) -> V {
            // SAFETY: the file's argument.
            unsafe { V($intrinsic($($arg.0),+), $intrinsic($($arg.1),+)) }
        }
    )+};
}

impl Simd for Avx2 {
    const LEVEL: Level = Level::Avx2;
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    type F = V;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY: the file's argument.
        let v = unsafe { _mm256_set1_ps(x) };
        V(v, v)
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> V {
        // SAFETY: the caller promises 16 elements.
        unsafe { V(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_part_ptr(self, p: *const f32, n: usize) -> V {
        let high = p.wrapping_add(8);
        // SAFETY: the masks touch only the `n` elements that the caller promises.
        unsafe {
            V(
                _mm256_maskload_ps(p, mask(n)),
                _mm256_maskload_ps(high, mask(n.saturating_sub(8))),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: V, p: *mut f32) {
        // SAFETY: the caller promises 16 elements.
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    #[inline(always)]
    unsafe fn store_part_ptr(self, v: V, p: *mut f32, n: usize) {
        let high = p.wrapping_add(8);
        // SAFETY: the masks touch only the `n` elements that the caller promises.
        unsafe {
            _mm256_maskstore_ps(p, mask(n), v.0);
            _mm256_maskstore_ps(high, mask(n.saturating_sub(8)), v.1);
        }
    }

    lanewise! {
        add(a, b) => _mm256_add_ps;
        sub(a, b) => _mm256_sub_ps;
        mul(a, b) => _mm256_mul_ps;
        div(a, b) => _mm256_div_ps;
        fma(a, b, c) => _mm256_fmadd_ps;
        min(a, b) => _mm256_min_ps;
        max(a, b) => _mm256_max_ps;
    }

    #[inline(always)]
    fn abs(self, a: V) -> V {
        // SAFETY: the file's argument.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            V(_mm256_andnot_ps(sign, a.0), _mm256_andnot_ps(sign, a.1))
        }
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: the file's argument.
        unsafe {
            V(
                _mm256_round_ps::<NEAREST>(a.0),
                _mm256_round_ps::<NEAREST>(a.1),
            )
        }
    }
    #[inline(always)]
    fn scale2(self, a: V, n: V) -> V {
        #[inline(always)]
        fn half(a: __m256, n: __m256) -> __m256 {
            // SAFETY: the file's argument.
            unsafe {
                let n = _mm256_cvtps_epi32(n);
                let first = _mm256_srai_epi32::<1>(n);
                let power = |e| {
                    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
                        e,
                        _mm256_set1_epi32(127),
                    )))
                };
                _mm256_mul_ps(
                    _mm256_mul_ps(a, power(first)),
                    power(_mm256_sub_epi32(n, first)),
                )
            }
        }
        V(half(a.0, n.0), half(a.1, n.1))
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        // SAFETY: the file's argument.
        unsafe {
            V(
                _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                _mm256_blendv_ps(y.1, x.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
            )
        }
    }
    #[inline(always)]
    fn round_bf16(self, a: V) -> V {
        #[inline(always)]
        fn half(a: __m256) -> __m256 {
            // SAFETY: the file's argument.
            unsafe {
                let b = _mm256_castps_si256(a);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(b), _mm256_set1_epi32(1));
                let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
                let top = _mm256_set1_epi32(0xffff_0000u32 as i32);
                let rounded = _mm256_and_si256(_mm256_add_epi32(b, up), top);
                let quiet = _mm256_or_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x0040_0000)));
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
                _mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, nan)
            }
        }
        V(half(a.0), half(a.1))
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs_ptr(self, p: *const u8) -> (V, V) {
        // SAFETY: the caller promises 64 bytes.
        unsafe {
            let (a, b) = (
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            );
            let top = _mm256_set1_epi32(0xffff_0000u32 as i32);
            let first = |w| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w));
            let second = |w| _mm256_castsi256_ps(_mm256_and_si256(w, top));
            (V(first(a), first(b)), V(second(a), second(b)))
        }
    }
    #[inline(always)]
    fn max_bits_signed(self, a: V, b: V) -> V {
        // SAFETY: the file's argument.
        unsafe {
            let max = |a, b| {
                let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
                _mm256_castsi256_ps(_mm256_max_epi32(a, b))
            };
            V(max(a.0, b.0), max(a.1, b.1))
        }
    }
    #[inline(always)]
    fn max_bits_unsigned(self, a: V, b: V) -> V {
        // SAFETY: the file's argument.
        unsafe {
            let max = |a, b| {
                let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
                _mm256_castsi256_ps(_mm256_max_epu32(a, b))
            };
            V(max(a.0, b.0), max(a.1, b.1))
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes_ptr(self, v: V, p: *mut u8) {
        // SAFETY: the caller promises 16 bytes.
        unsafe {
            let low = |x| _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0xff));
            // Packing works on halves of 128 bits: put the four quarters back in order, then narrow again.
            let words = _mm256_packus_epi32(low(v.0), low(v.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(p.cast(), _mm_packus_epi16(low, high));
        }
    }
    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        // SAFETY: the file's argument.
        unsafe { sum8(_mm256_add_ps(a.0, a.1)) }
    }
    #[inline(always)]
    fn max_lane(self, a: V) -> f32 {
        // SAFETY: the file's argument.
        unsafe { max8(_mm256_max_ps(a.0, a.1)) }
    }
}

/// Adds the halves of `v` until one lane is left.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum8(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// The largest lane of `v`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn max8(v: __m256) -> f32 {
    let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
}
