//! Merging one adapter into the base, in place and exactly reversibly.
//!
//! The packed base is a private copy-on-write mapping: merging writes `W += s B A` into the panels of adapted
//! linears, and unmerging drops those private pages, so the file's bytes are back, bit for bit, however
//! often it is done. A merged model is another type: it runs its one task and no other, so that no
//! request can be answered from the wrong weights.

use super::{Batch, Hook, Model, Task, linear::LowRank};
use crate::{
    error::{Error, Result},
    kernel::{
        gemm::gemm,
        panel::{self, Precision},
    },
    mat::Matrix,
};

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
        for (slot, factors) in task.factors.iter().enumerate() {
            if let Some(factors) = factors {
                add(&mut model, slot, factors);
            }
        }
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

/// `W += (s B) A` for every part of one linear.
fn add(model: &mut Model, slot: usize, factors: &LowRank) {
    let shape = model.packed.shape(slot);
    let down = &factors.down;
    for part in &factors.parts {
        let up = part.up.unpack();
        let mut delta = Matrix::zeros(part.columns.len(), shape.k);
        gemm(
            delta.view_mut(),
            0.0,
            1.0,
            up.view(),
            false,
            down.view().row_range(part.ranks.clone()),
            false,
        );
        panel::add_to(
            model.packed.panels_mut(slot),
            shape,
            part.columns.clone(),
            delta.view(),
        );
    }
}
