//! The one place where a weight meets activations: `y = epilogue(x Wt + b + s (x At) Bt)`.
//!
//! A [`Linear`] is a base weight and the slot under which tasks keep their factors for it; a fused product
//! (q|k|v, gate|up) is one linear with several parts, each an adapted site over its own columns. Every
//! group of the batch runs at its own rank; a group without factors here costs nothing.
//!
//! Numerics: an output is one chain of fused multiply-adds, `bias`, then K, then the ranks, then the
//! activation, then the residual, whichever way the work is cut: so a row's bits do not depend on its
//! neighbours, on the number of threads or on how rows were blocked.

pub mod backward;

use std::ops::Range;

use crate::{
    kernel::{
        activation::Activation,
        panel::{Init, OwnedPanels, Panels, Product, WIDTH},
    },
    mat::{Mat, MatMut},
    weights::Packed,
};

/// Rows of one block: `x`, `y` and the ranks of a block stay in the second-level cache between the
/// product and the low-rank update.
const BLOCK_ROWS: usize = 64;

/// A linear layer: a packed weight, its bias, and where tasks keep their factors for it.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The weight, `[N x K]`.
    pub weight: Weight,
    /// `[N]`
    pub bias: Option<Vec<f32>>,
    /// Index into `Task`'s factors; `None` for head layers, which are a task's own.
    pub slot: Option<usize>,
}

/// Where a packed weight lives.
#[derive(Debug, Clone)]
pub enum Weight {
    /// In the base's packed file, under this number.
    Base(usize),
    /// On the heap: a head's.
    Own(std::sync::Arc<OwnedPanels>),
}

/// A task's factors for one linear.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// A of all parts, stacked: `[R x K]`, R the sum of the parts' ranks.
    pub down: OwnedPanels,
    /// The parts that have a rank.
    pub parts: Vec<LowRankPart>,
}

/// One adapted site of a linear.
#[derive(Debug, Clone)]
pub struct LowRankPart {
    /// Output columns of the linear that the site owns.
    pub columns: Range<usize>,
    /// Its rows of the stacked A.
    pub ranks: Range<usize>,
    /// B with the scale folded in, `[columns x ranks]`.
    pub up: OwnedPanels,
}

/// The factors of one group of rows.
#[derive(Debug, Clone)]
pub struct GroupFactors<'a> {
    /// The rows of the batch it holds for.
    pub rows: Range<usize>,
    /// What is added there.
    pub factors: &'a LowRank,
}

/// What follows a product.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Applied to the sum.
    pub activation: Option<Activation>,
    /// Added after the activation, `[T x N]`.
    pub residual: Option<Mat<'a>>,
}

impl Linear {
    /// `y = epilogue(x Wt + b + low rank)`, on up to `threads` threads.
    ///
    /// `x` is `[T x K]`, `y` is `[T x N]`; `groups` are disjoint, in row order, and need not cover all rows.
    pub fn forward(
        &self,
        packed: &Packed,
        x: Mat<'_>,
        groups: &[GroupFactors<'_>],
        epilogue: Epilogue<'_>,
        y: MatMut<'_>,
        threads: usize,
    ) {
        let w = match &self.weight {
            Weight::Base(slot) => packed.panels(*slot),
            Weight::Own(panels) => panels.view(),
        };
        let call = Call {
            w,
            bias: self.bias.as_deref(),
            x,
            groups,
            epilogue,
            first: 0,
        };
        call.run(y, threads);
    }
}

/// The operands of one forward call, narrowed as threads split it by columns.
#[derive(Clone, Copy)]
struct Call<'a> {
    w: Panels<'a>,
    bias: Option<&'a [f32]>,
    x: Mat<'a>,
    groups: &'a [GroupFactors<'a>],
    epilogue: Epilogue<'a>,
    /// The column of the whole linear that is column 0 here.
    first: usize,
}

impl<'a> Call<'a> {
    /// Splits rows in blocks while there are enough for every thread, columns otherwise.
    fn run(self, y: MatMut<'_>, threads: usize) {
        let (rows, panels) = (self.x.rows(), self.w.shape().panels());
        if threads <= 1 || rows == 0 {
            return self.rows(0..rows, y);
        }
        if rows >= 2 * BLOCK_ROWS {
            let half = (rows / 2).next_multiple_of(8).min(rows);
            return self.split_rows(0..rows, half, y, threads);
        }
        if panels < 2 {
            return self.rows(0..rows, y);
        }
        let left_threads = threads / 2;
        let at = panels * left_threads / threads;
        let at = at.max(1);
        let (left, right) = y.split_cols(at * WIDTH);
        let (a, b) = (self.columns(0..at), self.columns(at..panels));
        rayon::join(
            || a.run(left, left_threads),
            || b.run(right, threads - left_threads),
        );
    }

    fn split_rows(self, rows: Range<usize>, at: usize, y: MatMut<'_>, threads: usize) {
        if threads <= 1 || rows.len() < BLOCK_ROWS {
            return self.rows(rows, y);
        }
        let (upper, lower) = y.split_rows(at);
        let mid = rows.start + at;
        let half = |n: usize| (n / 2).next_multiple_of(8).min(n);
        let (a, b) = (threads / 2, threads - threads / 2);
        rayon::join(
            || self.split_rows(rows.start..mid, half(at), upper, a),
            || self.split_rows(mid..rows.end, half(rows.end - mid), lower, b),
        );
    }

