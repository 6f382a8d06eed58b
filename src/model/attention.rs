//! Attention of every sequence of a batch: which kernel call a layer's facts mean.
//!
//! What depends on weights besides q, k and v are the projected tables of relative positions. They are made
//! once: the base's when it is loaded, a task's when it is bound, because an adapter on q or k changes them too.

pub mod backward;

use std::{cell::RefCell, ops::Range, sync::Arc};

use super::{
    block::{Block, Pass},
    hook::Hook,
    linear::{Epilogue, GroupFactors},
    task::Task,
};
use crate::{
    kernel::{
        attention::{Attention, Positions, Relative, Scratch},
        bucketed::DistanceBias,
        dropout::Dropout,
        relative::{Distances, PositionPanels},
        rotary::Rotary,
    },
    mat::{Mat, MatMut, Matrix},
    weights::Packed,
};

/// What a layer's attention knows of positions, ready to use.
#[derive(Debug, Clone)]
pub enum LayerPositions {
    /// Nothing.
    None,
    /// Turns q and k.
    Rotary(Arc<Rotary>),
    /// Adds a bias a head and distance.
    Bucketed(Arc<DistanceBias>),
    /// Adds disentangled terms.
    Relative(RelativePositions),
}

/// Relative positions of one layer.
#[derive(Debug, Clone)]
pub struct RelativePositions {
    /// Which row a distance reads.
    pub distances: Arc<Distances>,
    /// The table of relative embeddings, normed: `[2 span x H]`.
    pub table: Arc<Matrix>,
    /// Content to position.
    pub c2p: bool,
    /// Position to content.
    pub p2c: bool,
    /// The base's projections.
    pub base: Arc<ProjectedPositions>,
}

/// The table of relative embeddings, projected.
#[derive(Debug, Default)]
pub struct ProjectedPositions {
    /// By the key weights, where content reads positions.
    pub keys: Option<PositionPanels>,
    /// By the query weights, where positions read content.
    pub queries: Option<PositionPanels>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl RelativePositions {
    /// Projects the table through the linear that `block` has for it, with the factors a task has there.
    pub fn project(
        &self,
        block: &Block,
        packed: &Packed,
        heads: usize,
        task: Option<&Task>,
    ) -> ProjectedPositions {
        let (out, keys, queries) = self.projection(block, packed, task);
        let precision = packed.precision().between_activations();
        let panels = |columns| PositionPanels::new(precision, out.view().col_range(columns), heads);
        ProjectedPositions {
            keys: self.c2p.then(|| panels(keys)),
            queries: self.p2c.then(|| panels(queries)),
        }
    }

    /// The table through that linear, whole, and the columns of it that are keys and queries.
    fn projection(
        &self,
        block: &Block,
        packed: &Packed,
        task: Option<&Task>,
    ) -> (Matrix, Range<usize>, Range<usize>) {
        let (rows, h) = (self.table.rows(), self.table.cols());
        let linear = block.projects_positions();
        let factors = linear
            .slot
            .and_then(|slot| task?.factors.get(slot)?.as_ref());
        let groups = factors.map(|factors| GroupFactors {
            rows: 0..rows,
            factors,
            input: None,
        });
        let groups: Vec<_> = groups.into_iter().collect();
        let own = block.own_positions.is_some();
        // Own projections stand as key | query, each only where it is used; a layer's as query | key | value.
        let (width, keys, queries) = match own {
            true => {
                let key = if self.c2p { h } else { 0 };
                let query = if self.p2c { h } else { 0 };
                (key + query, 0..key, key..key + query)
            }
            false => (3 * h, h..2 * h, 0..h),
        };
        let mut out = Matrix::zeros(rows, width);
        let (x, none) = (self.table.view(), Epilogue::default());
        linear.forward(packed, x, &groups, none, out.view_mut(), 1);
        (out, keys, queries)
    }
}

/// What happens to q and k before attention: rotary positions.
pub fn turn(block: &Block, pass: Pass<'_>, mut qkv: MatMut<'_>) {
    let LayerPositions::Rotary(rotary) = &block.positions else {
        return;
    };
    let h = qkv.cols() / 3;
    for s in 0..pass.batch.sequences() {
        let rows = qkv.reborrow().row_range(pass.batch.rows(s));
        rotary.apply(rows.col_range(0..2 * h)); // q's heads, then k's
    }
}

/// Attention over `qkv [T x 3H]`, sequence by sequence, into `out [T x H]`.
pub fn forward<H: Hook>(
    block: &Block,
    pass: Pass<'_>,
    layer: usize,
    qkv: Mat<'_>,
    out: MatMut<'_>,
    hook: &H,
) {
    if pass.threads <= 1 {
        let mut rest = out;
        for s in 0..pass.batch.sequences() {
            let (rows, below) = rest.split_rows(pass.batch.rows(s).len());
            rest = below;
            let dropout = hook.attention_dropout(layer, s);
            let call = sequence(block, pass, layer, s, qkv, dropout);
            SCRATCH.with_borrow_mut(|scratch| call.forward(rows, scratch));
        }
        return;
    }
    let d = out.cols() / pass.heads;
    let sequences = 0..pass.batch.sequences();
    let dropouts = sequences
        .map(|s| hook.attention_dropout(layer, s))
        .collect::<Vec<_>>();
    rayon::scope(|scope| {
        let mut rest = out;
        for s in 0..pass.batch.sequences() {
            let (mut rows, below) = rest.split_rows(pass.batch.rows(s).len());
            rest = below;
            let call = sequence(block, pass, layer, s, qkv, dropouts[s]);
            let parts = pass.threads.min(pass.heads);
            for part in 0..parts {
                let heads = pass.heads * part / parts..pass.heads * (part + 1) / parts;
                let (columns, right) = rows.split_cols(heads.len() * d);
                rows = right;
                scope.spawn(move |_| {
                    let queries = 0..call.q.rows();
                    SCRATCH.with_borrow_mut(|scratch| call.part(heads, queries, columns, scratch));
                });
            }
        }
    });
}

/// The kernel call of sequence `s`.
fn sequence<'a>(
    block: &'a Block,
    pass: Pass<'a>,
    layer: usize,
    s: usize,
    qkv: Mat<'a>,
    dropout: Option<Dropout>,
) -> Attention<'a> {
    let rows = qkv.row_range(pass.batch.rows(s));
    let h = qkv.cols() / 3;
    let d = h / pass.heads;
    let (positions, scale) = match &block.positions {
        LayerPositions::None | LayerPositions::Rotary(_) => (Positions::None, plain_scale(d)),
        LayerPositions::Bucketed(bias) => (Positions::Bucketed(bias), plain_scale(d)),
        LayerPositions::Relative(relative) => {
            let task = pass.tasks[pass.batch.task_of(s)];
            let projected = task.positions.get(layer).and_then(Option::as_deref);
            let projected = projected.unwrap_or(&relative.base);
            let relative = Relative {
                distances: &relative.distances,
                keys: projected.keys.as_ref(),
                queries: projected.queries.as_ref(),
            };
            (Positions::Relative(relative), relative.scale(d))
        }
    };
    Attention {
        q: rows.col_range(0..h),
        k: rows.col_range(h..2 * h),
        v: rows.col_range(2 * h..3 * h),
        heads: pass.heads,
        scale,
        window: block.spec.window,
        positions,
        dropout,
        precision: pass.packed.precision().between_activations(),
    }
}

fn plain_scale(d: usize) -> f32 {
    1.0 / (d as f32).sqrt()
}
