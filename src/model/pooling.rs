//! Which kernel a pooling fact means.

use crate::{
    kernel::pool,
    mat::{Mat, MatMut},
    spec::Pooling,
};

/// One row for a sequence's rows `x [T x H]`, into `y [H]`.
pub fn forward(how: Pooling, x: Mat<'_>, y: &mut [f32]) {
    match how {
        Pooling::Cls => pool::row(x, 0, y),
        Pooling::Last => pool::row(x, x.rows() - 1, y),
        Pooling::Mean => pool::mean(x, y),
        Pooling::Max => pool::max(x, y),
    }
}

/// The gradient of [`forward`] at `x`: all of `dx [T x H]` is written.
pub fn backward(how: Pooling, x: Mat<'_>, dy: &[f32], dx: MatMut<'_>) {
    match how {
        Pooling::Cls => pool::row_backward(0, dy, dx),
        Pooling::Last => pool::row_backward(x.rows() - 1, dy, dx),
        Pooling::Mean => pool::mean_backward(dy, dx),
        Pooling::Max => pool::max_backward(x, dy, dx),
    }
}
