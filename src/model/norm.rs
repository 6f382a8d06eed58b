//! A layer norm with its weights.

use std::sync::Arc;

use crate::{
    kernel::norm::LayerNorm,
    mat::{Mat, MatMut, Matrix},
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

    /// The gradient of [`Norm::forward_into`] at `x`: `dx` is written; `parameters` are the gradients of gamma and
    /// beta, `[1 x H]`, added to where they are wanted.
    pub fn backward(
        &self,
        x: Mat<'_>,
        dy: Mat<'_>,
        dx: MatMut<'_>,
        parameters: Option<&mut (Matrix, Matrix)>,
    ) {
        let Some((gamma, beta)) = parameters else {
            return self.kernel().backward(x, dy, dx, None, None);
        };
        let (mut gamma, mut beta) = (gamma.view_mut(), beta.view_mut());
        let (gamma, beta) = (gamma.row_mut(0), beta.row_mut(0));
        self.kernel().backward(x, dy, dx, Some(gamma), Some(beta));
    }

    /// `y = norm(x)`
    pub fn forward_into(&self, x: Mat<'_>, y: MatMut<'_>) {
        self.kernel().forward(x, y);
    }
}
