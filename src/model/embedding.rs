//! The embedding layer: rows of the checkpoint's tables, summed, normed, projected.
//!
//! Tables are read where they lie, in the mapped checkpoint, in its own storage type; nothing is copied at load.

use std::sync::Arc;

use crate::{
    mat::{Mat, MatMut, Matrix},
    model::{
        backward::Gradients,
        batch::Batch,
        linear::{
            Epilogue, Linear,
            backward::{InputGradient, LowRankGradient, Transposed},
        },
        norm::Norm,
        task::{Task, factors_at},
    },
    spec::{EncoderSpec, Positions},
    weights::{Packed, Table},
};

/// The embedding layer.
#[derive(Debug, Clone)]
pub struct Embedding {
    word: Arc<Table>,             // [V x E]
    position: Option<Arc<Table>>, // [rows x E]
    types: Option<Arc<Table>>,    // [types x E]
    norm: Option<Norm>,           // [E]
    project: Option<Linear>,      // [H x E]
    positions: Positions,
    pad: u32,
}

/// What the loader found for an embedding layer.
#[derive(Debug)]
pub struct EmbeddingParts {
    /// Word table.
    pub word: Table,
    /// Position table.
    pub position: Option<Table>,
    /// Token-type table.
    pub types: Option<Table>,
    /// Norm of the sum.
    pub norm: Option<Norm>,
    /// Projection to the hidden width.
    pub project: Option<Linear>,
}

impl Embedding {
    /// Puts the parts together as `spec` says.
    pub fn new(spec: &EncoderSpec, parts: EmbeddingParts) -> Self {
        Self {
            word: Arc::new(parts.word),
            position: parts.position.map(Arc::new),
            types: parts.types.map(Arc::new),
            norm: parts.norm,
            project: parts.project,
            positions: spec.embed.positions,
            pad: spec.pad_id,
        }
    }

    /// Fills `x [T x H]`. `wide` is scratch where the tables are not H wide.
    pub fn forward(
        &self,
        batch: &Batch,
        packed: &Packed,
        tasks: &[&Task],
        wide: &mut Matrix,
        x: MatMut<'_>,
        threads: usize,
    ) {
        let Some(project) = &self.project else {
            return self.rows(batch, x);
        };
        let mut w = wide.reshape(batch.tokens(), self.word.cols());
        self.rows(batch, w.reborrow());
        let groups = project
            .slot
            .map(|s| factors_at(batch, tasks, s))
            .unwrap_or_default();
        project.forward(packed, w.as_ref(), &groups, Epilogue::default(), x, threads);
    }

    /// The slot of the projection to the hidden width, where there is one.
    pub fn slot(&self) -> Option<usize> {
        self.project.as_ref()?.slot
    }

    /// The gradient of what `task` adds to the projection, given that of [`Embedding::forward`]'s answer, `d [T x H]`.
    pub fn backward(
        &self,
        batch: &Batch,
        task: &Task,
        transposed: &Transposed,
        d: Mat<'_>,
        gradients: &mut Gradients,
    ) {
        let Some((project, slot)) = self.project.as_ref().zip(self.slot()) else {
            return;
        };
        let Some(factors) = task.factors.get(slot).and_then(Option::as_ref) else {
            return;
        };
        let mut wide = Matrix::zeros(batch.tokens(), self.word.cols());
        self.rows(batch, wide.view_mut());
        let gradient =
            gradients.factors[slot].get_or_insert_with(|| LowRankGradient::zeros(factors));
        // x = wide Wt
        let own = Some((factors, gradient));
        project.backward(transposed, wide.view(), d, own, InputGradient::None);
    }

    fn rows(&self, batch: &Batch, mut x: MatMut<'_>) {
        let mut scratch = vec![0.0; x.cols()];
        for s in 0..batch.sequences() {
            let mut counted = 0; // tokens so far that are not padding
            for (i, t) in batch.rows(s).enumerate() {
                let id = batch.ids()[t];
                let row = x.row_mut(t);
                self.word.row(id as usize, row);
                if let Some(types) = &self.types {
                    add_row(types, batch.types()[t] as usize, row, &mut scratch);
                }
                let position = match self.positions {
                    Positions::None => None,
                    Positions::FromZero { .. } => Some(i),
                    Positions::FromPad { .. } if id == self.pad => Some(self.pad as usize),
                    Positions::FromPad { .. } => {
                        counted += 1;
                        Some(self.pad as usize + counted)
                    }
                };
                if let (Some(position), Some(table)) = (position, &self.position) {
                    add_row(table, position, row, &mut scratch);
                }
            }
        }
        if let Some(norm) = &self.norm {
            norm.forward(x);
        }
    }

    /// The word table's rows, V: ids at or above it are refused at admission.
    pub fn vocab(&self) -> usize {
        self.word.rows()
    }
}

/// `y += table[row]`
fn add_row(table: &Table, row: usize, y: &mut [f32], scratch: &mut [f32]) {
    table.row(row, scratch);
    for (y, x) in y.iter_mut().zip(scratch.iter()) {
        *y += x;
    }
}
