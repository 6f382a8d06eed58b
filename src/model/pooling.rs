//! Which kernel a pooling fact means.

use crate::{kernel::pool, mat::Mat, spec::Pooling};

/// One row for a sequence's rows `x [T x H]`, into `y [H]`.
pub fn forward(how: Pooling, x: Mat<'_>, y: &mut [f32]) {
    match how {
        Pooling::Cls => pool::row(x, 0, y),
        Pooling::Last => pool::row(x, x.rows() - 1, y),
        Pooling::Mean => pool::mean(x, y),
        Pooling::Max => pool::max(x, y),
    }
}
