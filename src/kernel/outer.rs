//! `c += at b` over many rows: the gradient of an adapter's factor, a sum over tokens of outer products.
//!
//! `a [T x R]` is narrow, `b [T x N]` wide, `c [R x N]`. A register tile is 8 rows of `c` times 2 vectors, over a block of
//! tokens, so that a block of `b` is read from a near cache by every eight ranks, and `c` is loaded and stored once a
//! block. An element of `c` is one chain of fused multiply-adds over the tokens in their order.
//!
//! Not here: wide times wide (a weight's own gradient), which is what `kernel::gemm` is for.

use crate::{
    kernel::reduce::{load_at, store_at},
    mat::{Mat, MatMut},
    simd::{self, Kernel, LANES, Level, Simd},
};

/// Tokens of a block: 64 rows of 768 columns are 196 KB, which stays in L2 beside `c`.
pub const BLOCK: usize = 64;

/// `c [R x N] += at b`, with `a [T x R]` and `b [T x N]`.
///
/// # Panics
/// When the shapes disagree.
pub fn add_outer(a: Mat<'_>, b: Mat<'_>, c: MatMut<'_>) {
    add_outer_at(simd::level(), a, b, c);
}

/// [`add_outer`] at a stated level, for tests and benches.
///
/// # Panics
/// When the shapes disagree, or this CPU has not that level.
pub fn add_outer_at(level: Level, a: Mat<'_>, b: Mat<'_>, c: MatMut<'_>) {
    assert_eq!(
        (a.rows(), a.cols(), b.cols()),
        (b.rows(), c.rows(), c.cols()),
        "a, b and the sum of their outer products"
    );
    simd::run_at(level, Outer { a, b, c });
}

struct Outer<'a> {
    a: Mat<'a>,
    b: Mat<'a>,
    c: MatMut<'a>,
}

impl Kernel for Outer<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for start in (0..self.a.rows()).step_by(BLOCK) {
            let tokens = start..(start + BLOCK).min(self.a.rows());
            let (a, b) = (self.a.row_range(tokens.clone()), self.b.row_range(tokens));
            let mut rank = 0;
            while rank < self.c.rows() {
                rank += match self.c.rows() - rank {
                    8.. => block::<S, 8>(s, a, b, &mut self.c, rank),
                    4.. => block::<S, 4>(s, a, b, &mut self.c, rank),
                    2.. => block::<S, 2>(s, a, b, &mut self.c, rank),
                    _ => block::<S, 1>(s, a, b, &mut self.c, rank),
                };
            }
        }
    }
}

/// `R` rows of `c` from `rank` on, over all columns and the tokens of `a` and `b`.
#[inline(always)]
fn block<S: Simd, const R: usize>(
    s: S,
    a: Mat<'_>,
    b: Mat<'_>,
    c: &mut MatMut<'_>,
    rank: usize,
) -> usize {
    let whole = c.cols() / (2 * LANES);
    for pair in 0..whole {
        let at = 2 * LANES * pair;
        let mut sums = [[s.splat(0.0); 2]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            let row = c.row_mut(rank + r)[at..at + 2 * LANES]
                .as_chunks::<LANES>()
                .0;
            *sums = [s.load(&row[0]), s.load(&row[1])];
        }
        for t in 0..b.rows() {
            let row = b.row(t)[at..at + 2 * LANES].as_chunks::<LANES>().0;
            let b = [s.load(&row[0]), s.load(&row[1])];
            let a = &a.row(t)[rank..rank + R];
            for r in 0..R {
                let a = s.splat(a[r]);
                sums[r] = [s.fma(a, b[0], sums[r][0]), s.fma(a, b[1], sums[r][1])];
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let row = &mut c.row_mut(rank + r)[at..at + 2 * LANES];
            store_at(s, sums[0], row, 0);
            store_at(s, sums[1], row, 1);
        }
    }
    // What is left over: at most two vectors, the last one in part.
    for i in 2 * whole..c.cols().div_ceil(LANES) {
        for r in 0..R {
            let mut sum = load_at(s, c.row_mut(rank + r), i);
            for t in 0..b.rows() {
                sum = s.fma(s.splat(a.row(t)[rank + r]), load_at(s, b.row(t), i), sum);
            }
            store_at(s, sum, c.row_mut(rank + r), i);
        }
    }
    R
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::naive::{Noise, assert_near},
        simd::levels,
    };

    /// Chains of up to 200 products of magnitude 1: partial sums near 10 round by 1e-6 a step or so, at random.
    const TOLERANCE: f64 = 1e-5;

    #[test]
    fn sums_of_outer_products_equal_f64() {
        for &level in levels() {
            for (tokens, ranks, columns) in [
                (1, 1, 1),
                (3, 2, 16),
                (64, 3, 33),
                (65, 8, 48),
                (130, 13, 70),
                (200, 24, 31),
                (0, 2, 5),
            ] {
                let mut noise = Noise::new((tokens + ranks) as u64);
                let a = noise.matrix(tokens, ranks, 1.0);
                let b = noise.matrix(tokens, columns, 1.0);
                let start = noise.matrix(ranks, columns, 1.0);
                let mut c = start.clone();
                add_outer_at(level, a.view(), b.view(), c.view_mut());
                let mut want = Vec::new();
                for r in 0..ranks {
                    for n in 0..columns {
                        let products =
                            (0..tokens).map(|t| f64::from(a.row(t)[r]) * f64::from(b.row(t)[n]));
                        want.push(f64::from(start.row(r)[n]) + products.sum::<f64>());
                    }
                }
                let what = format!("{tokens} x {ranks} x {columns} at {level:?}");
                assert_near(&what, c.as_slice(), &want, TOLERANCE);
            }
        }
    }
}
