//! A gate between two low-rank factors, folded away: `s B diag(g) A` as plain factors of the ranks that are left.
//!
//! SoRA's gates and AdaLoRA's singular values are the same thing at inference. A rank whose gate is zero adds
//! nothing and is dropped; the rest of the gate and the scale go into the columns of B, where a sign may be
//! negative and A keeps its rows as they were trained. Does not decide which format has a gate, or what it is called.

use super::Factors;
use crate::mat::Matrix;

/// Indices of the gates that are farther from zero than `eps`; `-0.0` is zero.
pub(super) fn live(gate: &[f32], eps: f32) -> Vec<usize> {
    (0..gate.len()).filter(|&j| gate[j].abs() > eps).collect()
}

/// `scale * B[:, keep] diag(gate[keep]) A[keep, :]` with everything but A folded into B; `None` where `keep` is empty.
///
/// # Shapes
/// `a` \[R x in\], `b` \[out x R\], `gate` \[R\]
pub(super) fn fold(
    a: &Matrix,
    b: &Matrix,
    gate: &[f32],
    keep: &[usize],
    scale: f32,
) -> Option<Factors> {
    if keep.is_empty() {
        return None;
    }
    let rank = keep.len();
    let kept_a = keep.iter().flat_map(|&j| a.row(j)).copied().collect();
    let factors: Vec<f32> = keep.iter().map(|&j| gate[j] * scale).collect();
    let mut kept_b = Vec::with_capacity(b.rows() * rank);
    for r in 0..b.rows() {
        let row = b.row(r);
        kept_b.extend(keep.iter().zip(&factors).map(|(&j, f)| row[j] * f));
    }
    Some(Factors {
        a: Matrix::from_vec(kept_a, rank, a.cols()),
        b: Matrix::from_vec(kept_b, b.rows(), rank),
        scale: 1.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_gates_go_and_signs_stay() {
        let a = Matrix::from_vec(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 2);
        let b = Matrix::from_vec(vec![1.0, 10.0, 100.0], 1, 3);
        let gate = [-0.5, -0.0, 2.0];
        let keep = live(&gate, 0.0);
        assert_eq!(keep, [0, 2]);
        let f = fold(&a, &b, &gate, &keep, 2.0).unwrap();
        assert_eq!(f.a.as_slice(), [1.0, 2.0, 5.0, 6.0]);
        assert_eq!(f.b.as_slice(), [-1.0, 400.0]);
        assert!(fold(&a, &b, &[0.0; 3], &[], 2.0).is_none());
        assert_eq!(live(&gate, 0.5), [2]);
    }
}
