//! The embedding layer: rows of the checkpoint's tables, summed, normed, projected.
//!
//! Tables are read where they lie, in the mapped checkpoint, in its own storage type; nothing is copied at load. A trainer
//! that changes them has its own.

pub mod backward;

use std::sync::Arc;

use crate::{
    mat::{Mat, MatMut, Matrix},
    model::{
        batch::Batch,
        linear::{Epilogue, Linear},
        norm::Norm,
        parameters::TableAt,
        task::{Task, factors_at},
    },
    spec::{EncoderSpec, Positions},
    weights::{Packed, Table},
};

/// The embedding layer.
#[derive(Debug, Clone)]
pub struct Embedding {
    word: Rows,              // [V x E]
    position: Option<Rows>,  // [rows x E]
    types: Option<Rows>,     // [types x E]
    norm: Option<Norm>,      // [E]
    project: Option<Linear>, // [H x E]
    positions: Positions,
    pad: u32,
}

/// A table: where it lies in the checkpoint, or a trainer's own.
#[derive(Debug, Clone)]
enum Rows {
    File(Arc<Table>),
    Own(Matrix),
}

impl Rows {
    fn shape(&self) -> (usize, usize) {
        match self {
            Rows::File(table) => (table.rows(), table.cols()),
            Rows::Own(table) => (table.rows(), table.cols()),
        }
    }

    fn row(&self, i: usize, out: &mut [f32]) {
        match self {
            Rows::File(table) => table.row(i, out),
            Rows::Own(table) => out.copy_from_slice(table.row(i)),
        }
    }
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
            word: Rows::File(Arc::new(parts.word)),
            position: parts.position.map(|t| Rows::File(Arc::new(t))),
            types: parts.types.map(|t| Rows::File(Arc::new(t))),
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
        let mut w = wide.reshape(batch.tokens(), self.width());
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

    /// E: the width of the tables.
    fn width(&self) -> usize {
        self.word.shape().1
    }

    /// The projection to the hidden width.
    pub(super) fn linear(&self) -> Option<&Linear> {
        self.project.as_ref()
    }

    pub(super) fn linear_mut(&mut self) -> Option<&mut Linear> {
        self.project.as_mut()
    }

    /// The norm of the sum.
    pub(super) fn norm(&self) -> Option<&Norm> {
        self.norm.as_ref()
    }

    pub(super) fn norm_mut(&mut self) -> Option<&mut Norm> {
        self.norm.as_mut()
    }

    /// The tables there are, with rows and columns.
    pub(super) fn tables(&self) -> impl Iterator<Item = (TableAt, usize, usize)> {
        let others = [
            (TableAt::Position, &self.position),
            (TableAt::Types, &self.types),
        ];
        let others = others
            .into_iter()
            .filter_map(|(at, t)| Some((at, t.as_ref()?)));
        let all = [(TableAt::Word, &self.word)].into_iter().chain(others);
        all.map(|(at, t)| (at, t.shape().0, t.shape().1))
    }

    /// Puts `value` in the place of a table.
    pub(super) fn set_table(&mut self, at: TableAt, value: Mat<'_>) {
        let table = match at {
            TableAt::Word => Some(&mut self.word),
            TableAt::Position => self.position.as_mut(),
            TableAt::Types => self.types.as_mut(),
        };
        let table = table.expect("a table that is trained is there");
        assert_eq!(table.shape(), (value.rows(), value.cols()), "a table");
        match table {
            Rows::Own(own) => own.view_mut().copy_from(value),
            Rows::File(_) => {
                let mut own = Matrix::zeros(value.rows(), value.cols());
                own.view_mut().copy_from(value);
                *table = Rows::Own(own);
            }
        }
    }

    /// `x [T x E]`: the sum of the rows, normed.
    fn rows(&self, batch: &Batch, mut x: MatMut<'_>) {
        self.sums(batch, x.reborrow());
        if let Some(norm) = &self.norm {
            norm.forward(x);
        }
    }

    fn sums(&self, batch: &Batch, mut x: MatMut<'_>) {
        let mut scratch = vec![0.0; x.cols()];
        self.each(batch, |t, at, row| {
            let (table, first) = match at {
                TableAt::Word => (Some(&self.word), true),
                TableAt::Position => (self.position.as_ref(), false),
                TableAt::Types => (self.types.as_ref(), false),
            };
            let table = table.expect("`each` names tables that are there");
            match first {
                true => table.row(row, x.row_mut(t)),
                false => add_row(table, row, x.row_mut(t), &mut scratch),
            }
        });
    }

    /// Calls `f` with every token, table and row of it that the token reads: words, types, positions.
    fn each(&self, batch: &Batch, mut f: impl FnMut(usize, TableAt, usize)) {
        for s in 0..batch.sequences() {
            let mut counted = 0; // tokens so far that are not padding
            for (i, t) in batch.rows(s).enumerate() {
                let id = batch.ids()[t];
                f(t, TableAt::Word, id as usize);
                if self.types.is_some() {
                    f(t, TableAt::Types, batch.types()[t] as usize);
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
                if let (Some(position), true) = (position, self.position.is_some()) {
                    f(t, TableAt::Position, position);
                }
            }
        }
    }

    /// The word table's rows, V: ids at or above it are refused at admission.
    pub fn vocab(&self) -> usize {
        self.word.shape().0
    }
}

/// `y += table[row]`
fn add_row(table: &Rows, row: usize, y: &mut [f32], scratch: &mut [f32]) {
    table.row(row, scratch);
    for (y, x) in y.iter_mut().zip(scratch.iter()) {
        *y += x;
    }
}
