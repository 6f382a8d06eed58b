//! A Task: an adapter bound to one model. Task 0 of a server is the bare base.
//!
//! Binding is where everything that could go wrong is asked, so that the forward pass cannot fail: does
//! every module exist, do the widths fit, is a targeted module without tensors, is the head there. The
//! factors come out packed for the kernels, q|k|v of one layer as one product.

use std::sync::Arc;

use crate::{
    model::{
        attention::ProjectedPositions,
        batch::Batch,
        head::Head,
        linear::{GroupFactors, LowRank},
    },
    spec::{Pooling, Problem},
};

/// An adapter bound to a model: factors by linear, and what its outputs mean.
#[derive(Debug, Clone)]
pub struct Task {
    /// The adapter's name; `None` is the bare base.
    pub name: Option<String>,
    /// Factors by slot of the model's linears; `None` where every rank is 0.
    pub factors: Vec<Option<LowRank>>,
    /// Projected tables of relative positions by layer, where this task's factors change them.
    pub positions: Vec<Option<Arc<ProjectedPositions>>>,
    /// The classifier, if the task has one.
    pub classifier: Option<Classifier>,
    /// How it embeds.
    pub embedder: Embedder,
    /// Rank of every adapted site, by module path, for people.
    pub ranks: Vec<(String, usize)>,
}

/// A classification head and its labels.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// The layers.
    pub head: Arc<Head>,
    /// One row for a sequence, or one for each token.
    pub level: Level,
    /// Label names by output.
    pub labels: Arc<[String]>,
    /// What the outputs mean.
    pub problem: Problem,
}

/// What a classifier labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Whole sequences.
    Sequence,
    /// Tokens.
    Token,
}

/// How a sequence becomes one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Embedder {
    /// Which rows.
    pub pooling: Pooling,
    /// Divide by the L2 norm.
    pub normalize: bool,
}

impl Task {
    /// How messages call it.
    pub fn shown(&self) -> String {
        match &self.name {
            Some(name) => format!("adapter {name:?}"),
            None => "the base".to_owned(),
        }
    }

    /// Sum of the ranks of all sites.
    pub fn total_rank(&self) -> usize {
        self.ranks.iter().map(|(_, r)| r).sum()
    }

    /// Heap bytes of the packed factors.
    pub fn heap_bytes(&self) -> usize {
        let part = |f: &LowRank| {
            4 * f.down.as_slice().len() + f.parts.iter().map(|p| p.up.heap_bytes()).sum::<usize>()
        };
        self.factors.iter().flatten().map(part).sum()
    }
}

/// The factors that the groups of `batch` have for the linear at `slot`.
pub fn factors_at<'a>(batch: &Batch, tasks: &[&'a Task], slot: usize) -> Vec<GroupFactors<'a>> {
    let with = batch.groups().iter().filter_map(|group| {
        let factors = tasks[group.task].factors.get(slot)?.as_ref()?;
        Some(GroupFactors {
            rows: group.rows.clone(),
            factors,
            input: None,
        })
    });
    with.collect()
}
