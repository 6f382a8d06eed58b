//! The gradient of the encoder: from the last hidden states to the factors of every adapted site.
//!
//! Hand-written, op by op, in the files `backward.rs` beside each forward; this one walks the layers down.
//! Gradients go only where something is trained: below the lowest adapted layer nothing is computed, and of
//! frozen weights only the product with the gradient is. It runs on the calling thread: who wants more threads
//! gives each some sequences (`train/`).
//!
//! Not here: losses, optimisers, which sites are trained (the task's factors say it).

use super::{
    Batch, Hook, Model, Place, Task,
    block::{Pass, backward::Back},
    head::backward::HeadGradient,
    linear::{
        backward::{LowRankGradient, Transposed, add},
        probe::Probe,
    },
    parameters::{BaseGradients, BaseKinds, NormAt},
};
use crate::mat::{Mat, MatMut, Matrix};

pub use super::block::backward::Scratch;

/// What a hook kept of a forward pass.
pub trait Recorded: Hook {
    /// What was at `place` of `layer`.
    fn kept(&self, place: Place, layer: usize) -> Mat<'_>;
    /// Whether that was kept.
    fn has(&self, place: Place, layer: usize) -> bool;
    /// Whether of most layers nothing but the output was kept, and [`Model::backward`] runs each once more.
    fn recomputes(&self) -> bool;
    /// What is watched next is layer `layer` once more.
    fn turn_to(&mut self, layer: usize);
    /// Whether the hook changed what is at `place`: dropout.
    fn changes(&self, place: Place) -> bool;
    /// The gradient after the hook's change becomes the one before it.
    fn backward(&self, place: Place, layer: usize, d: MatMut<'_>);
}

/// Gradients of everything that a task trains.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    /// By slot of the model's linears.
    pub factors: Vec<Option<LowRankGradient>>,
    /// Of the task's own head.
    pub head: HeadGradient,
    /// Of the base itself.
    pub base: BaseGradients,
    /// Of the gates of closed ranks, by slot.
    pub probes: Vec<Option<Probe>>,
}

impl Gradients {
    /// Zeros for `task` and for what is trained of the base.
    pub fn zeros(model: &Model, task: &Task, kinds: BaseKinds) -> Self {
        let factors = (0..model.packed.slots()).map(|slot| {
            let factors = task.factors.get(slot)?.as_ref()?;
            Some(LowRankGradient::zeros(factors))
        });
        let head = task.classifier.as_ref();
        Self {
            factors: factors.collect(),
            head: head.map_or_else(HeadGradient::default, |c| HeadGradient::zeros(&c.head)),
            base: BaseGradients::zeros(model, kinds),
            probes: Vec::new(),
        }
    }

    /// Adds another's elements to its own.
    pub fn add(&mut self, mut other: Gradients) {
        for (to, from) in self.factors.iter_mut().zip(&other.factors) {
            if let (Some(to), Some(from)) = (to, from) {
                to.add(from);
            }
        }
        self.head.add(&other.head);
        for (to, from) in self.probes.iter_mut().zip(&other.probes) {
            if let (Some(to), Some(from)) = (to, from) {
                to.join(from);
            }
        }
        for (to, from) in self.base.all().zip(other.base.all()) {
            add(to, from);
        }
    }
}

impl Model {
    /// The transposed base linears that training needs: `factors` says in which slots there are factors to train, `kinds`
    /// what of the base is.
    pub fn transposed(&self, factors: impl Fn(usize) -> bool, kinds: BaseKinds) -> Transposed {
        let lowest = self.lowest(&factors, kinds).unwrap_or(self.blocks.len());
        let slots: std::collections::BTreeSet<usize> = self.blocks[lowest..]
            .iter()
            .flat_map(|b| [&b.qkv, &b.attn_out, &b.mlp_in, &b.mlp_out])
            .chain(self.embedding.linear().filter(|_| kinds.any()))
            .filter_map(|l| l.slot)
            .collect();
        Transposed::new(&self.packed, |slot| slots.contains(&slot))
    }

