//! NEON: a vector of 16 lanes is four registers of 4.
//!
//! Safety, once for the file: NEON is part of every AArch64 target that has a standard library, so every intrinsic here
//! is available, without detection or trampoline. Memory is touched only through pointers whose reach the trait's
//! callers promise.

use std::{
    arch::{aarch64::*, asm},
    array::from_fn,
};

use super::{LANES, Level, Simd};

/// AArch64 with NEON.
#[derive(Debug, Clone, Copy)]
pub struct Neon;

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
pub(crate) type V = [float32x4_t; 4];

impl Neon {
    /// Lanes of integers as `f32`.
    #[inline(always)]
    pub(crate) fn convert_i32(self, lanes: [int32x4_t; 4]) -> V {
        // SAFETY: the file's argument.
        from_fn(|i| unsafe { vcvtq_f32_s32(lanes[i]) })
    }
}

/// Asks for the cache line of `p`, which may be any address.
#[inline(always)]
pub(super) fn prefetch(p: *const u8) {
    // SAFETY: a hint; it never faults and changes nothing. (The intrinsic is not stable.)
    unsafe {
        asm!("prfm pldl1keep, [{p}]", p = in(reg) p.addr(), options(nomem, nostack, preserves_flags));
    }
}

/// [`prefetch`] to the second cache.
#[inline(always)]
pub(super) fn prefetch_far(p: *const u8) {
    // SAFETY: as there.
    unsafe {
        asm!("prfm pldl2keep, [{p}]", p = in(reg) p.addr(), options(nomem, nostack, preserves_flags));
    }
}

/// `a < b ? x : y`, lane by lane.
#[inline(always)]
fn select(a: float32x4_t, b: float32x4_t, x: float32x4_t, y: float32x4_t) -> float32x4_t {
    // SAFETY: the file's argument.
    unsafe { vbslq_f32(vcltq_f32(a, b), x, y) }
}

/// `b` where either is NaN, which the instruction's own maximum is not.
#[inline(always)]
fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    select(b, a, a, b)
}

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) => $intrinsic:ident;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: V),+) -> V {
            // SAFETY: the file's argument.
            from_fn(|i| unsafe { $intrinsic($($arg[i]),+) })
        }
    )+};
}

