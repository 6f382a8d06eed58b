//! The singular value decomposition of a low-rank product `s B A`, without ever forming it.
//!
//! ```text
//! B = Qb Rb,  At = Qa Ra            (Householder)
//! s Rb Rat = U diag(sigma) Vt       (one-sided Jacobi; the core is at most R x R)
//! s B A = (Qb U) diag(sigma) (Qa V)t
//! ```
//! Householder and not Gram-Schmidt, because pruned and collapsed adapters have columns that are zero or multiples of
//! each other; Jacobi because it is short, has no case that fails to converge in practice, and finds small singular
//! values to high *relative* accuracy. All in f64: the squares of what f32 factors can hold still fit. Deterministic, and
//! slow beyond ranks of a few hundred, which is no rank of an adapter.

use crate::mat::Matrix;

/// Rotations smaller than this are rounding.
const CONVERGED: f64 = 1e-15;
/// Jacobi converges quadratically: six to ten sweeps in practice.
const MAX_SWEEPS: usize = 60;

/// `sum_j sigma[j] left[j] right[j]t`, the largest first.
#[derive(Debug, Clone)]
pub(super) struct Svd {
    /// Singular values, at least 0, descending.
    pub(super) sigma: Vec<f64>,
    /// Left vectors, each of as many elements as the product has rows.
    pub(super) left: Vec<Vec<f64>>,
    /// Right vectors, each of as many elements as the product has columns.
    pub(super) right: Vec<Vec<f64>>,
}

/// Decomposes `scale * b a`.
///
/// # Shapes
/// `a` \[R x in\], `b` \[out x R\]; the result has min(R, in, out) terms.
pub(super) fn of_product(a: &Matrix, b: &Matrix, scale: f64) -> Svd {
    let rank = a.rows();
    let b_columns = (0..rank).map(|j| (0..b.rows()).map(|r| f64::from(b.row(r)[j])).collect());
    let a_rows = (0..rank).map(|j| a.row(j).iter().map(|v| f64::from(*v)).collect());
    let (qb, qa) = (
        Reflections::of(b_columns.collect()),
        Reflections::of(a_rows.collect()),
    );

    // Column i of the core: sum_j Rb[:, j] Ra[i, j].
    let (rows, columns) = (rank.min(b.rows()), rank.min(a.cols()));
    let mut core = vec![vec![0.0; rows]; columns];
    for (i, column) in core.iter_mut().enumerate() {
        for j in 0..rank {
            let weight = qa.reduced[j][i] * scale;
            for (c, r) in column.iter_mut().zip(&qb.reduced[j]) {
                *c += weight * r;
            }
        }
    }
    let (sigma, u, v) = jacobi(core);
    let terms = rows.min(columns);
    Svd {
        sigma: sigma[..terms].to_vec(),
        left: u[..terms].iter().map(|u| qb.apply(u)).collect(),
        right: v[..terms].iter().map(|v| qa.apply(v)).collect(),
    }
}

/// Householder reflections H1 H2 ... and the triangle they leave: `columns = H1 H2 ... reduced`.
struct Reflections {
    height: usize,
    /// Unit vectors; the k-th has k leading zeros.
    vectors: Vec<Vec<f64>>,
    /// The columns of R, cut to min(height, number of columns) elements.
    reduced: Vec<Vec<f64>>,
}

impl Reflections {
    fn of(mut columns: Vec<Vec<f64>>) -> Self {
        let height = columns.first().map_or(0, Vec::len);
        let steps = height.min(columns.len());
        let mut vectors = Vec::with_capacity(steps);
        for k in 0..steps {
            let mut v = vec![0.0; height];
            v[k..].copy_from_slice(&columns[k][k..]);
            let length = norm(&v);
            // Away from zero, so that nothing cancels; a zero column needs no reflection, and v stays zero.
            v[k] += length.copysign(v[k]);
            let size = norm(&v);
            if size > 0.0 {
                v.iter_mut().for_each(|x| *x /= size);
            }
            columns[k..].iter_mut().for_each(|c| reflect(c, &v));
            vectors.push(v);
        }
        columns.iter_mut().for_each(|c| c.truncate(steps));
        Self {
            height,
            vectors,
            reduced: columns,
        }
    }

    /// `Q x`, with `x` padded by zeros.
    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let mut y = x.to_vec();
        y.resize(self.height, 0.0);
        self.vectors.iter().rev().for_each(|v| reflect(&mut y, v));
        y
    }
}

/// `x -= 2 v (v . x)`
fn reflect(x: &mut [f64], v: &[f64]) {
    let twice = 2.0 * dot(x, v);
    x.iter_mut().zip(v).for_each(|(x, v)| *x -= twice * v);
}

/// One-sided Jacobi (Hestenes): rotates pairs of columns until all are orthogonal. Returns singular values,
/// left and right vectors, the largest first; the left vector of a zero is zero.
fn jacobi(mut columns: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let n = columns.len();
    let mut v: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| f64::from(i == j)).collect())
        .collect();
    // So that squares neither overflow nor vanish.
    let largest = columns
        .iter()
        .flatten()
        .fold(0.0_f64, |m, x| m.max(x.abs()));
    if largest > 0.0 {
        columns.iter_mut().flatten().for_each(|x| *x /= largest);
    }
    for _ in 0..MAX_SWEEPS {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let (pp, qq) = (dot(&columns[p], &columns[p]), dot(&columns[q], &columns[q]));
                let pq = dot(&columns[p], &columns[q]);
                if pq.abs() <= CONVERGED * pp.sqrt() * qq.sqrt() {
                    continue;
                }
                rotated = true;
                let zeta = (qq - pp) / (2.0 * pq);
                let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                rotate(&mut columns, p, q, cosine, cosine * tangent);
                rotate(&mut v, p, q, cosine, cosine * tangent);
            }
        }
        if !rotated {
            break;
        }
    }
    let lengths: Vec<f64> = columns.iter().map(|c| norm(c)).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| lengths[j].total_cmp(&lengths[i]));
    let sigma = order.iter().map(|&i| lengths[i] * largest).collect();
    let unit = |i: usize| {
        let by = if lengths[i] > 0.0 { lengths[i] } else { 1.0 };
        columns[i].iter().map(|x| x / by).collect()
    };
    let left = order.iter().map(|&i| unit(i)).collect();
    (sigma, left, order.iter().map(|&i| v[i].clone()).collect())
}