    /// The lowest layer with something to train; 0 when that is below all layers.
    fn lowest(&self, factors: &dyn Fn(usize) -> bool, kinds: BaseKinds) -> Option<usize> {
        if kinds.any() {
            return Some(0);
        }
        let adapted = |slot: Option<usize>| slot.is_some_and(factors);
        if adapted(self.embedding.slot()) {
            return Some(0);
        }
        self.blocks.iter().position(|b| {
            let linears = [&b.qkv, &b.attn_out, &b.mlp_in, &b.mlp_out];
            let positions = b.own_positions.as_ref();
            linears
                .into_iter()
                .chain(positions)
                .any(|l| adapted(l.slot))
        })
    }

    /// Runs one layer again for `recorded` to watch, from what it kept of the layer below.
    fn run_again<R: Recorded>(
        &self,
        layer: usize,
        batch: &Batch,
        tasks: &[&Task],
        recorded: &mut R,
        scratch: &mut Matrix,
    ) {
        let under = match layer.checked_sub(1) {
            None => recorded.kept(Place::Embedded, 0),
            Some(under) => recorded.kept(Place::LayerOut, under),
        };
        let (t, h) = (under.rows(), under.cols());
        // Twice as high: the layer's input above, its output (kept already) below.
        let (mut from, out) = scratch.reshape(2 * t, h).split_rows(t);
        from.copy_from(under);
        let stretch = super::Stretch {
            layers: layer..layer + 1,
            from: Some(from.as_ref()),
            batch,
        };
        recorded.turn_to(layer);
        self.run(stretch, tasks, recorded, vec![out], 1);
    }

    /// As [`Model::forward`], watched, on the calling thread alone.
    pub fn forward_here<H: Hook>(&self, batch: &Batch, tasks: &[&Task], hook: &mut H) -> Matrix {
        let mut out = Matrix::zeros(batch.tokens(), self.spec.hidden);
        let stretch = super::Stretch {
            layers: 0..self.blocks.len(),
            from: None,
            batch,
        };
        self.run(stretch, tasks, hook, vec![out.view_mut()], 1);
        out
    }

    /// Adds to `gradients` those of all that is trained, given the gradient `d [T x H]` of [`Model::forward`]'s answer
    /// over `batch`, all of whose rows are of `task`. `d` and `scratch` are used up.
    pub fn backward<R: Recorded>(
        &self,
        batch: &Batch,
        task: &Task,
        transposed: &Transposed,
        recorded: &mut R,
        d: &mut Matrix,
        scratch: &mut Scratch,
        gradients: &mut Gradients,
    ) {
        let base = &gradients.base;
        let kinds = BaseKinds {
            biases: !base.biases.is_empty(),
            norms: !base.norms.is_empty(),
            weights: !base.weights.is_empty(),
            embeddings: !base.tables.is_empty(),
        };
        let adapted = |slot: usize| {
            let factors = task.factors.get(slot).is_some_and(Option::is_some);
            factors || gradients.probes.get(slot).is_some_and(Option::is_some)
        };
        let Some(lowest) = self.lowest(&adapted, kinds) else {
            return;
        };
        assert!(batch.groups().len() <= 1, "one task is trained at a time");
        let tasks = [task];
        let projected = self.embedding.slot();
        let below = projected.is_some_and(adapted)
            || projected.is_some() && (kinds.biases || kinds.weights)
            || kinds.norms
            || kinds.embeddings;
        let pass = Pass {
            packed: &self.packed,
            batch,
            tasks: &tasks,
            heads: self.spec.heads,
            threads: 1,
        };
        if let (Some(norm), Some(last)) = (&self.final_norm, self.blocks.len().checked_sub(1)) {
            let mut dx = Matrix::zeros(d.rows(), d.cols());
            let x = recorded.kept(Place::LayerOut, last);
            let trained = gradients.base.norms.get_mut(&NormAt::Final);
            norm.backward(x, d.view(), dx.view_mut(), trained);
            *d = dx;
        }
        let mut again = Matrix::default();
        for (layer, block) in self.blocks.iter().enumerate().skip(lowest).rev() {
            if recorded.recomputes() {
                self.run_again(layer, batch, &tasks, recorded, &mut again);
            }
            let back = Back {
                pass,
                recorded: &*recorded,
                transposed,
                below,
                lowest,
                blocks: &self.blocks,
            };
            block.backward(&back, layer, d, scratch, gradients);
        }
        if below {
            recorded.backward(Place::Embedded, 0, d.view_mut());
            self.embedding
                .backward(batch, task, transposed, d.view(), gradients);
        }
    }
}