impl Simd for Neon {
    const LEVEL: Level = Level::Neon;
    // 24 registers of sums leave 8 for rows and weights.
    const TILE_ROWS: usize = 6;
    const TILE_PANELS: usize = 1;
    type F = V;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        // SAFETY: the file's argument.
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> V {
        // SAFETY: the caller promises 16 elements.
        from_fn(|i| unsafe { vld1q_f32(p.add(4 * i)) })
    }
    #[inline(always)]
    unsafe fn load_part_ptr(self, p: *const f32, n: usize) -> V {
        let mut all = [0.0; LANES];
        // SAFETY: the caller promises `n < 16` elements, for which there is room.
        unsafe {
            p.copy_to_nonoverlapping(all.as_mut_ptr(), n);
            self.load_ptr(all.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: V, p: *mut f32) {
        for (i, v) in v.into_iter().enumerate() {
            // SAFETY: the caller promises 16 elements.
            unsafe { vst1q_f32(p.add(4 * i), v) }
        }
    }
    #[inline(always)]
    unsafe fn store_part_ptr(self, v: V, p: *mut f32, n: usize) {
        let mut all = [0.0; LANES];
        // SAFETY: 16 elements are there, of which the caller promises room for `n < 16`.
        unsafe {
            self.store_ptr(v, all.as_mut_ptr());
            p.copy_from_nonoverlapping(all.as_ptr(), n);
        }
    }

    lanewise! {
        add(a, b) => vaddq_f32;
        sub(a, b) => vsubq_f32;
        mul(a, b) => vmulq_f32;
        div(a, b) => vdivq_f32;
        abs(a) => vabsq_f32;
        round(a) => vrndnq_f32;
    }

    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        // SAFETY: the file's argument.
        from_fn(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        from_fn(|i| select(a[i], b[i], a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        from_fn(|i| max(a[i], b[i]))
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        from_fn(|i| select(a[i], b[i], x[i], y[i]))
    }
    #[inline(always)]
    fn scale2(self, a: V, n: V) -> V {
        // SAFETY: the file's argument.
        from_fn(|i| unsafe {
            let n = vcvtnq_s32_f32(n[i]);
            let first = vshrq_n_s32::<1>(n); // two factors: 2^n alone overflows the exponent field for |n| > 126
            let power =
                |e| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(e, vdupq_n_s32(127))));
            vmulq_f32(vmulq_f32(a[i], power(first)), power(vsubq_s32(n, first)))
        })
    }
    #[inline(always)]
    fn round_bf16(self, a: V) -> V {
        // SAFETY: the file's argument.
        from_fn(|i| unsafe {
            let b = vreinterpretq_u32_f32(a[i]);
            let odd = vandq_u32(vshrq_n_u32::<16>(b), vdupq_n_u32(1));
            let up = vaddq_u32(odd, vdupq_n_u32(0x7fff));
            let rounded = vandq_u32(vaddq_u32(b, up), vdupq_n_u32(0xffff_0000));
            let quiet = vorrq_u32(b, vdupq_n_u32(0x0040_0000));
            vreinterpretq_f32_u32(vbslq_u32(vceqq_f32(a[i], a[i]), rounded, quiet))
        })
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs_ptr(self, p: *const u8) -> (V, V) {
        // SAFETY: the caller promises 64 bytes.
        let pairs: [_; 4] = from_fn(|i| unsafe { widen(p.add(16 * i)) });
        (pairs.map(|p| p.0), pairs.map(|p| p.1))
    }
    #[inline(always)]
    fn max_bits_signed(self, a: V, b: V) -> V {
        // SAFETY: the file's argument.
        from_fn(|i| unsafe {
            let (a, b) = (vreinterpretq_s32_f32(a[i]), vreinterpretq_s32_f32(b[i]));
            vreinterpretq_f32_s32(vmaxq_s32(a, b))
        })
    }
    #[inline(always)]
    fn max_bits_unsigned(self, a: V, b: V) -> V {
        // SAFETY: the file's argument.
        from_fn(|i| unsafe {
            let (a, b) = (vreinterpretq_u32_f32(a[i]), vreinterpretq_u32_f32(b[i]));
            vreinterpretq_f32_u32(vmaxq_u32(a, b))
        })
    }
    #[inline(always)]
    unsafe fn store_low_bytes_ptr(self, v: V, p: *mut u8) {
        // SAFETY: the caller promises 16 bytes.
        unsafe {
            let v = v.map(|v| vreinterpretq_u8_f32(v));
            // The even bytes of a pair of registers, twice: the first of four.
            let low = |a, b| vuzp1q_u8(a, b);
            vst1q_u8(p, low(low(v[0], v[1]), low(v[2], v[3])));
        }
    }
    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        // Lane i and lane i + 8, then i + 4, i + 2, i + 1.
        // SAFETY: the file's argument.
        unsafe {
            let four = vaddq_f32(vaddq_f32(a[0], a[2]), vaddq_f32(a[1], a[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
    #[inline(always)]
    fn max_lane(self, a: V) -> f32 {
        let four = max(max(a[0], a[2]), max(a[1], a[3]));
        // SAFETY: the file's argument.
        unsafe {
            let (low, high) = (vget_low_f32(four), vget_high_f32(four));
            let two = vbsl_f32(vcgt_f32(low, high), low, high);
            let (low, high) = (vget_lane_f32::<0>(two), vget_lane_f32::<1>(two));
            if low > high { low } else { high }
        }
    }
}

/// Four pairs of `bf16`: the first of each pair, and the second.
///
/// # Safety
/// `p` is readable for 16 bytes.
#[inline(always)]
pub(crate) unsafe fn widen(p: *const u8) -> (float32x4_t, float32x4_t) {
    // SAFETY: the caller promises 16 bytes.
    unsafe {
        let w = vreinterpretq_u32_u8(vld1q_u8(p));
        let second = vandq_u32(w, vdupq_n_u32(0xffff_0000));
        (
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(w)),
            vreinterpretq_f32_u32(second),
        )
    }
}
