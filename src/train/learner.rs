//! One step's loss and gradients over labelled rows, and the logits of rows: the model and its live parameters.
//!
//! Rows are dealt to the threads of the current pool as whole sequences, each thread running forward and backward
//! alone with a tape of its own; gradients are added in the order of the parts. Same rows, same number of
//! threads: same bits.

use rayon::prelude::*;

use super::{
    loss::Target,
    random,
    sora::{Bound, Live},
    tape::{Shares, Tape},
};
use crate::{
    error::Result,
    mat::{Mat, Matrix},
    model::{
        Batch, Classifier, Level, Model, Sequence,
        backward::{Gradients, Scratch},
        linear::backward::Transposed,
        pooling,
    },
    spec::Order,
};

/// One labelled row.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Token types.
    pub types: Vec<u32>,
    /// What it should have been.
    pub target: Target,
}

/// What a thread keeps from step to step.
#[derive(Debug)]
struct Worker {
    tape: Tape,
    scratch: Scratch,
    d: Matrix,
}

/// A model in training.
#[derive(Debug)]
pub struct Learner<'m> {
    base: &'m Model,
    /// The base with its own trained parameters, where there are any.
    own: Option<Model>,
    transposed: Transposed,
    /// What is trained.
    pub live: Live,
    workers: Vec<Worker>,
    recompute: bool,
    dropout: Shares,
    seed: u64,
    budget: usize,
}

impl<'m> Learner<'m> {
    /// Starts with `live`; `dropout` is what is dropped in training.
    ///
    /// # Errors
    /// When a second mapping of the base's weights, for those that are trained, cannot be had.
    pub fn new(base: &'m Model, live: Live, dropout: Shares, seed: u64) -> Result<Self> {
        let kinds = live.kinds();
        let own = kinds.any().then(|| base.fork()).transpose()?;
        Ok(Self {
            base,
            transposed: base.transposed(|slot| live.trains(slot), kinds),
            own,
            live,
            workers: Vec::new(),
            recompute: false,
            dropout,
            seed,
            budget: usize::MAX,
        })
    }

    /// The task of a step, and the model with what is trained of it: to be called when parameters have changed. Ranks
    /// whose gate is 0 are asked whether they revive only when `all` is set.
    pub fn bind(&mut self, all: bool) -> Bound {
        if let Some(own) = &mut self.own {
            self.live.change(own);
        }
        let bound = self.live.bind(self.model(), all);
        if self.live.kinds().weights {
            let factors = |slot| self.live.trains(slot);
            self.transposed = self.model().transposed(factors, self.live.kinds());
        }
        bound
    }

    /// Runs a step in portions of at most `tokens` tokens (a longer row alone): less memory, the same mean.
    pub fn limit_tokens(&mut self, tokens: usize) {
        self.budget = tokens;
    }

    /// Keeps nothing of the forward pass but the layers' outputs, and runs each layer again on the way down: a third more
    /// time, and memory for long texts.
    pub fn recompute(&mut self, yes: bool) {
        self.recompute = yes;
        self.workers.clear();
    }

    /// Bytes that recordings of the forward pass hold on to.
    pub fn recorded_bytes(&self) -> usize {
        self.workers.iter().map(|w| w.tape.bytes()).sum()
    }

    /// The base, or what training has made of it so far.
    pub fn model(&self) -> &Model {
        self.own.as_ref().unwrap_or(self.base)
    }

    /// The base as it was.
    pub fn base(&self) -> &'m Model {
        self.base
    }

    /// The mean loss over `rows` and the gradient of each parameter; `step` keys dropout.
    pub fn gradients(&mut self, bound: &Bound, rows: &[&Example], step: u64) -> (f64, Vec<Matrix>) {
        let count: usize = rows.iter().map(|r| r.target.weight()).sum();
        let (mut loss, mut sum) = (0.0, None::<Gradients>);
        for (i, portion) in portions(rows, self.budget).into_iter().enumerate() {
            let (l, g) = self.portion(bound, portion, count.max(1) as f64, [step, i as u64]);
            loss += l;
            match &mut sum {
                None => sum = Some(g),
                Some(sum) => sum.add(g),
            }
        }
        (loss, self.live.gradients(bound, sum.unwrap_or_default()))
    }

    fn portion(
        &mut self,
        bound: &Bound,
        rows: &[&Example],
        count: f64,
        key: [u64; 2],
    ) -> (f64, Gradients) {
        let parts = deal(rows, rayon::current_num_threads());
        let model = self.own.as_ref().unwrap_or(self.base);
        let order = model.spec().layers.first().map_or(Order::Post, |l| l.order);
        while self.workers.len() < parts.len() {
            self.workers.push(Worker {
                tape: Tape::new(order, self.recompute),
                scratch: Scratch::default(),
                d: Matrix::default(),
            });
        }
        let key = key.iter().fold(random::key(self.seed, "dropout"), |k, &n| {
            random::word(k, n)
        });
        let (transposed, dropout, kinds) = (&self.transposed, self.dropout, self.live.kinds());
        let parts: Vec<(f64, Gradients)> = parts
            .par_iter()
            .zip(&mut self.workers[..parts.len()])
            .enumerate()
            .map(|(i, (rows, worker))| {
                worker.tape.start(dropout, random::word(key, i as u64));
                let mut zeros = Gradients::zeros(model, &bound.task, kinds);
                zeros.probes = bound.probes();
                part(model, transposed, bound, rows, count, worker, zeros)
            })
            .collect();
        let mut parts = parts.into_iter();
        let (mut loss, mut sum) = parts.next().unwrap_or_default();
        for (l, g) in parts {
            loss += l;
            sum.add(g);
        }
        (loss, sum)
    }

    /// The logits of each row, `[labels]` (for tokens `[tokens x labels]`), without dropout.
    pub fn logits(&self, bound: &Bound, rows: &[&Example]) -> Vec<Matrix> {
        let parts = deal(rows, rayon::current_num_threads());
        let parts: Vec<Vec<Matrix>> = parts
            .par_iter()
            .map(|rows| logits(self.model(), bound, rows))
            .collect();
        parts.into_iter().flatten().collect()
    }
}

