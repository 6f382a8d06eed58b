//! Sums and maxima of a row in one fixed order.
//!
//! A row is read in vectors of 16; vector `i` goes to accumulator `i mod 4`; the accumulators are added
//! `(0 + 1) + (2 + 3)` and the lanes halve by halve. The last, partial vector counts as zeros. So the bits of
//! a sum depend on the row alone (its length and values): not on the batch, the thread or the address.
//!
//! Not here: sums over rows (gradients of a bias), which go down a column in the order of the rows.

use crate::simd::{LANES, Simd};

const ONES: [f32; LANES] = [1.0; LANES];

/// Reads vector `i` of `x`: whole, or what is left with zeros behind it.
#[inline(always)]
pub(super) fn load_at<S: Simd>(s: S, x: &[f32], i: usize) -> S::F {
    let rest = &x[i * LANES..];
    if rest.len() >= LANES {
        s.load(rest)
    } else {
        s.load_part(rest)
    }
}

/// Writes vector `i` of `x`: whole, or what fits.
#[inline(always)]
pub(super) fn store_at<S: Simd>(s: S, v: S::F, x: &mut [f32], i: usize) {
    let rest = &mut x[i * LANES..];
    if rest.len() >= LANES {
        s.store(v, rest);
    } else {
        s.store_part(v, rest);
    }
}

/// 1 in the lanes that vector `i` of a row of `len` has, 0 in the others.
#[inline(always)]
pub(super) fn lanes_at<S: Simd>(s: S, len: usize, i: usize) -> S::F {
    let rest = len - i * LANES;
    if rest >= LANES {
        s.splat(1.0)
    } else {
        s.load_part(&ONES[..rest])
    }
}

/// Four partial sums, filled in turn.
#[derive(Clone, Copy)]
pub(super) struct Sums<S: Simd>([S::F; 4]);

impl<S: Simd> Sums<S> {
    #[inline(always)]
    pub(super) fn new(s: S) -> Self {
        Self([s.splat(0.0); 4])
    }

    /// Adds `a * b`, made from vector `i`.
    #[inline(always)]
    pub(super) fn product(&mut self, s: S, i: usize, a: S::F, b: S::F) {
        self.0[i % 4] = s.fma(a, b, self.0[i % 4]);
    }

    /// Adds `a`, made from vector `i`.
    #[inline(always)]
    pub(super) fn add(&mut self, s: S, i: usize, a: S::F) {
        self.0[i % 4] = s.add(a, self.0[i % 4]);
    }

    #[inline(always)]
    pub(super) fn total(self, s: S) -> f32 {
        let [a, b, c, d] = self.0;
        s.sum(s.add(s.add(a, b), s.add(c, d)))
    }
}

/// The sum of a row.
#[inline(always)]
pub fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sums = Sums::new(s);
    for i in 0..x.len().div_ceil(LANES) {
        sums.add(s, i, load_at(s, x, i));
    }
    sums.total(s)
}

/// `x . y`
///
/// # Panics
/// When `y` is shorter than `x`.
#[inline(always)]
pub fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    let y = &y[..x.len()];
    let mut sums = Sums::new(s);
    for i in 0..x.len().div_ceil(LANES) {
        sums.product(s, i, load_at(s, x, i), load_at(s, y, i));
    }
    sums.total(s)
}

/// The largest element of a row that has one.
///
/// # Panics
/// When the row is empty.
#[inline(always)]
pub fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut largest = s.splat(x[0]);
    let whole = x.len() / LANES;
    for i in 0..whole {
        largest = s.max(s.load(&x[i * LANES..]), largest);
    }
    x[whole * LANES..]
        .iter()
        .fold(s.max_lane(largest), |m, &x| if x > m { x } else { m })
}
