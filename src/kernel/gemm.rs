//! The one door to the `gemm` crate: products of two `f32` matrices with general strides.
//!
//! `c = beta_c c + alpha op(a) op(b)`, in BLAS's meaning of the factors. The crate's own call has them the other way
//! round (its `alpha` scales the destination, its `beta` the product), takes nineteen arguments and checks
//! none; here shapes are asserted once and the factors are named by what they scale.
//!
//! It runs on the calling thread. Its answer for a row depends, in the last bits, on the number of rows in the
//! call, so it serves attention, backward and merge; where rows of different requests share a call, use
//! `kernel::panel`, whose sums have one order.
#![allow(unsafe_code)] // the crate's entry point is an unsafe function on raw pointers

use crate::mat::{Mat, MatMut};

/// `c = beta_c c + alpha op(a) op(b)`, where `op` transposes if its flag says so.
///
/// `beta_c = 0` never reads `c`.
///
/// # Shapes
/// `op(a) [m x k]`, `op(b) [k x n]`, `c [m x n]`.
///
/// # Panics
/// When the shapes disagree.
///
/// # Accuracy
/// Fused sums over K whose order depends on the shape; not invariant to the number of rows.
pub fn gemm(
    mut c: MatMut<'_>,
    beta_c: f32,
    alpha: f32,
    a: Mat<'_>,
    a_transposed: bool,
    b: Mat<'_>,
    b_transposed: bool,
) {
    let a = Operand::of(a, a_transposed);
    let b = Operand::of(b, b_transposed);
    assert_eq!(
        (a.rows, a.cols, b.cols),
        (c.rows(), b.rows, c.cols()),
        "op(a) is {} x {}, op(b) is {} x {}",
        a.rows,
        a.cols,
        b.rows,
        b.cols
    );
    if c.rows() == 0 || c.cols() == 0 {
        return;
    }
    let (m, n, k, c_stride) = (c.rows(), c.cols(), a.cols, c.stride() as isize);
    // SAFETY: the views hold m x k, k x n and m x n elements at these strides, `c` is borrowed exclusively, and
    // the shapes were just asserted.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride,
            beta_c != 0.0,
            a.ptr,
            a.col_step,
            a.row_step,
            b.ptr,
            b.col_step,
            b.row_step,
            beta_c, // the crate's alpha: of the destination
            alpha,  // the crate's beta: of the product
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// A matrix or its transpose: a pointer and two steps.
struct Operand {
    ptr: *const f32,
    rows: usize,
    cols: usize,
    row_step: isize,
    col_step: isize,
}

impl Operand {
    fn of(x: Mat<'_>, transposed: bool) -> Self {
        let (ptr, step) = (x.as_ptr(), x.stride() as isize);
        let (rows, cols) = (x.rows(), x.cols());
        if transposed {
            Self {
                ptr,
                rows: cols,
                cols: rows,
                row_step: 1,
                col_step: step,
            }
        } else {
            Self {
                ptr,
                rows,
                cols,
                row_step: step,
                col_step: 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mat::Matrix;

    /// Sums of at most 33 products of numbers under 1: a few rounding steps of numbers under 33.
    const TOLERANCE: f64 = 2e-5;

    fn ramp(rows: usize, cols: usize, step: f32) -> Matrix {
        let data = (0..rows * cols).map(|i| (i as f32 * step).sin()).collect();
        Matrix::from_vec(data, rows, cols)
    }

    /// One case against sums in `f64`; `a` and `b` are column ranges of wider buffers.
    fn case(m: usize, n: usize, k: usize, ta: bool, tb: bool, beta_c: f32, alpha: f32) {
        let shape = |t, r: usize, c: usize| if t { (c, r) } else { (r, c) };
        let (ar, ac) = shape(ta, m, k);
        let (br, bc) = shape(tb, k, n);
        let (wide_a, wide_b) = (ramp(ar, ac + 3, 0.37), ramp(br, bc + 2, 0.73));
        let a = wide_a.view().col_range(1..ac + 1);
        let b = wide_b.view().col_range(2..bc + 2);
        let before = ramp(m, n + 1, 1.1);
        let mut after = before.clone();
        if beta_c == 0.0 {
            (0..m).for_each(|r| after.view_mut().row_mut(r)[..n].fill(f32::NAN));
        }
        gemm(
            after.view_mut().col_range(0..n),
            beta_c,
            alpha,
            a,
            ta,
            b,
            tb,
        );
        let at = |x: Mat<'_>, t, r, c| f64::from(if t { x.row(c)[r] } else { x.row(r)[c] });
        for r in 0..m {
            for c in 0..n {
                let sum: f64 = (0..k).map(|i| at(a, ta, r, i) * at(b, tb, i, c)).sum();
                let want = f64::from(beta_c) * f64::from(before.row(r)[c]) + f64::from(alpha) * sum;
                let got = f64::from(after.row(r)[c]);
                assert!(
                    (got - want).abs() <= TOLERANCE,
                    "{m} x {n} x {k}, transposed {ta} {tb}, beta {beta_c}: {got} for {want} at {r}, {c}"
                );
            }
            assert_eq!(
                after.row(r)[n],
                before.row(r)[n],
                "a column outside was written"
            );
        }
    }

    #[test]
    fn equals_plain_sums_in_all_orientations() {
        for (m, n, k) in [(1, 1, 1), (5, 3, 2), (17, 9, 33), (4, 16, 0)] {
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                for (beta_c, alpha) in [(0.0, 1.0), (1.0, 1.0), (0.5, -2.0)] {
                    case(m, n, k, ta, tb, beta_c, alpha);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "op(a) is 2 x 3")]
    fn shapes_that_disagree_panic() {
        let (a, b) = (Matrix::zeros(2, 3), Matrix::zeros(2, 3));
        gemm(
            Matrix::zeros(2, 3).view_mut(),
            0.0,
            1.0,
            a.view(),
            false,
            b.view(),
            false,
        );
    }
}