/// Columns `p` and `q` become `c p - s q` and `s p + c q`.
fn rotate(columns: &mut [Vec<f64>], p: usize, q: usize, cosine: f64, sine: f64) {
    let (head, tail) = columns.split_at_mut(q);
    for (x, y) in head[p].iter_mut().zip(&mut tail[0]) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding of a few dozen f64 operations on numbers near 1.
    const TOLERANCE: f64 = 1e-12;

    /// Reproducible numbers in (-1, 1) that no pattern of the algorithm meets.
    fn noise(seed: u64, rows: usize, cols: usize) -> Matrix {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        Matrix::from_vec((0..rows * cols).map(|_| next()).collect(), rows, cols)
    }

    fn check(a: &Matrix, b: &Matrix, scale: f64) -> Svd {
        let svd = of_product(a, b, scale);
        let size = svd
            .sigma
            .first()
            .copied()
            .unwrap_or(0.0)
            .max(f64::MIN_POSITIVE);
        assert!(svd.sigma.is_sorted_by(|x, y| x >= y), "{:?}", svd.sigma);
        for o in 0..b.rows() {
            for i in 0..a.cols() {
                let exact = |r| f64::from(b.row(o)[r]) * f64::from(a.row(r)[i]);
                let want = scale * (0..a.rows()).map(exact).sum::<f64>();
                let term = |j: usize| svd.sigma[j] * svd.left[j][o] * svd.right[j][i];
                let got = (0..svd.sigma.len()).map(term).sum::<f64>();
                assert!(
                    (got - want).abs() <= TOLERANCE * size,
                    "[{o}, {i}]: {got}, not {want}"
                );
            }
        }
        for j in 0..svd.sigma.len() {
            for k in 0..=j {
                let want = f64::from(j == k);
                let mut pairs = vec![dot(&svd.right[j], &svd.right[k])];
                if svd.sigma[j] > TOLERANCE * size {
                    pairs.push(dot(&svd.left[j], &svd.left[k]));
                }
                assert!(
                    pairs.iter().all(|p| (p - want).abs() < TOLERANCE),
                    "{j} {k}: {pairs:?}"
                );
            }
        }
        svd
    }

    #[test]
    fn products_of_every_shape_are_decomposed() {
        for (seed, (rank, width, height)) in [
            (1, 5, 7),
            (3, 9, 4),
            (8, 16, 12),
            (6, 4, 9),
            (6, 9, 4),
            (9, 3, 2),
            (32, 40, 33),
        ]
        .into_iter()
        .enumerate()
        {
            let (a, b) = (
                noise(seed as u64 + 1, rank, width),
                noise(seed as u64 + 50, height, rank),
            );
            check(&a, &b, -0.75);
        }
    }

    #[test]
    fn known_singular_values_are_found() {
        let a = Matrix::from_vec(vec![0.0, 3.0, 0.0, 4.0, 0.0, 0.0], 2, 3);
        let b = Matrix::from_vec(vec![0.0, 1.0, 0.0, 0.0, -2.0, 0.0], 3, 2);
        let svd = check(&a, &b, 2.0);
        assert!((svd.sigma[0] - 12.0).abs() < TOLERANCE && (svd.sigma[1] - 8.0).abs() < TOLERANCE);
    }

    #[test]
    fn collapsed_and_extreme_factors_are_no_exception() {
        let (a, b) = (noise(3, 4, 6), noise(4, 5, 4));
        let zero = Matrix::zeros(4, 6);
        assert!(check(&zero, &b, 1.0).sigma.iter().all(|s| *s == 0.0));
        assert!(
            check(&a, &Matrix::zeros(5, 4), 1.0)
                .sigma
                .iter()
                .all(|s| *s == 0.0)
        );
        // Two equal rows and a zero row: rank 2 of 4.
        let rows = [a.row(0), a.row(1), a.row(0), &[0.0; 6]].concat();
        let svd = check(&Matrix::from_vec(rows, 4, 6), &b, 1.0);
        assert!(svd.sigma[1] > 0.01 && svd.sigma[2] < TOLERANCE && svd.sigma[3] < TOLERANCE);
        for size in [1e-30_f32, 1e30] {
            let times = |m: &Matrix| {
                let v = m.as_slice().iter().map(|x| x * size).collect();
                Matrix::from_vec(v, m.rows(), m.cols())
            };
            check(&times(&a), &times(&b), f64::from(f32::MAX));
        }
        // Columns of very different lengths keep their small values to high relative accuracy.
        let b = Matrix::from_vec(vec![1.0, 0.0, 0.0, 1e-12], 2, 2);
        let a = Matrix::from_vec(vec![1.0, 1.0, 1.0, -1.0], 2, 2);
        let svd = of_product(&a, &b, 1.0);
        let small = f64::from(1e-12_f32) * 2f64.sqrt();
        assert!((svd.sigma[1] / small - 1.0).abs() < 1e-9, "{:?}", svd.sigma);
    }
}
