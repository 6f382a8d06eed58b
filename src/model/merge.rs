//! Merging one adapter into the base, in place and exactly reversibly.
//!
//! The packed base is a private copy-on-write mapping: merging writes `W += s B A` into the panels of adapted
//! linears, and unmerging drops those private pages, so the file's bytes are back, bit for bit, however
//! often it is done. A merged model is another type: it runs its one task and no other, so that no
//! request can be answered from the wrong weights.

use std::sync::Arc;

use super::{Batch, Hook, Model, Task, linear::LowRank};
use crate::{
    error::{Error, Result},
    kernel::panel::{self, Piece, Precision},
    mat::Matrix,
    weights::Packed,
};

/// Panels that a thread merges into at a time: a quarter of the smallest linear of BERT-base.
const PIECE_PANELS: usize = 12;

/// A model with one task's factors in its weights.
#[derive(Debug)]
pub struct Merged {
    model: Model,
    task: Task,
}

impl Merged {
    /// Merges `task` into `model`. To keep an unmerged model as well, merge a [`Model::fork`]: it costs only the
    /// pages that are written.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an int8 base: rounding to int8 again would change more than the adapter does.
    pub fn new(mut model: Model, task: &Task) -> Result<Merged> {
        if model.packed.precision() == Precision::Int8 {
            return Err(Error::unsupported(
                model.tensors.path(),
                "merging into int8 weights",
                "rounding the sum to int8 again would change it; merge at f32 or bf16",
            ));
        }
        add(&mut model.packed, &task.factors);
        let task = Task {
            factors: Vec::new(),
            ..task.clone()
        };
        Ok(Merged { model, task })
    }

    /// The base again, bit for bit as it was.
    pub fn unmerge(self) -> Result<Model> {
        let mut model = self.model;
        model.packed.restore()?;
        Ok(model)
    }

    /// The merged task: its factors are in the weights, its head and labels are here.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// The model, for reading.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// As [`Model::forward`], every row through the merged weights. `batch` names task 0 throughout.
    pub fn forward<H: Hook>(&self, batch: &Batch, hook: &mut H) -> Matrix {
        self.model.forward(batch, &[&self.task], hook)
    }
}

impl Model {
    /// A second model over the same packed file, with pages of its own where it is written to.
    pub fn fork(&self) -> Result<Model> {
        Ok(Model {
            spec: self.spec.clone(),
            sentence: self.sentence.clone(),
            source: self.source.clone(),
            tensors: self.tensors.clone(),
            prefix: self.prefix,
            sites: self.sites.clone(),
            packed: self.packed.fork()?,
            embedding: self.embedding.clone(),
            blocks: self.blocks.clone(),
            final_norm: self.final_norm.clone(),
            workspaces: Default::default(),
        })
    }
}

/// `W += (s B) A` for every part of every linear, on the threads of the current pool.
fn add(packed: &mut Packed, factors: &[Option<LowRank>]) {
    for (slot, factors) in factors.iter().enumerate() {
        for part in factors.iter().flat_map(|factors| &factors.parts) {
            packed.own_pages(slot, packed.shape(slot).bytes_of(&part.columns));
        }
    }
    let shapes: Vec<_> = (0..packed.slots()).map(|slot| packed.shape(slot)).collect();
    let slots = packed.all_panels_mut().into_iter().zip(shapes);
    rayon::scope(|scope| {
        for ((bytes, shape), factors) in slots.zip(factors) {
            let Some(factors) = factors else { continue };
            let ups: Vec<_> = factors.parts.iter().map(|part| part.up.unpack()).collect();
            let ups = Arc::new(ups);
            for piece in panel::pieces(bytes, shape, PIECE_PANELS) {
                let ups = Arc::clone(&ups);
                scope.spawn(move |_| add_to_piece(piece, factors, &ups));
            }
        }
    });
}

/// The parts of a linear's factors that change the columns of `piece`; `ups` are their B.
fn add_to_piece(piece: Piece<'_>, factors: &LowRank, ups: &[Matrix]) {
    let Piece {
        columns: here,
        shape,
        bytes,
    } = piece;
    for (part, up) in factors.parts.iter().zip(ups) {
        let own = part.columns.start.max(here.start)..part.columns.end.min(here.end);
        if own.start < own.end {
            let up = up.view();
            let up = up.row_range(own.start - part.columns.start..own.end - part.columns.start);
            let down = factors.down.view().row_range(part.ranks.clone());
            let columns = own.start - here.start..own.end - here.start;
            panel::add_low_rank(bytes, shape, columns, up, down);
        }
    }
}
