//! Ranks that are closed and asked whether they would open: the gradient of a gate that is 0.
//!
//! With `y += g (x a) b`, g = 0, forward owes such a rank nothing, and of backward only `dg = sum over tokens of (x a)(dy b)` is
//! not zero: two products of the five that an open rank takes, and no change to `dx`.

use std::{ops::Range, sync::Arc};

use crate::{
    kernel::{outer::BLOCK, ranks::ranks_into},
    mat::{Mat, Matrix},
};

/// The closed ranks of one linear.
#[derive(Debug, Clone)]
pub struct ClosedRanks {
    /// Rows of A, stacked: `[R x K]`.
    pub down: Matrix,
    /// Rows of B transposed, `[ranks x columns]`, with the columns of the linear and the rows of `down` they belong to.
    pub parts: Vec<(Range<usize>, Range<usize>, Matrix)>,
}

/// Closed ranks and the gradients of their gates.
#[derive(Debug, Clone)]
pub struct Probe {
    ranks: Arc<ClosedRanks>,
    /// One a row of `down`; the scale is not in it.
    pub gates: Vec<f64>,
}

impl Probe {
    /// Gradients of zero.
    pub fn new(ranks: &Arc<ClosedRanks>) -> Self {
        Self {
            ranks: Arc::clone(ranks),
            gates: vec![0.0; ranks.down.rows()],
        }
    }

    /// Adds the gradients over the rows of `x [T x K]`, given `dy [T x N]`.
    pub fn add(&mut self, x: Mat<'_>, dy: Mat<'_>) {
        let ClosedRanks { down, parts } = &*self.ranks;
        let (mut t, mut u) = (Matrix::default(), Matrix::default());
        for start in (0..x.rows()).step_by(BLOCK) {
            let rows = start..x.rows().min(start + BLOCK);
            let (x, dy) = (x.row_range(rows.clone()), dy.row_range(rows.clone()));
            ranks_into(x, down.view(), t.reshape(rows.len(), down.rows()));
            let mut all = u.reshape(rows.len(), down.rows());
            for (columns, ranks, up) in parts {
                let u = all.reborrow().col_range(ranks.clone());
                ranks_into(dy.col_range(columns.clone()), up.view(), u);
            }
            for r in 0..rows.len() {
                let products = t.row(r).iter().zip(u.row(r));
                let gates = self.gates.iter_mut().zip(products);
                gates.for_each(|(g, (&t, &u))| *g += f64::from(t) * f64::from(u));
            }
        }
    }

    /// Adds another's gradients.
    pub fn join(&mut self, other: &Probe) {
        let gates = self.gates.iter_mut().zip(&other.gates);
        gates.for_each(|(to, from)| *to += from);
    }
}
