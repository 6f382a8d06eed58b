//! Rows of `f32` as bytes, one scale and one zero point each: `x = scale (q - zero)`, `q` in 0..=254.
//!
//! Two passes over a row that is in L1 by the second. The first finds the least and the largest element with integer
//! maxima of their bits, two operations a vector, through which NaN and infinities pass to the scale. The second
//! rounds with one multiply-add: a large constant leaves the nearest integer in the low byte.
//!
//! The zero point is rounded up, so that nothing falls below 0 and nothing has to be clamped.

use crate::simd::{LANES, Simd};

/// A row whose values span less than this is taken for zeros: the inverse of its scale would overflow.
const LEAST_SPAN: f32 = 1e-30;

/// Scale and zero point of a row of activations.
#[derive(Clone, Copy)]
pub(super) struct RowScale {
    pub(super) scale: f32,
    pub(super) zero: i32,
}

/// Spreads `steps` quads of bytes, which lie behind `8 steps - 4 steps` bytes, to pairs of 16 bits from the start on.
///
/// # Safety
/// `p` is writable for `8 * steps` bytes.
pub(super) unsafe fn widen(p: *mut u8, steps: usize) {
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

/// The largest quantised activation. Not 255: the zero point is rounded up, so that nothing is below 0, and the largest
/// value may then need one more.
const STEPS: f32 = 254.0;

/// Quantises `row`: bytes to `to`, scale and zero point to `scale`.
///
/// # Safety
/// `to` is writable for `row.len()` bytes, rounded up to a vector, `scale` for itself.
#[inline(always)]
pub(super) unsafe fn quantise<S: Simd>(s: S, row: &[f32], to: *mut u8, scale: *mut RowScale) {
    let (low, high) = range(s, row);
    let span = high - low;
    let (quantum, inverse, zero) = if span < LEAST_SPAN {
        (0.0, 0.0, 0.0)
    } else {
        let inverse = STEPS / span; // 0 or NaN if `span` is not finite; the scale tells
        (span / STEPS, inverse, (-low * inverse).ceil())
    };
    // SAFETY: the caller's promise.
    unsafe {
        *scale = RowScale {
            scale: quantum,
            zero: zero as i32,
        };
        bytes(s, row, inverse, zero, to);
    }
}

/// The least and the largest of 0 and `row`, by their bits; a NaN in `row` comes out in one of them.
#[inline(always)]
fn range<S: Simd>(s: S, row: &[f32]) -> (f32, f32) {
    let mut low = [s.splat(0.0); 4];
    let mut high = low;
    let four = row.chunks_exact(4 * LANES);
    for (i, v) in four.remainder().chunks(LANES).enumerate() {
        let v = if v.len() == LANES {
            s.load(v)
        } else {
            s.load_part(v)
        };
        (low[i], high[i]) = (
            s.max_bits_unsigned(low[i], v),
            s.max_bits_signed(high[i], v),
        );
    }
    for four in four {
        for i in 0..4 {
            let v = s.load(&four[i * LANES..]);
            (low[i], high[i]) = (
                s.max_bits_unsigned(low[i], v),
                s.max_bits_signed(high[i], v),
            );
        }
    }
    for i in 1..4 {
        low[0] = s.max_bits_unsigned(low[0], low[i]);
        high[0] = s.max_bits_signed(high[0], high[i]);
    }
    let (mut lows, mut highs) = ([0.0f32; LANES], [0.0f32; LANES]);
    s.store(low[0], &mut lows);
    s.store(high[0], &mut highs);
    let low = lows.iter().fold(0, |m, x| x.to_bits().max(m));
    let high = highs
        .iter()
        .fold(0, |m, x| x.to_bits().cast_signed().max(m));
    // The largest bits are those of a positive number if there is no negative one.
    let low = if low >> 31 == 1 {
        f32::from_bits(low)
    } else {
        0.0
    };
    (low, f32::from_bits(high.cast_unsigned()))
}

/// `round(x * inverse + zero)` of every element, as bytes.
///
/// # Safety
/// `to` is writable for `row.len()` bytes, rounded up to a vector.
#[inline(always)]
unsafe fn bytes<S: Simd>(s: S, row: &[f32], inverse: f32, zero: f32, mut to: *mut u8) {
    /// Added to a small number, it leaves the nearest integer in the low bits.
    const MAGIC: f32 = 12_582_912.0; // 1.5 x 2^23
    let (inverse, zero) = (s.splat(inverse), s.splat(zero + MAGIC));
    let whole = row.chunks_exact(LANES);
    let left = whole.remainder();
    for v in whole {
        // SAFETY: the caller promises the room.
        unsafe {
            s.store_low_bytes_ptr(s.fma(s.load(v), inverse, zero), to);
            to = to.add(LANES);
        }
    }
    if !left.is_empty() {
        // SAFETY: as above. What follows the row's last element multiplies weights of zero.
        unsafe { s.store_low_bytes_ptr(s.fma(s.load_part(left), inverse, zero), to) };
    }
}
