//! The encoder: the only room where ops meet weights.
//!
//! A [`Model`] is a frozen base; a [`Task`] is an adapter bound to it; a [`Batch`] is packed rows, each of
//! some task; [`Model::forward`] runs them together and cannot fail. No family is named here: the code
//! branches on the facts of `spec::EncoderSpec`. Not here: text, files' bytes (`weights/`), queues (`engine/`).

pub mod attention;
pub mod backward;
pub mod batch;
pub mod bind;
pub mod block;
pub mod embedding;
pub mod export;
pub mod head;
pub mod hook;
pub mod linear;
pub mod load;
pub mod merge;
pub mod norm;
pub mod parameters;
pub mod pooling;
mod reader;
pub mod sites;
pub mod task;

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

pub use self::{
    batch::{Batch, Sequence},
    head::Head,
    hook::{Hook, Place},
    load::LoadOptions,
    merge::Merged,
    task::{Classifier, Embedder, Level, Task},
};
use self::{
    block::{Block, Pass, Workspace},
    embedding::Embedding,
    norm::Norm,
    sites::Sites,
};
use crate::{
    kernel,
    mat::{Mat, MatMut, Matrix},
    spec::{EncoderSpec, SentenceSpec},
    weights::{Packed, Source, Tensors},
};

/// A frozen encoder, ready to run.
#[derive(Debug)]
pub struct Model {
    spec: EncoderSpec,
    sentence: SentenceSpec,
    source: Source,
    tensors: Arc<Tensors>,
    /// What stands before the encoder's names in this checkpoint.
    prefix: &'static str,
    sites: Sites,
    packed: Packed,
    embedding: Embedding,
    blocks: Vec<Block>,
    final_norm: Option<Norm>,
    workspaces: Mutex<Vec<Workspace>>,
}

impl Model {
    /// What this encoder is.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Pooling, normalisation and prompts, as sentence-transformers' files say (or their defaults).
    pub fn sentence(&self) -> &SentenceSpec {
        &self.sentence
    }

    /// The sites an adapter may change.
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// The base's linears.
    pub fn packed(&self) -> &Packed {
        &self.packed
    }

    /// The base's checkpoint.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Where the base came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The most tokens of one text.
    pub fn max_tokens(&self) -> usize {
        self.sentence
            .max_tokens
            .map_or(self.spec.max_tokens, |n| n.min(self.spec.max_tokens))
    }

    /// Runs `batch` through the encoder: the last hidden states, `[T x H]`.
    ///
    /// Row groups name `tasks` by index. On several threads (those of the current rayon pool) whole
    /// sequences go to threads where they divide evenly, and ops are split where they do not; a row's bits
    /// are the same either way, alone or in any batch.
    ///
    /// # Panics
    /// When a group names a task that is not in `tasks`, or an id is outside the vocabulary: admission sees to both.
    pub fn forward<H: Hook>(&self, batch: &Batch, tasks: &[&Task], hook: &mut H) -> Matrix {
        self.forward_layers(0..self.blocks.len(), None, batch, tasks, hook)
    }