    /// The panels in `range` as a call of their own.
    fn columns(self, range: Range<usize>) -> Call<'a> {
        let n = self.w.shape().n;
        let columns = range.start * WIDTH..(range.end * WIDTH).min(n);
        Call {
            w: self.w.panel_range(range),
            bias: self.bias.map(|b| &b[columns.clone()]),
            epilogue: Epilogue {
                residual: self.epilogue.residual.map(|r| r.col_range(columns.clone())),
                ..self.epilogue
            },
            first: self.first + columns.start,
            ..self
        }
    }

    /// Rows `rows` on this thread; `y` holds exactly those rows.
    fn rows(self, rows: Range<usize>, mut y: MatMut<'_>) {
        let mut at = rows.start;
        for group in self.groups {
            let (start, end) = (group.rows.start.max(at), group.rows.end.min(rows.end));
            if start >= end {
                continue;
            }
            if start > at {
                self.plain(
                    at..start,
                    y.reborrow().row_range(at - rows.start..start - rows.start),
                );
            }
            let mut from = start;
            while from < end {
                let to = (from + BLOCK_ROWS).min(end);
                let block = y.reborrow().row_range(from - rows.start..to - rows.start);
                self.adapted(from..to, group.factors, block);
                from = to;
            }
            at = end;
        }
        if at < rows.end {
            self.plain(
                at..rows.end,
                y.row_range(at - rows.start..rows.end - rows.start),
            );
        }
    }

    fn product(&self, rows: Range<usize>) -> Product<'a> {
        Product {
            x: self.x.row_range(rows),
            w: self.w,
            init: self.bias.map_or(Init::Zero, Init::Bias),
            activation: None,
            residual: None,
        }
    }

    /// A block without low-rank factors: one product with everything in its epilogue.
    fn plain(&self, rows: Range<usize>, y: MatMut<'_>) {
        let product = Product {
            activation: self.epilogue.activation,
            residual: self.epilogue.residual.map(|r| r.row_range(rows.clone())),
            ..self.product(rows)
        };
        product.into(y);
    }

    /// A block of one group: product, then the ranks continue its sums, then the epilogue.
    fn adapted(&self, rows: Range<usize>, factors: &LowRank, mut y: MatMut<'_>) {
        self.product(rows.clone()).into(y.reborrow());
        let (block, n) = (rows.len(), self.w.shape().n);
        let here = self.first..self.first + n;
        RANKS.with_borrow_mut(|t| {
            let mut t = t.reshape(block, factors.down.shape().n);
            let x = self.x.row_range(rows.clone());
            let down = factors.down.view();
            let product = Product {
                x,
                w: down,
                init: Init::Zero,
                activation: None,
                residual: None,
            };
            product.into(t.reborrow());
            for part in &factors.parts {
                let columns = part.columns.start.max(here.start)..part.columns.end.min(here.end);
                if columns.start >= columns.end {
                    continue;
                }
                part.add(
                    t.as_ref(),
                    columns.clone(),
                    y.reborrow()
                        .col_range(columns.start - here.start..columns.end - here.start),
                );
            }
        });
        for r in 0..block {
            let row = y.row_mut(r);
            if let Some(activation) = self.epilogue.activation {
                activation.apply(row);
            }
            if let Some(residual) = self.epilogue.residual {
                for (y, r) in row.iter_mut().zip(residual.row(rows.start + r)) {
                    *y += r;
                }
            }
        }
    }
}

impl LowRankPart {
    /// Adds `t Bt` to the columns `columns` of the linear, which lie inside this part; `y` is those columns.
    fn add(&self, t: Mat<'_>, columns: Range<usize>, y: MatMut<'_>) {
        let t = t.col_range(self.ranks.clone());
        let own = columns.start - self.columns.start..columns.end - self.columns.start;
        let up = self.up.view();
        let product = |w: Panels<'_>, y: MatMut<'_>| {
            let product = Product {
                x: t,
                w,
                init: Init::Keep,
                activation: None,
                residual: None,
            };
            product.into(y);
        };
        let whole_panels =
            own.start % WIDTH == 0 && (own.end % WIDTH == 0 || own.end == self.columns.len());
        if whole_panels {
            return product(
                up.panel_range(own.start / WIDTH..own.end.div_ceil(WIDTH)),
                y,
            );
        }
        // A thread's columns cut a panel of this part (its width is no multiple of 16): computed whole, copied in part.
        let panels = own.start / WIDTH..own.end.div_ceil(WIDTH);
        let covered = panels.start * WIDTH..(panels.end * WIDTH).min(self.columns.len());
        let mut y = y;
        EDGE.with_borrow_mut(|edge| {
            let mut wide = edge.reshape(y.rows(), covered.len());
            let at = own.start - covered.start..own.end - covered.start;
            for r in 0..y.rows() {
                wide.row_mut(r)[at.clone()].copy_from_slice(y.row_mut(r));
            }
            product(up.panel_range(panels), wide.reborrow());
            for r in 0..y.rows() {
                y.row_mut(r).copy_from_slice(&wide.row_mut(r)[at.clone()]);
            }
        });
    }
}

thread_local! {
    /// `x At` of one block, `[BLOCK_ROWS x R]`.
    static RANKS: std::cell::RefCell<crate::mat::Matrix> = std::cell::RefCell::default();
    /// Columns of a part that a thread's share cuts through.
    static EDGE: std::cell::RefCell<crate::mat::Matrix> = std::cell::RefCell::default();
}
