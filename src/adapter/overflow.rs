//! Factors that `f32` cannot hold, refused when they are read and not when a text is answered.
//!
//! That every tensor is finite is not enough: the scale is folded into B, and the update of an activation of norm 1 has
//! at most the norm `scale sum_r |b_r| |a_r|` (the triangle inequality over the ranks r; Cauchy-Schwarz makes it no
//! larger than `scale ||B|| ||A||`). Where one of these is beyond `f32`, answers are infinite or no numbers. Factors that
//! are merely large are taken.
//!
//! Not here: weights that overflow further up, for some text (`engine::Answer::Overflow`).

use std::path::Path;

use super::Factors;
use crate::{Error, Result};

impl Factors {
    /// An error about the tensors named `a` and `b` of the file at `path`, where these factors are not to be computed with.
    pub(super) fn refuse_overflow(&self, a: &str, b: &str, path: &Path) -> Result<()> {
        let scale = self.scale;
        let mut folded = self.b.as_slice().iter().map(|x| x * scale).enumerate();
        if let Some((at, value)) = folded.find(|(_, x)| !x.is_finite()) {
            let why = format!(
                "tensor {b} with its scale folded in holds {value} at element {at}: f32 ends at {:.1e}",
                f32::MAX
            );
            return Err(Error::format(path, why));
        }
        let bound = self.bound();
        if !(bound as f32).is_finite() {
            let why = format!(
                "tensors {a} and {b}: their product times {scale} has a norm of up to {bound:.1e}, and f32 ends at {:.1e}",
                f32::MAX
            );
            return Err(Error::format(path, why));
        }
        Ok(())
    }

    /// `|scale| sum_r |b_r| |a_r|` over the rows of A and the columns of B.
    fn bound(&self) -> f64 {
        let square = |x: &f32| f64::from(*x) * f64::from(*x);
        let mut columns = vec![0.0; self.rank()];
        for o in 0..self.b.rows() {
            let sums = columns.iter_mut().zip(self.b.row(o));
            sums.for_each(|(sum, x)| *sum += square(x));
        }
        let row = |r: usize| self.a.row(r).iter().map(square).sum::<f64>();
        let ranks = columns.iter().enumerate();
        let sum: f64 = ranks.map(|(r, b)| (b * row(r)).sqrt()).sum();
        sum * f64::from(self.scale.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mat::Matrix;

    fn refusal(a: [f32; 2], b: [f32; 2], scale: f32) -> Option<String> {
        let factors = Factors {
            a: Matrix::from_vec(a.to_vec(), 2, 1),
            b: Matrix::from_vec(b.to_vec(), 1, 2),
            scale,
        };
        let checked = factors.refuse_overflow("A", "B", Path::new("f"));
        checked.err().map(|e| e.to_string())
    }

    #[test]
    fn factors_that_overflow_when_folded_or_multiplied_are_refused_by_tensor_and_value() {
        let why = refusal([1.0, 1.0], [1.0, 1e38], 8.0).unwrap();
        assert!(
            why.contains("tensor B") && why.contains("inf at element 1"),
            "{why}"
        );
        let why = refusal([1e20, 1.0], [1e20, 1.0], 0.5).unwrap();
        assert!(why.contains("A and B") && why.contains("5.0e39"), "{why}");
        assert!(refusal([1.0; 2], [f32::NAN, 1.0], 1.0).is_some());
        assert!(refusal([1.0; 2], [1.0; 2], f32::INFINITY).is_some());
    }

    #[test]
    fn factors_that_are_merely_large_are_taken() {
        assert_eq!(refusal([1e37, 1e37], [1.0, 1.0], 1.0), None);
        assert_eq!(refusal([1e-30, 1.0], [1e38, 1.0], 2.0), None);
        // The large row meets the small column: the product of the norms of the whole factors would be beyond.
        assert_eq!(refusal([1e30, 0.0], [1.0, 1e30], 1.0), None);
        assert_eq!(refusal([0.0; 2], [0.0; 2], 0.0), None);
    }
}
