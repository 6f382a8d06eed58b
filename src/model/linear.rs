//! The one place where a weight meets activations: `y = epilogue(x Wt + b + s (x At) Bt)`.
//!
//! A [`Linear`] is a base weight and the slot under which tasks keep their factors for it; a fused product
//! (q|k|v, gate|up) is one linear with several parts, each an adapted site over its own columns. Every
//! group of the batch runs at its own rank; a group without factors here costs nothing.
//!
//! The base product runs over all rows of a thread at once, so that a panel of weights is read once for all
//! groups; the ranks of each group (`x At`, made before) continue the sums of a register tile while it is in L1.
//!
//! Numerics: an output is one chain of fused multiply-adds, `bias`, then K, then the ranks (each made by
//! `kernel::ranks`), then the activation, then the residual, whichever way the work is cut: so a row's bits do not depend on its
//! neighbours, on the number of threads or on how rows were blocked.

pub mod backward;
pub mod probe;

use std::{cell::RefCell, ops::Range};

use crate::{
    kernel::{
        activation::Activation,
        panel::{Init, OwnedPanels, Panels, Part, Product, WIDTH},
        ranks::ranks_into,
    },
    mat::{Mat, MatMut, Matrix},
    weights::Packed,
};

/// Rows that are worth a thread of their own: below, threads share columns.
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
    pub down: Matrix,
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
    /// What the factors read instead of the linear's input, `[T x K]`: that input after dropout.
    pub input: Option<Mat<'a>>,
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
        let groups = self.groups;
        let first = groups.partition_point(|g| g.rows.end <= rows.start);
        let last = groups.partition_point(|g| g.rows.start < rows.end);
        if first >= last {
            return self.product(rows, true).into(y);
        }
        let groups = &groups[first..last];
        RANKS.with_borrow_mut(|ranks| {
            let shares = self.ranks(&rows, groups, ranks);
            let n = self.w.shape().n;
            if shares.iter().all(|share| share.is_whole_panels(n)) {
                let parts: Vec<Part<'_>> = shares.into_iter().map(|share| share.part).collect();
                return self.product(rows.clone(), true).into_with_parts(&parts, y);
            }
            // Sites that are no whole panels wide: the ranks follow as products of their own, with the same bits.
            self.product(rows.clone(), false).into(y.reborrow());
            for share in &shares {
                let y = y.reborrow().row_range(share.part.rows.clone());
                share.add(y.col_range(share.part.columns.clone()));
            }
            self.finish(rows, y);
        });
    }

    /// The low-rank parts of `groups` in these rows and columns, their `x At` in `ranks`.
    fn ranks<'r>(
        &self,
        rows: &Range<usize>,
        groups: &'r [GroupFactors<'_>],
        ranks: &'r mut Vec<f32>,
    ) -> Vec<Share<'r>> {
        let here = self.first..self.first + self.w.shape().n;
        let in_rows = |g: &GroupFactors<'_>| g.rows.start.max(rows.start)..g.rows.end.min(rows.end);
        let size = |g: &GroupFactors<'_>| in_rows(g).len() * g.factors.down.rows();
        let total = groups.iter().map(size).sum();
        if ranks.len() < total {
            ranks.resize(total, 0.0);
        }
        let mut rest = &mut ranks[..total];
        let mut shares = Vec::new();
        for group in groups {
            let (of, rank) = (in_rows(group), group.factors.down.rows());
            let (t, after) = std::mem::take(&mut rest).split_at_mut(of.len() * rank);
            rest = after;
            let x = group.input.unwrap_or(self.x).row_range(of.clone());
            let a = group.factors.down.view();
            ranks_into(x, a, MatMut::new(t, of.len(), rank));
            let t = Mat::new(t, of.len(), rank);
            for part in &group.factors.parts {
                let columns = part.columns.start.max(here.start)..part.columns.end.min(here.end);
                if columns.start < columns.end {
                    shares.push(part.at(t, of.start - rows.start, columns, here.start));
                }
            }
        }
        shares
    }

    /// The base product of `rows`, with the epilogue or to be continued.
    fn product(&self, rows: Range<usize>, whole: bool) -> Product<'a> {
        let Epilogue {
            activation,
            residual,
        } = self.epilogue;
        Product {
            x: self.x.row_range(rows.clone()),
            w: self.w,
            init: self.bias.map_or(Init::Zero, Init::Bias),
            activation: activation.filter(|_| whole),
            residual: residual.filter(|_| whole).map(|r| r.row_range(rows)),
        }
    }

    /// The epilogue over finished sums.
    fn finish(&self, rows: Range<usize>, mut y: MatMut<'_>) {
        for r in 0..rows.len() {
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
    /// This part over `columns` of the linear, which lie inside it, in a call whose first column is `origin`; `t` are
    /// the ranks of all parts, for rows from `row` on. Columns that cut through a panel of B get it whole.
    fn at<'r>(&'r self, t: Mat<'r>, row: usize, columns: Range<usize>, origin: usize) -> Share<'r> {
        let own = columns.start - self.columns.start..columns.end - self.columns.start;
        let panels = own.start / WIDTH..own.end.div_ceil(WIDTH);
        Share {
            skip: own.start % WIDTH,
            part: Part {
                rows: row..row + t.rows(),
                columns: columns.start - origin..columns.end - origin,
                t: t.col_range(self.ranks.clone()),
                up: self.up.view().panel_range(panels),
            },
        }
    }
}

/// What a call gets of a part.
struct Share<'a> {
    part: Part<'a>,
    /// Columns of `part.up` before the first that is this call's.
    skip: usize,
}

impl Share<'_> {
    /// Whether its columns are whole panels of a call `n` columns wide, and whole panels of B.
    fn is_whole_panels(&self, n: usize) -> bool {
        let Part { columns, up, .. } = &self.part;
        let ends = |column: usize| column.is_multiple_of(WIDTH) || column == n;
        self.skip == 0
            && up.shape().n == columns.len()
            && columns.start.is_multiple_of(WIDTH)
            && ends(columns.end)
    }

    /// `y += t Bt`; `y` is this share's rows and columns.
    fn add(&self, mut y: MatMut<'_>) {
        let Part { columns, t, up, .. } = &self.part;
        let product = Product {
            x: *t,
            w: *up,
            init: Init::Keep,
            activation: None,
            residual: None,
        };
        let wide = up.shape().n;
        if wide == columns.len() {
            return product.into(y);
        }
        // A thread's columns cut a panel of this part (its width is no multiple of 16): computed whole, copied in part.
        EDGE.with_borrow_mut(|edge| {
            let mut sums = edge.reshape(y.rows(), wide);
            let at = self.skip..self.skip + columns.len();
            for r in 0..y.rows() {
                sums.row_mut(r)[at.clone()].copy_from_slice(y.row_mut(r));
            }
            product.into(sums.reborrow());
            for r in 0..y.rows() {
                y.row_mut(r).copy_from_slice(&sums.row_mut(r)[at.clone()]);
            }
        });
    }
}

thread_local! {
    /// `x At` of a call's rows, group after group, `[rows x R]` each.
    static RANKS: RefCell<Vec<f32>> = RefCell::default();
    /// Columns of a part that a thread's share cuts through.
    static EDGE: RefCell<Matrix> = RefCell::default();
}
