//! `t = x At` for an adapter's first factor: few output columns, each a dot product along K.
//!
//! A register tile is up to 4 rows of `x` times 4 rows of `A`, with 16 lanes along K, so a rank costs its own
//! multiplications and no padding to a panel's 16 columns: where base products run at the rate of `int8`, that padding
//! was most of what a small adapter cost.
//!
//! An element is 16 chains of fused multiply-adds (element `k` in lane `k mod 16`), added lane by lane in one fixed order:
//! its bits depend on its row of `x`, its row of `A` and the instruction level alone, never on the tile it lay in.
//!
//! Not here: the second factor (it continues the base's sums, `kernel::panel`), many columns (a panel product is as good).

use crate::{
    mat::{Mat, MatMut},
    simd::{self, Kernel, LANES, Level, Simd},
};

/// `y [m x r] = x [m x k] At`, with `a [r x k]` as adapter files store it.
///
/// # Panics
/// When the shapes disagree.
pub fn ranks_into(x: Mat<'_>, a: Mat<'_>, y: MatMut<'_>) {
    ranks_at(simd::level(), x, a, y);
}

/// [`ranks_into`] at a stated level, for tests and benches.
///
/// # Panics
/// When the shapes disagree, or this CPU has not that level.
pub fn ranks_at(level: Level, x: Mat<'_>, a: Mat<'_>, y: MatMut<'_>) {
    assert_eq!(
        (x.cols(), y.rows(), y.cols()),
        (a.cols(), x.rows(), a.rows()),
        "x, y and the first factor"
    );
    simd::run_at(level, Ranks { x, a, y });
}

struct Ranks<'a> {
    x: Mat<'a>,
    a: Mat<'a>,
    y: MatMut<'a>,
}

impl Kernel for Ranks<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        // Sixteen sums, four rows and a rank want 21 registers; where there are fewer, four sums.
        let most = if S::TILE_ROWS >= 8 { 4 } else { 2 };
        let mut row = 0;
        while row < self.x.rows() {
            let rows = most.min(self.x.rows() - row);
            let mut rank = 0;
            while rank < self.a.rows() {
                let ranks = most.min(self.a.rows() - rank);
                self.any(s, (row, rows), (rank, ranks));
                rank += ranks;
            }
            row += rows;
        }
    }
}

impl Ranks<'_> {
    #[inline(always)]
    fn any<S: Simd>(&mut self, s: S, (row, rows): (usize, usize), (rank, ranks): (usize, usize)) {
        match rows {
            1 => self.wide::<S, 1>(s, row, (rank, ranks)),
            2 => self.wide::<S, 2>(s, row, (rank, ranks)),
            3 => self.wide::<S, 3>(s, row, (rank, ranks)),
            _ => self.wide::<S, 4>(s, row, (rank, ranks)),
        }
    }

    #[inline(always)]
    fn wide<S: Simd, const R: usize>(&mut self, s: S, row: usize, (rank, ranks): (usize, usize)) {
        match ranks {
            1 => self.tile::<S, R, 1>(s, row, rank),
            2 => self.tile::<S, R, 2>(s, row, rank),
            3 => self.tile::<S, R, 3>(s, row, rank),
            _ => self.tile::<S, R, 4>(s, row, rank),
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const C: usize>(&mut self, s: S, row: usize, rank: usize) {
        let (x, a): ([_; R], [_; C]) = (
            std::array::from_fn(|r| self.x.row(row + r).as_chunks::<LANES>()),
            std::array::from_fn(|c| self.a.row(rank + c).as_chunks::<LANES>()),
        );
        let steps = x[0].0.len();
        // Every row has K elements: said once, so that the loop checks nothing.
        for (x, _) in &x {
            assert_eq!(x.len(), steps);
        }
        for (a, _) in &a {
            assert_eq!(a.len(), steps);
        }
        let mut sums = [[s.splat(0.0); C]; R];
        for k in 0..steps {
            let rows: [S::F; R] = std::array::from_fn(|r| s.load(&x[r].0[k]));
            for c in 0..C {
                let a = s.load(&a[c].0[k]);
                for r in 0..R {
                    sums[r][c] = s.fma(rows[r], a, sums[r][c]);
                }
            }
        }
        if !a[0].1.is_empty() {
            for c in 0..C {
                let a = s.load_part(a[c].1);
                for r in 0..R {
                    sums[r][c] = s.fma(s.load_part(x[r].1), a, sums[r][c]);
                }
            }
        }
        for c in 0..C {
            // Four rows at once; where there are fewer, the last stands in.
            let each = s.sum_each(std::array::from_fn(|r| sums[r.min(R - 1)][c]));
            for r in 0..R {
                self.y.row_mut(row + r)[rank + c] = each[r];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mat::Matrix, simd::levels};

    /// `f32` sums of up to 150 products of magnitude 1 against `f64`: a few roundings of 6e-8 each.
    const TOLERANCE: f64 = 2e-5;

    fn matrix(rows: usize, cols: usize, seed: u32) -> Matrix {
        let mut m = Matrix::zeros(rows, cols);
        for r in 0..rows {
            for (c, v) in m.view_mut().row_mut(r).iter_mut().enumerate() {
                let hash =
                    (r as u32 * 7919 + c as u32 * 104_729 + seed).wrapping_mul(2_654_435_761);
                *v = (hash >> 8) as f32 / (1 << 23) as f32 - 1.0;
            }
        }
        m
    }

    #[test]
    fn agrees_with_f64_and_never_depends_on_the_tile() {
        for &level in levels() {
            for (m, r, k) in [
                (1, 1, 1),
                (3, 5, 15),
                (4, 4, 16),
                (9, 7, 33),
                (5, 13, 150),
                (6, 1, 64),
            ] {
                let (x, a) = (matrix(m, k, 1), matrix(r, k, 2));
                let mut y = Matrix::zeros(m, r);
                ranks_at(level, x.view(), a.view(), y.view_mut());
                for i in 0..m {
                    for j in 0..r {
                        let pairs = x.view().row(i).iter().zip(a.view().row(j));
                        let exact: f64 = pairs.map(|(&x, &a)| f64::from(x) * f64::from(a)).sum();
                        let found = y.view().row(i)[j];
                        assert!(
                            (f64::from(found) - exact).abs() < TOLERANCE,
                            "{level:?} {m}x{r}x{k}"
                        );
                        let (x, a) = (x.view().row_range(i..i + 1), a.view().row_range(j..j + 1));
                        let mut alone = Matrix::zeros(1, 1);
                        ranks_at(level, x, a, alone.view_mut());
                        assert_eq!(
                            alone.view().row(0)[0].to_bits(),
                            found.to_bits(),
                            "{level:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn no_rows_and_no_ranks_are_no_work() {
        let (x, a) = (matrix(0, 8, 1), matrix(2, 8, 2));
        ranks_into(x.view(), a.view(), Matrix::zeros(0, 2).view_mut());
        let (x, a) = (matrix(2, 8, 1), matrix(0, 8, 2));
        ranks_into(x.view(), a.view(), Matrix::zeros(2, 0).view_mut());
    }
}
