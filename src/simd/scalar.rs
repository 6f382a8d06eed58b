//! The level that needs nothing: arrays of 16 `f32`, left to the compiler.
//!
//! It has no fused multiply-add: `f32::mul_add` would call the C library lane by lane.
//! So its answers differ from the other levels' in the last bits.

use super::{LANES, Level, Simd};

/// No instruction beyond the target's baseline.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

type V = [f32; LANES];

#[inline(always)]
fn map2(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    const LEVEL: Level = Level::Scalar;
    const TILE_ROWS: usize = 2;
    const TILE_PANELS: usize = 1;
    type F = V;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> V {
        // SAFETY: the caller promises 16 readable elements; the read is unaligned.
        unsafe { p.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part_ptr(self, p: *const f32, n: usize) -> V {
        // SAFETY: the caller promises `n` readable elements.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: V, p: *mut f32) {
        // SAFETY: the caller promises 16 writable elements.
        unsafe { p.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part_ptr(self, v: V, p: *mut f32, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: the caller promises `n` writable elements.
            unsafe { *p.add(i) = x }
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: V) -> V {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        // Adding and taking away 1.5 x 2^23 rounds to even; larger magnitudes are integers already.
        const MAGIC: f32 = 12_582_912.0;
        a.map(|x| {
            if x.abs() < 4_194_304.0 {
                ((x + MAGIC) - MAGIC).copysign(x)
            } else {
                x
            }
        })
    }
    #[inline(always)]
    fn scale2(self, a: V, n: V) -> V {
        std::array::from_fn(|i| {
            let n = n[i] as i32;
            let half = n >> 1; // two factors: 2^n alone overflows the exponent field for |n| > 126
            let power = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
            a[i] * power(half) * power(n - half)
        })
    }
    #[inline(always)]
    fn select_lt(self, a: V, b: V, x: V, y: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn round_bf16(self, a: V) -> V {
        a.map(|x| {
            let b = x.to_bits();
            let rounded = b.wrapping_add(0x7fff + (b >> 16 & 1)) & 0xffff_0000;
            f32::from_bits(if x.is_nan() { b | 0x0040_0000 } else { rounded })
        })
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs_ptr(self, p: *const u8) -> (V, V) {
        // SAFETY: the caller promises 64 readable bytes; the read is unaligned.
        let words = unsafe { p.cast::<[u32; LANES]>().read_unaligned() };
        (
            words.map(|w| f32::from_bits(w << 16)),
            words.map(|w| f32::from_bits(w & 0xffff_0000)),
        )
    }
    #[inline(always)]
    fn max_bits_signed(self, a: V, b: V) -> V {
        let bits = |x: f32| x.to_bits().cast_signed();
        map2(a, b, |a, b| if bits(a) > bits(b) { a } else { b })
    }
    #[inline(always)]
    fn max_bits_unsigned(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a.to_bits() > b.to_bits() { a } else { b })
    }
    #[inline(always)]
    unsafe fn store_low_bytes_ptr(self, v: V, p: *mut u8) {
        // SAFETY: the caller promises 16 writable bytes.
        unsafe {
            p.cast::<[u8; LANES]>()
                .write_unaligned(v.map(|x| x.to_bits() as u8))
        }
    }
    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        let mut a = a;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }
    #[inline(always)]
    fn max_lane(self, a: V) -> f32 {
        a.into_iter()
            .fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
}