    /// Runs the layers in `layers` only, for who has computed those below once for several tasks: `from` is the
    /// hidden states that they left, `[T x H]`, and `None` where `layers` begins with the first.
    ///
    /// # Panics
    /// As [`Model::forward`]; when `from` is missing, or given to the first layer, or not a row a token.
    pub fn forward_layers<H: Hook>(
        &self,
        layers: Range<usize>,
        from: Option<Mat<'_>>,
        batch: &Batch,
        tasks: &[&Task],
        hook: &mut H,
    ) -> Matrix {
        assert_eq!(
            from.is_none(),
            layers.start == 0,
            "layers start from ids or from hidden states"
        );
        assert!(
            from.is_none_or(|x| x.rows() == batch.tokens()),
            "a row a token"
        );
        let mut out = Matrix::zeros(batch.tokens(), self.spec.hidden);
        let threads = rayon::current_num_threads();
        let parts = if H::WATCHES {
            Vec::new()
        } else {
            even_parts(batch, threads)
        };
        if parts.is_empty() {
            let stretch = Stretch {
                layers,
                from,
                batch,
            };
            self.run(stretch, tasks, hook, vec![out.view_mut()], threads);
            return out;
        }
        let mut rest = out.view_mut();
        let mut rows: Vec<Option<MatMut<'_>>> = Vec::with_capacity(batch.sequences());
        for s in 0..batch.sequences() {
            let (own, below) = rest.split_rows(batch.rows(s).len());
            rest = below;
            rows.push(Some(own));
        }
        rayon::scope(|scope| {
            for part in parts {
                let take = |&s: &usize| rows[s].take().expect("a sequence is in one part");
                let own: Vec<MatMut<'_>> = part.iter().map(take).collect();
                let layers = layers.clone();
                scope.spawn(move |_| {
                    let sequences = part.iter().map(|&s| batch.sequence(s));
                    let gathered = from.map(|x| gather(x, batch, &part));
                    let stretch = Stretch {
                        layers,
                        from: gathered.as_ref().map(Matrix::view),
                        batch: &Batch::pack(sequences),
                    };
                    self.run(stretch, tasks, &mut (), own, 1);
                });
            }
        });
        out
    }

    /// The last states go to `out`, rows of the batch in order.
    fn run<H: Hook>(
        &self,
        stretch: Stretch<'_>,
        tasks: &[&Task],
        hook: &mut H,
        out: Vec<MatMut<'_>>,
        threads: usize,
    ) {
        let Stretch {
            layers,
            from,
            batch,
        } = stretch;
        if batch.tokens() == 0 {
            return;
        }
        let mut w = self.lock_workspaces().pop().unwrap_or_default();
        let pass = Pass {
            packed: &self.packed,
            batch,
            tasks,
            heads: self.spec.heads,
            threads,
        };
        let (t, h) = (batch.tokens(), self.spec.hidden);
        let Workspace { x, wide, .. } = &mut w;
        match from {
            Some(hidden) => x.reshape(t, h).copy_from(hidden),
            None => {
                let x = x.reshape(t, h);
                (self.embedding).forward(batch, &self.packed, tasks, wide, x, threads);
                hook.at(Place::Embedded, 0, w.x.view_mut());
            }
        }
        for layer in layers.clone() {
            self.blocks[layer].forward(pass, layer, &mut w, hook);
        }
        if layers.end == self.blocks.len() {
            if let Some(norm) = &self.final_norm {
                norm.forward(w.x.view_mut());
            }
            hook.at(Place::Encoded, self.blocks.len(), w.x.view_mut());
        }
        let mut first = 0;
        for mut rows in out {
            let end = first + rows.rows();
            rows.copy_from(w.x.view().row_range(first..end));
            first = end;
        }
        self.lock_workspaces().push(w);
    }

    /// L: how many layers there are.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// How many layers, counted from the first, `task` leaves as the base has them: up to there its hidden states
    /// are the base's, bit for bit.
    pub fn untouched_layers(&self, task: &Task) -> usize {
        let adapted = |slot: usize| task.factors.get(slot).is_some_and(Option::is_some);
        if self.embedding.slot().is_some_and(adapted) {
            return 0;
        }
        let touched = |block: &Block| block.slots().any(adapted);
        self.blocks
            .iter()
            .position(touched)
            .unwrap_or(self.blocks.len())
    }

