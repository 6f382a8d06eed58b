//! One text for several adapters: the layers that none of them adapts are computed once.
//!
//! Below the first layer that a task adapts, its hidden states are the base's, so the rows of one text are equal up to
//! the lowest such layer of their tasks. There a batch of the distinct texts runs, each for one of its tasks; above, every
//! row goes on by itself from a copy. Exact: no row's bits depend on its neighbours (ARCHITECTURE.md, invariant 8).

use std::collections::HashMap;

use crate::{
    mat::Matrix,
    model::{Batch, Model, Task},
};

/// As [`Model::forward`]; sequences that are one text bear the same name in `texts`, one a sequence.
pub(super) fn forward<N: std::hash::Hash + Eq>(
    model: &Model,
    batch: &Batch,
    tasks: &[&Task],
    texts: &[N],
) -> Matrix {
    let Some(fan) = Fan::find(model, batch, tasks, texts) else {
        return model.forward(batch, tasks, &mut ());
    };
    let once = Batch::pack(fan.firsts.iter().map(|&s| batch.sequence(s)));
    let below = model.forward_layers(0..fan.depth, None, &once, tasks, &mut ());
    let mut copied = Matrix::zeros(batch.tokens(), below.cols());
    for (s, &text) in fan.text_of.iter().enumerate() {
        let from = below.view().row_range(once.rows(text));
        copied.view_mut().row_range(batch.rows(s)).copy_from(from);
    }
    if fan.depth == model.depth() {
        return copied;
    }
    let above = fan.depth..model.depth();
    model.forward_layers(above, Some(copied.view()), batch, tasks, &mut ())
}

/// What there is to share in a batch.
struct Fan {
    /// The first sequence of each text.
    firsts: Vec<usize>,
    /// By sequence, its text: an index into `firsts`.
    text_of: Vec<usize>,
    /// Layers below which all sequences of one text are equal; at least 1.
    depth: usize,
}

impl Fan {
    /// `None` where every text stands once, or the very first layer is adapted.
    fn find<N: std::hash::Hash + Eq>(
        model: &Model,
        batch: &Batch,
        tasks: &[&Task],
        texts: &[N],
    ) -> Option<Fan> {
        let mut numbers: HashMap<&N, usize> = HashMap::with_capacity(texts.len());
        let (mut firsts, mut text_of, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (s, name) in texts.iter().enumerate() {
            let text = *numbers.entry(name).or_insert_with(|| {
                firsts.push(s);
                rows.push(0);
                firsts.len() - 1
            });
            rows[text] += 1;
            text_of.push(text);
        }
        let shared = batch
            .groups()
            .iter()
            .filter(|group| group.sequences.clone().any(|s| rows[text_of[s]] > 1));
        let depth = shared
            .map(|group| model.untouched_layers(tasks[group.task]))
            .min();
        let depth = depth.filter(|&depth| depth > 0)?;
        Some(Fan {
            firsts,
            text_of,
            depth,
        })
    }
}
