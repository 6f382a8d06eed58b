//! A layer norm with its weights.

use std::sync::Arc;

use crate::{kernel, mat::MatMut};

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
    /// Norms every row of `x` in place.
    pub fn forward(&self, x: MatMut<'_>) {
        kernel::norm::layer_norm(x, &self.gamma, self.beta.as_deref(), self.eps);
    }
}
