//! A classification head: an optional dense layer with its activation and norm, then the output layer.
//!
//! Heads belong to tasks: their weights are `f32` on the heap, shared where the base's are used. Pooling
//! happens before (`model::forward`), meaning of the logits after (`engine::answer`).

pub mod backward;

use crate::{
    kernel::activation::Activation,
    mat::{Mat, Matrix},
    model::{
        linear::{Epilogue, Linear},
        norm::Norm,
    },
    spec::Pooling,
    weights::Packed,
};

/// The layers of a head.
#[derive(Debug, Clone)]
pub struct Head {
    /// How a sequence becomes one row (unused by token heads).
    pub pool: Pooling,
    /// The layer before the output layer.
    pub dense: Option<Dense>,
    /// `[labels x H]`
    pub out: Linear,
}

/// The dense layer of a head.
#[derive(Debug, Clone)]
pub struct Dense {
    /// `[H x H]`
    pub linear: Linear,
    /// Its activation.
    pub activation: Activation,
    /// A norm after the activation.
    pub norm: Option<Norm>,
}

impl Head {
    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        match &self.out.weight {
            crate::model::linear::Weight::Own(w) => w.shape().n,
            crate::model::linear::Weight::Base(_) => unreachable!("head weights are a task's own"),
        }
    }

    /// Logits of the rows `x [R x H]`: `[R x labels]`.
    pub fn forward(&self, packed: &Packed, x: Mat<'_>) -> Matrix {
        let mut hidden = Matrix::default();
        let x = match &self.dense {
            None => x,
            Some(dense) => {
                let epilogue = Epilogue {
                    activation: Some(dense.activation),
                    residual: None,
                };
                let mut y = hidden.reshape(x.rows(), x.cols());
                dense
                    .linear
                    .forward(packed, x, &[], epilogue, y.reborrow(), 1);
                if let Some(norm) = &dense.norm {
                    norm.forward(y);
                }
                hidden.view()
            }
        };
        let mut logits = Matrix::zeros(x.rows(), self.outputs());
        self.out
            .forward(packed, x, &[], Epilogue::default(), logits.view_mut(), 1);
        logits
    }
}
