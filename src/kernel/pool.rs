//! One row for a sequence: first, last, mean or largest, and the unit length that embeddings want.
//!
//! Each takes the rows of one sequence `x [T x H]`, `T >= 1` (a ragged batch hands out row ranges), and runs
//! down the columns in the order of the rows, so the result depends on that sequence alone. Each forward has
//! its gradient beside it; gradients write all of `dx [T x H]`.
//!
//! Not here: which of them a model uses (a fact of its configuration).

use crate::{
    kernel::reduce::{dot, load_at, store_at},
    mat::{Mat, MatMut},
    simd::{self, Kernel, LANES, Level, Simd},
};

/// Lengths below this count as this: what PyTorch's `normalize` divides by at least.
pub const LENGTH_MIN: f32 = 1e-12;

/// `y [H]` = row `r` of `x [T x H]` (0: the classification token; `T - 1`: the last).
///
/// # Panics
/// When `r >= T` or the widths differ.
pub fn row(x: Mat<'_>, r: usize, y: &mut [f32]) {
    y.copy_from_slice(x.row(r));
}

/// The gradient of [`row`]: `dy` in row `r`, zeros elsewhere.
pub fn row_backward(r: usize, dy: &[f32], mut dx: MatMut<'_>) {
    for t in 0..dx.rows() {
        dx.row_mut(t).fill(0.0);
    }
    dx.row_mut(r).copy_from_slice(dy);
}

/// `y [H]` = the mean of the rows of `x [T x H]`.
///
/// # Panics
/// When there are no rows, or the widths differ.
pub fn mean(x: Mat<'_>, y: &mut [f32]) {
    mean_at(simd::level(), x, y);
}

/// [`mean`] at `level`.
pub fn mean_at(level: Level, x: Mat<'_>, y: &mut [f32]) {
    check(x, y);
    simd::run_at(level, Columns::<false> { x, y });
}

/// The gradient of [`mean`]: every row of `dx` is `dy / T`.
pub fn mean_backward(dy: &[f32], mut dx: MatMut<'_>) {
    let share = 1.0 / dx.rows() as f32;
    for t in 0..dx.rows() {
        for (d, &g) in dx.row_mut(t).iter_mut().zip(dy) {
            *d = g * share;
        }
    }
}

/// `y [H]` = the largest value of each column of `x [T x H]`.
///
/// # Panics
/// When there are no rows, or the widths differ.
pub fn max(x: Mat<'_>, y: &mut [f32]) {
    max_at(simd::level(), x, y);
}

/// [`max`] at `level`.
pub fn max_at(level: Level, x: Mat<'_>, y: &mut [f32]) {
    check(x, y);
    simd::run_at(level, Columns::<true> { x, y });
}

/// The gradient of [`max`]: a column's `dy` goes to the first row that holds its largest value.
pub fn max_backward(x: Mat<'_>, dy: &[f32], mut dx: MatMut<'_>) {
    for t in 0..x.rows() {
        dx.row_mut(t).fill(0.0);
    }
    for (c, &d) in dy.iter().enumerate() {
        let first = (1..x.rows()).fold(0, |b, t| if x.row(t)[c] > x.row(b)[c] { t } else { b });
        dx.row_mut(first)[c] = d;
    }
}

/// Divides `x` by its Euclidean length (by [`LENGTH_MIN`] if that is larger) and returns what it divided by.
pub fn normalize(x: &mut [f32]) -> f32 {
    normalize_at(simd::level(), x)
}

/// [`normalize`] at `level`.
pub fn normalize_at(level: Level, x: &mut [f32]) -> f32 {
    simd::run_at(level, Normalize(x))
}

/// The gradient of [`normalize`], from the `y` and the `length` it returned: `dx = (dy - y (y . dy)) / length`.
///
/// # Panics
/// When the lengths of the slices differ.
pub fn normalize_backward(y: &[f32], length: f32, dy: &[f32], dx: &mut [f32]) {
    assert!(
        y.len() == dy.len() && y.len() == dx.len(),
        "gradient of a unit vector"
    );
    // At the clamp the length is a constant, so the projection falls away.
    let along: f32 = if length > LENGTH_MIN {
        y.iter().zip(dy).map(|(y, d)| y * d).sum()
    } else {
        0.0
    };
    for (dx, (y, dy)) in dx.iter_mut().zip(y.iter().zip(dy)) {
        *dx = (dy - y * along) / length;
    }
}

fn check(x: Mat<'_>, y: &[f32]) {
    assert!(x.rows() > 0, "a sequence of no tokens has no pooled row");
    assert_eq!(x.cols(), y.len(), "pooled row");
}

/// The sum over rows divided by their number, or the maximum.
struct Columns<'a, const MAX: bool> {
    x: Mat<'a>,
    y: &'a mut [f32],
}

