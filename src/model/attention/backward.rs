//! The gradient of attention of every sequence, and of the projected position tables it read.

use super::{SCRATCH, sequence};
use crate::{
    kernel::attention::{Gradients, PositionTables},
    mat::{Mat, MatMut, Matrix},
    model::{
        attention::LayerPositions,
        backward::Recorded,
        block::{Block, Pass},
        linear::backward::{InputGradient, Trained, Transposed},
    },
};

/// The gradient of q|k|v before any turn, `dqkv [T x 3H]`, from that of the context, `dout [T x H]`.
///
/// `qkv` is what attention read (after the turn). Where the layer has relative positions, `own` is what is trained of the
/// linear that projects them; `recorded` knows what weights were dropped.
pub fn backward<R: Recorded>(
    block: &Block,
    pass: Pass<'_>,
    layer: usize,
    qkv: Mat<'_>,
    dout: Mat<'_>,
    mut dqkv: MatMut<'_>,
    transposed: &Transposed,
    own: Trained<'_, '_>,
    recorded: &R,
) {
    let h = dout.cols();
    let mut tables = Tables::of(block, pass);
    for s in 0..pass.batch.sequences() {
        let rows = pass.batch.rows(s);
        let dropout = recorded.attention_dropout(layer, s);
        let call = sequence(block, pass, layer, s, qkv, dropout);
        let part = dqkv.reborrow().row_range(rows.clone());
        let (dq, rest) = part.split_cols(h);
        let (dk, dv) = rest.split_cols(h);
        let (read, position_keys, position_queries) = tables.parts();
        let to = Gradients {
            dq,
            dk,
            dv,
            position_keys,
            position_queries,
        };
        let dout = dout.row_range(rows.clone());
        SCRATCH.with_borrow_mut(|scratch| {
            call.backward(0..pass.heads, read, dout, to, scratch);
        });
        if let LayerPositions::Rotary(rotary) = &block.positions {
            let turned = dqkv.reborrow().row_range(rows);
            rotary.backward(turned.col_range(0..2 * h));
        }
    }
    if let (Some(tables), LayerPositions::Relative(relative)) = (tables.0, &block.positions) {
        // tables = table Wt, by the key and query columns
        let d = tables.d.view();
        let linear = block.projects_positions();
        linear.backward(
            transposed,
            relative.table.view(),
            d,
            own,
            InputGradient::None,
        );
    }
}

/// The projected tables of a layer with relative positions, and their gradients: whole rows of the projection.
struct Tables(Option<Projected>);

struct Projected {
    out: Matrix,
    d: Matrix,
    keys: std::ops::Range<usize>,
    queries: std::ops::Range<usize>,
}

impl Tables {
    fn of(block: &Block, pass: Pass<'_>) -> Self {
        let LayerPositions::Relative(relative) = &block.positions else {
            return Self(None);
        };
        let task = pass.batch.groups().first().map(|g| pass.tasks[g.task]);
        let (out, keys, queries) = relative.projection(block, pass.packed, task);
        let d = Matrix::zeros(out.rows(), out.cols());
        Self(Some(Projected {
            out,
            d,
            keys: if relative.c2p { keys } else { 0..0 },
            queries: if relative.p2c { queries } else { 0..0 },
        }))
    }

    #[allow(clippy::type_complexity)] // one place, taken apart at once
    fn parts(&mut self) -> (PositionTables<'_>, Option<MatMut<'_>>, Option<MatMut<'_>>) {
        let Some(p) = &mut self.0 else {
            return (PositionTables::default(), None, None);
        };
        let table = |range: &std::ops::Range<usize>| {
            (!range.is_empty()).then(|| p.out.view().col_range(range.clone()))
        };
        let read = PositionTables {
            keys: table(&p.keys),
            queries: table(&p.queries),
        };
        let d = p.d.view_mut();
        // Queries stand before keys where the layer's own projections are shared, after them otherwise.
        let (keys, queries) = match (p.keys.is_empty(), p.queries.is_empty()) {
            (true, true) => (None, None),
            (false, true) => (Some(d.col_range(p.keys.clone())), None),
            (true, false) => (None, Some(d.col_range(p.queries.clone()))),
            (false, false) if p.queries.start < p.keys.start => {
                let (queries, keys) = d.split_cols(p.keys.start);
                let width = p.keys.len();
                (
                    Some(keys.col_range(0..width)),
                    Some(queries.col_range(p.queries.clone())),
                )
            }
            (false, false) => {
                let (keys, queries) = d.split_cols(p.queries.start);
                let width = p.queries.len();
                (
                    Some(keys.col_range(p.keys.clone())),
                    Some(queries.col_range(0..width)),
                )
            }
        };
        (read, keys, queries)
    }
}
