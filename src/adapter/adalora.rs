//! AdaLoRA (`W + B (A o E) s`) as plain factors: the singular values E go into B, and the ones at zero go away.
//!
//! PEFT divides by the rank the module *began* with (`init_r + 1e-5`), whatever its budget left of it; that scale
//! is given from outside. A zero singular value, of either sign, is a rank the allocator took away. Reads no
//! files.

use super::{Factors, gate};
use crate::mat::Matrix;

/// The factors of `B diag(e) A` times `scale`; `None` where every singular value is zero.
///
/// # Shapes
/// `a` \[R x in\], `b` \[out x R\], `e` \[R\]
pub(super) fn fold(a: &Matrix, b: &Matrix, e: &[f32], scale: f32) -> Option<Factors> {
    let keep = gate::live(e, 0.0);
    gate::fold(a, b, e, &keep, scale)
}

#[cfg(test)]
mod tests;
