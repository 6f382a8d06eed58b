//! Activations to bytes, a row at a time: the scale and zero point of a row and its quantised values.
//!
//! `x = scale (q - zero)`, `q` in 0..=254; see `int8` for why it is not symmetric. What the bytes are multiplied with is not
//! known here.

use crate::simd::{LANES, Simd};

/// A row whose values span less than this is taken for zeros: the inverse of its scale would overflow.
const LEAST_SPAN: f32 = 1e-30;

/// Scale and zero point of a row of activations.
#[derive(Clone, Copy)]
pub(super) struct RowScale {
    pub(super) scale: f32,
    pub(super) zero: i32,
}

/// The largest quantised activation. Not 255: the zero point is rounded up, so that nothing is below 0, and the largest
/// value may then need one more.
const STEPS: f32 = 254.0;

/// Quantises `row`: bytes to `to`, scale and zero point to `scale`. Both the bytes and the zero point are moved by
/// `shift`: 0, or -128 for dots whose bytes are signed.
///
/// # Safety
/// `to` is writable for `row.len()` bytes, rounded up to a vector, `scale` for itself.
#[inline(always)]
pub(super) unsafe fn quantise<S: Simd>(
    s: S,
    row: &[f32],
    shift: i8,
    to: *mut u8,
    scale: *mut RowScale,
) {
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
            zero: zero as i32 + i32::from(shift),
        };
        bytes(s, row, inverse, zero + f32::from(shift), to);
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

/// `round(x * inverse + zero)` of every element, as bytes (two's complement of the negative ones).
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
