//! A layer norm with its weights.

use std::sync::Arc;

use crate::{
    kernel::norm::LayerNorm,
    mat::{Mat, MatMut},
};

/// `gamma (x - mean) / sqrt(var + eps) + beta`, row by row.
#[derive(Debug, Clone)]
pub struct Norm {
    /// `[H]`
    pub gamma: Arc<[f32]>,
    /// `[H]`
    pub beta: Option<Arc<[f32]>>,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm {
    /// Whether its weights were there to read.
    pub(super) fn is_complete(&self) -> bool {
        !self.gamma.is_empty() && self.beta.as_ref().is_none_or(|b| !b.is_empty())
    }

    fn kernel(&self) -> LayerNorm<'_> {
        LayerNorm {
            weight: &self.gamma,
            bias: self.beta.as_deref(),
            eps: self.eps,
        }
    }

    /// Norms every row of `x` in place.
    pub fn forward(&self, x: MatMut<'_>) {
        self.kernel().in_place(x, None);
    }

    /// `y = norm(x)`
    pub fn forward_into(&self, x: Mat<'_>, y: MatMut<'_>) {
        self.kernel().forward(x, y);
    }
}