impl<const MAX: bool> Kernel for Columns<'_, MAX> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (x, y) = (self.x, self.y);
        let count = s.splat(x.rows() as f32);
        for i in 0..y.len().div_ceil(LANES) {
            let mut v = load_at(s, x.row(0), i);
            for t in 1..x.rows() {
                let next = load_at(s, x.row(t), i);
                v = if MAX { s.max(v, next) } else { s.add(v, next) };
            }
            store_at(s, if MAX { v } else { s.div(v, count) }, y, i);
        }
    }
}

struct Normalize<'a>(&'a mut [f32]);

impl Kernel for Normalize<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let length = dot(s, self.0, self.0).sqrt().max(LENGTH_MIN);
        let divisor = s.splat(length);
        for i in 0..self.0.len().div_ceil(LANES) {
            store_at(s, s.div(load_at(s, self.0, i), divisor), self.0, i);
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::naive::{Noise, assert_near, differences, wide},
        mat::Matrix,
        simd::levels,
    };

    const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 16), (2, 17), (7, 33), (33, 64), (130, 20)];
    /// Sums of up to 130 rounded terms near 1.
    const TOLERANCE: f64 = 2e-6;

    fn naive_mean(x: &[f64], width: usize) -> Vec<f64> {
        let rows = x.len() / width;
        (0..width)
            .map(|c| (0..rows).map(|r| x[r * width + c]).sum::<f64>() / rows as f64)
            .collect()
    }

    fn naive_max(x: &[f64], width: usize) -> Vec<f64> {
        (0..width)
            .map(|c| {
                x.iter()
                    .skip(c)
                    .step_by(width)
                    .copied()
                    .fold(f64::MIN, f64::max)
            })
            .collect()
    }

    fn naive_unit(x: &[f64]) -> Vec<f64> {
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        x.iter().map(|x| x / length).collect()
    }

    fn weigh(y: &[f64], dy: &[f32]) -> f64 {
        y.iter().zip(dy).map(|(y, &d)| y * f64::from(d)).sum()
    }

    #[test]
    fn mean_and_max_equal_the_twins_with_gradients() {
        for (rows, width) in SHAPES {
            let mut noise = Noise::new((rows * width) as u64);
            let (x, dy) = (noise.matrix(rows, width, 3.0), noise.vec(width, 1.0));
            let x64 = wide(x.as_slice());
            for &level in levels() {
                let what = format!("{rows} x {width} at {level:?}");
                let mut y = vec![9.0; width];
                mean_at(level, x.view(), &mut y);
                assert_near(
                    &format!("mean {what}"),
                    &y,
                    &naive_mean(&x64, width),
                    TOLERANCE,
                );
                max_at(level, x.view(), &mut y);
                assert_near(&format!("max {what}"), &y, &naive_max(&x64, width), 0.0);
            }
            let mut dx = Matrix::zeros(rows, width);
            mean_backward(&dy, dx.view_mut());
            let want = differences(&x64, |x| weigh(&naive_mean(x, width), &dy));
            assert_near("mean gradient", dx.as_slice(), &want, TOLERANCE);
            max_backward(x.view(), &dy, dx.view_mut());
            let want = differences(&x64, |x| weigh(&naive_max(x, width), &dy));
            assert_near("max gradient", dx.as_slice(), &want, TOLERANCE);
        }
    }

    #[test]
    fn a_row_is_copied_and_its_gradient_put_back() {
        let x = Noise::new(5).matrix(4, 5, 1.0);
        let mut y = [0.0; 5];
        row(x.view(), 3, &mut y);
        assert_eq!(y, x.row(3));
        let mut dx = x.clone();
        row_backward(1, &y, dx.view_mut());
        assert_eq!(dx.row(1), y);
        assert_eq!([dx.row(0), dx.row(2), dx.row(3)].concat(), [0.0; 15]);
    }

    #[test]
    fn unit_vectors_have_length_one_and_zero_stays_zero() {
        for &level in levels() {
            for n in [1, 2, 15, 17, 67, 768] {
                let mut noise = Noise::new(n as u64);
                let (x, dy) = (noise.vec(n, 3.0), noise.vec(n, 1.0));
                let mut y = x.clone();
                let length = normalize_at(level, &mut y);
                let x64 = wide(&x);
                assert_near(
                    &format!("{n} at {level:?}"),
                    &y,
                    &naive_unit(&x64),
                    TOLERANCE,
                );
                let mut dx = vec![0.0; n];
                normalize_backward(&y, length, &dy, &mut dx);
                let want = differences(&x64, |x| weigh(&naive_unit(x), &dy));
                assert_near(&format!("gradient {n} at {level:?}"), &dx, &want, TOLERANCE);
            }
            let mut zero = [0.0; 20];
            assert_eq!(normalize_at(level, &mut zero), LENGTH_MIN);
            assert_eq!(zero, [0.0; 20]);
        }
    }
}