    fn lock_workspaces(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        // A panic elsewhere leaves only scratch buffers behind: nothing to distrust.
        self.workspaces
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One vector of a sequence's last hidden states `rows [T x H]`.
    pub fn embed(&self, embedder: Embedder, rows: Mat<'_>) -> Vec<f32> {
        let mut out = vec![0.0; self.spec.hidden];
        pooling::forward(embedder.pooling, rows, &mut out);
        if embedder.normalize {
            kernel::pool::normalize(&mut out);
        }
        out
    }

    /// Logits of a token classifier, `[T x labels]`, for a sequence's last hidden states `rows [T x H]`.
    pub fn tag(&self, head: &Head, rows: Mat<'_>) -> Matrix {
        head.forward(&self.packed, rows)
    }

    /// Logits of a sequence classifier, `[sequences x labels]`; each sequence is a range of rows of `encoded`.
    pub fn classify(
        &self,
        head: &Head,
        encoded: Mat<'_>,
        sequences: impl ExactSizeIterator<Item = Range<usize>>,
    ) -> Matrix {
        let mut pooled = Matrix::zeros(sequences.len(), self.spec.hidden);
        let mut rows = pooled.view_mut();
        for (i, range) in sequences.enumerate() {
            pooling::forward(head.pool, encoded.row_range(range), rows.row_mut(i));
        }
        head.forward(&self.packed, pooled.view())
    }
}

/// Some of the layers, and what they run on.
struct Stretch<'a> {
    layers: Range<usize>,
    /// `[T x H]` from the layers below; `None` before the first.
    from: Option<Mat<'a>>,
    batch: &'a Batch,
}

/// The sequences of the batch by thread, in order, when the longest share is at most an eighth above an even one; empty when
/// ops had better be split inside. Neighbours stay together (a task is one group then) where that is even enough.
fn even_parts(batch: &Batch, threads: usize) -> Vec<Vec<usize>> {
    if threads < 2 || batch.sequences() < threads {
        return Vec::new();
    }
    // Whether the longest share is at most `1 / of` above an even one.
    let even = |longest: usize, of: usize| longest * threads * of <= batch.tokens() * (of + 1);
    let neighbours = batch.split(threads);
    if even(neighbours.iter().map(Batch::tokens).max().unwrap_or(0), 50) {
        let mut first = 0;
        let sequences = neighbours.iter().map(|part| {
            let of = first..first + part.sequences();
            first = of.end;
            of.collect()
        });
        return sequences.collect();
    }
    // The longest first, each to whoever has least.
    let mut order: Vec<usize> = (0..batch.sequences()).collect();
    order.sort_by_key(|&s| std::cmp::Reverse(batch.rows(s).len()));
    let mut parts = vec![(0, Vec::new()); threads];
    for s in order {
        let least = parts.iter_mut().min_by_key(|(tokens, _)| *tokens);
        let (tokens, sequences) = least.expect("there are two threads at least");
        *tokens += batch.rows(s).len();
        sequences.push(s);
    }
    if !even(parts.iter().map(|p| p.0).max().unwrap_or(0), 8) {
        return Vec::new();
    }
    let sorted = |(_, mut sequences): (usize, Vec<usize>)| {
        sequences.sort_unstable();
        sequences
    };
    parts.into_iter().map(sorted).collect()
}

/// The rows of `x` that are those of `sequences`, end to end.
fn gather(x: Mat<'_>, batch: &Batch, sequences: &[usize]) -> Matrix {
    let rows = sequences.iter().flat_map(|&s| batch.rows(s));
    let data: Vec<f32> = rows.flat_map(|r| x.row(r)).copied().collect();
    let count = sequences.iter().map(|&s| batch.rows(s).len()).sum();
    Matrix::from_vec(data, count, x.cols())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths: &[usize]) -> Batch {
        let zeros = vec![0; 128];
        Batch::pack(lengths.iter().map(|&n| Sequence {
            ids: &zeros[..n],
            types: &zeros[..n],
            task: 0,
        }))
    }

    #[test]
    fn threads_get_even_shares_and_every_sequence_once() {
        // Neighbours are even already; they are not, but some distribution is; none is.
        assert_eq!(even_parts(&batch(&[8; 4]), 2), [[0, 1], [2, 3]]);
        assert_eq!(
            even_parts(&batch(&[50, 40, 7, 3, 9, 1]), 2),
            [vec![0, 3, 5], vec![1, 2, 4]]
        );
        assert!(even_parts(&batch(&[100, 3, 4]), 2).is_empty());
        assert!(even_parts(&batch(&[9]), 2).is_empty());
        assert_eq!(even_parts(&batch(&[5, 5, 5]), 3), [[0], [1], [2]]);
    }
}
