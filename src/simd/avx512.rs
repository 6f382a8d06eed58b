//! AVX-512 F, BW, DQ, VL: a vector of 16 lanes is one register.
//!
//! Safety, once for the file: an [`Avx512`] exists only inside [`trampoline`] (or one that promises as much), which is only called after
//! these features were detected, so every intrinsic here is available. Memory is touched only through
//! pointers whose reach the trait's callers promise.

use std::arch::x86_64::*;

use super::{
    Kernel, Level, Simd,
    avx2::{max8, sum8},
};

/// Proof of AVX-512 F, BW, DQ, VL, and of AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, for a trampoline with more features (dot products of `bf16` and `i8`).
    ///
    /// # Safety
    /// The CPU has these features and the caller is compiled with them.
    #[inline(always)]
    pub(crate) unsafe fn assume() -> Self {
        Self(())
    }
}

/// Compiles `kernel` with AVX-512 and runs it.
///
/// # Safety
/// The CPU has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn trampoline<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512(()))
}

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) => $intrinsic:ident;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m512),+) -> __m512 {
            // SAFETY: the file's argument.
            unsafe { $intrinsic($($arg),+) }
        }
    )+};
}

/// A mask of the first `n < 16` lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

impl Simd for Avx512 {
    const LEVEL: Level = Level::Avx512;
    const TILE_ROWS: usize = 8;
    const TILE_PANELS: usize = 3;
    const TALL_ROWS: usize = 16;
    type F = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the file's argument.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> __m512 {
        // SAFETY: the caller promises 16 elements.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_part_ptr(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: the mask touches only the `n` elements that the caller promises.
        unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: __m512, p: *mut f32) {
        // SAFETY: the caller promises 16 elements.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_part_ptr(self, v: __m512, p: *mut f32, n: usize) {
        // SAFETY: the mask touches only the `n` elements that the caller promises.
        unsafe { _mm512_mask_storeu_ps(p, mask(n), v) }
    }

    lanewise! {
        add(a, b) => _mm512_add_ps;
        sub(a, b) => _mm512_sub_ps;
        mul(a, b) => _mm512_mul_ps;
        div(a, b) => _mm512_div_ps;
        fma(a, b, c) => _mm512_fmadd_ps;
        min(a, b) => _mm512_min_ps;
        max(a, b) => _mm512_max_ps;
        abs(a) => _mm512_abs_ps;
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: the file's argument.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale2(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: the file's argument.
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: the file's argument.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    fn round_bf16(self, a: __m512) -> __m512 {
        // SAFETY: the file's argument.
        unsafe {
            let b = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(b), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let top = _mm512_set1_epi32(0xffff_0000u32 as i32);
            let rounded = _mm512_and_si512(_mm512_add_epi32(b, up), top);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            let quiet = _mm512_set1_epi32(0x0040_0000);
            _mm512_castsi512_ps(_mm512_mask_or_epi32(rounded, nan, b, quiet))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs_ptr(self, p: *const u8) -> (__m512, __m512) {
        // SAFETY: the caller promises 64 bytes.
        unsafe {
            let w = _mm512_loadu_si512(p.cast());
            let top = _mm512_set1_epi32(0xffff_0000u32 as i32);
            let (first, second) = (_mm512_slli_epi32::<16>(w), _mm512_and_si512(w, top));
            (_mm512_castsi512_ps(first), _mm512_castsi512_ps(second))
        }
    }
    #[inline(always)]
    fn max_bits_signed(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the file's argument.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_max_epi32(a, b))
        }
    }
    #[inline(always)]
    fn max_bits_unsigned(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the file's argument.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_max_epu32(a, b))
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes_ptr(self, v: __m512, p: *mut u8) {
        // SAFETY: the caller promises 16 bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(v))) }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: the file's argument.
        unsafe {
            sum8(_mm256_add_ps(
                _mm512_castps512_ps256(a),
                _mm512_extractf32x8_ps::<1>(a),
            ))
        }
    }
    #[inline(always)]
    fn sum_each(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        // SAFETY: the file's argument.
        unsafe {
            // Halves of two vectors at a time, then quarters of all four; then each quarter is one vector's four sums.
            let halves = |a, b| {
                let low = _mm512_shuffle_f32x4::<0x44>(a, b);
                _mm512_add_ps(low, _mm512_shuffle_f32x4::<0xee>(a, b))
            };
            let (ab, cd) = (halves(a, b), halves(c, d));
            let first = _mm512_shuffle_f32x4::<0x88>(ab, cd);
            let v = _mm512_add_ps(first, _mm512_shuffle_f32x4::<0xdd>(ab, cd));
            let v = _mm512_add_ps(v, _mm512_permute_ps::<0b01_00_11_10>(v));
            let v = _mm512_add_ps(v, _mm512_permute_ps::<0b10_11_00_01>(v));
            // The first lane of each quarter.
            let v = _mm512_maskz_compress_ps(0x1111, v);
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(v));
            out
        }
    }
    #[inline(always)]
    fn max_lane(self, a: __m512) -> f32 {
        // SAFETY: the file's argument.
        unsafe {
            max8(_mm256_max_ps(
                _mm512_castps512_ps256(a),
                _mm512_extractf32x8_ps::<1>(a),
            ))
        }
    }
}