/// Rows in runs of at most `budget` tokens.
fn portions<'r, 'e>(rows: &'r [&'e Example], budget: usize) -> Vec<&'r [&'e Example]> {
    let (mut out, mut start, mut tokens) = (Vec::new(), 0, 0);
    for (i, row) in rows.iter().enumerate() {
        if i > start && tokens + row.ids.len() > budget {
            out.push(&rows[start..i]);
            (start, tokens) = (i, 0);
        }
        tokens += row.ids.len();
    }
    out.push(&rows[start..]);
    out
}

/// Rows in at most `parts` runs of about equal tokens.
fn deal<'r, 'e>(rows: &'r [&'e Example], parts: usize) -> Vec<&'r [&'e Example]> {
    let total: usize = rows.iter().map(|r| r.ids.len()).sum();
    let (mut out, mut start, mut seen) = (Vec::new(), 0, 0);
    for part in 0..parts {
        let goal = total * (part + 1) / parts;
        let mut end = start;
        while end < rows.len() && (part + 1 == parts || seen + rows[end].ids.len() / 2 < goal) {
            seen += rows[end].ids.len();
            end += 1;
        }
        if end > start {
            out.push(&rows[start..end]);
        }
        start = end;
    }
    out
}

fn pack(rows: &[&Example]) -> Batch {
    Batch::pack(rows.iter().map(|r| Sequence {
        ids: &r.ids,
        types: &r.types,
        task: 0,
    }))
}

fn classifier(bound: &Bound) -> &Classifier {
    let classifier = bound.task.classifier.as_ref();
    classifier.expect("a live task always has a head")
}

/// What the head reads: a row a sequence, or every row.
fn pooled(classifier: &Classifier, batch: &Batch, encoded: &Matrix) -> Option<Matrix> {
    if classifier.level == Level::Token {
        return None;
    }
    let mut out = Matrix::zeros(batch.sequences(), encoded.cols());
    let mut to = out.view_mut();
    for s in 0..batch.sequences() {
        let rows = encoded.view().row_range(batch.rows(s));
        pooling::forward(classifier.head.pool, rows, to.row_mut(s));
    }
    Some(out)
}

/// Rows of the logits that belong to sequence `s`.
fn own_rows<'a>(level: Level, batch: &Batch, s: usize, logits: Mat<'a>) -> Mat<'a> {
    match level {
        Level::Sequence => logits.row_range(s..s + 1),
        Level::Token => logits.row_range(batch.rows(s)),
    }
}

fn logits(model: &Model, bound: &Bound, rows: &[&Example]) -> Vec<Matrix> {
    let (batch, classifier) = (pack(rows), classifier(bound));
    let encoded = model.forward_here(&batch, &[&bound.task], &mut ());
    let pooled = pooled(classifier, &batch, &encoded);
    let x = pooled.as_ref().unwrap_or(&encoded);
    let logits = classifier.head.forward(model.packed(), x.view());
    let of = |s| {
        let rows = own_rows(classifier.level, &batch, s, logits.view());
        let mut out = Matrix::zeros(rows.rows(), rows.cols());
        out.view_mut().copy_from(rows);
        out
    };
    (0..rows.len()).map(of).collect()
}

/// Forward, loss and backward of some rows on this thread.
fn part(
    model: &Model,
    transposed: &Transposed,
    bound: &Bound,
    rows: &[&Example],
    count: f64,
    worker: &mut Worker,
    mut gradients: Gradients,
) -> (f64, Gradients) {
    let (batch, classifier) = (pack(rows), classifier(bound));
    let Worker { tape, scratch, d } = worker;
    let encoded = model.forward_here(&batch, &[&bound.task], tape);
    let pooled = pooled(classifier, &batch, &encoded);
    let x = pooled.as_ref().unwrap_or(&encoded);
    let logits = classifier.head.forward(model.packed(), x.view());
    let mut dlogits = Matrix::zeros(logits.rows(), logits.cols());
    let mut loss = 0.0;
    for (s, row) in rows.iter().enumerate() {
        let range = match classifier.level {
            Level::Sequence => s..s + 1,
            Level::Token => batch.rows(s),
        };
        let own = own_rows(classifier.level, &batch, s, logits.view());
        loss += row
            .target
            .loss(own, count, dlogits.view_mut().row_range(range));
    }
    let head = &classifier.head;
    let dx = head.backward(x.view(), dlogits.view(), &mut gradients.head);
    match &pooled {
        None => *d = dx,
        Some(_) => {
            let mut d = d.reshape(encoded.rows(), encoded.cols());
            for s in 0..batch.sequences() {
                let range = batch.rows(s);
                let x = encoded.view().row_range(range.clone());
                let to = d.reborrow().row_range(range);
                pooling::backward(head.pool, x, dx.row(s), to);
            }
        }
    }
    let task = &bound.task;
    model.backward(&batch, task, transposed, tape, d, scratch, &mut gradients);
    (loss, gradients)
}
