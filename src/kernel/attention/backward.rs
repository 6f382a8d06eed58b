//! The gradient of attention: from the gradient of its output to those of q, k, v and the position tables.
//!
//! Probabilities are computed again from q and k, a block of queries at a time, so nothing of the forward pass is
//! kept but its inputs and memory stays linear in the length. Gradients of keys and values are sums over
//! queries and added up over blocks. The products run on `gemm`: training needs no bits that are independent of
//! the batch.
//!
//! Not here: the gradient of a distance bias, which no adapter touches.

use std::ops::Range;

use super::{Attention, Divide, Head, Positions, Scratch, padded};
use crate::{
    kernel::{gemm::gemm, relative::Distances, softmax, transient::Words},
    mat::{Mat, MatMut},
    simd,
};

/// The projected position tables as checkpoints order them, `[2 span x N D]`: what the panels were packed from.
#[derive(Debug, Clone, Copy, Default)]
pub struct PositionTables<'a> {
    /// Content to position.
    pub keys: Option<Mat<'a>>,
    /// Position to content.
    pub queries: Option<Mat<'a>>,
}

/// Where the gradients of some heads go; columns are those of these heads.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[T x heads D]`, written.
    pub dq: MatMut<'a>,
    /// `[T x heads D]`, written.
    pub dk: MatMut<'a>,
    /// `[T x heads D]`, written.
    pub dv: MatMut<'a>,
    /// `[2 span x heads D]`, added to: all sequences and layers that share a table add to it.
    pub position_keys: Option<MatMut<'a>>,
    /// `[2 span x heads D]`, added to.
    pub position_queries: Option<MatMut<'a>>,
}

/// Buffers that only the gradient needs.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    scores: Words,
    /// Probabilities after dropout.
    dropped: Words,
    content: Words,
    position: Words,
}

impl Attention<'_> {
    /// The gradients of [`Attention::forward`] for `heads`, given `dout [T x heads D]`.
    ///
    /// # Panics
    /// When shapes disagree, or a position term has no table here, or its gradient no place to go.
    pub fn backward(
        &self,
        heads: Range<usize>,
        tables: PositionTables<'_>,
        dout: Mat<'_>,
        mut to: Gradients<'_>,
        scratch: &mut Scratch,
    ) {
        let width = self.check();
        let shape = (self.q.rows(), heads.len() * width);
        for m in [dout, to.dq.as_ref(), to.dk.as_ref(), to.dv.as_ref()] {
            assert_eq!((m.rows(), m.cols()), shape, "gradients of attention");
        }
        if shape.0 == 0 {
            return;
        }
        let (wants_keys, wants_queries) = match self.positions {
            Positions::Relative(r) => (r.keys.is_some(), r.queries.is_some()),
            _ => (false, false),
        };
        for (i, h) in heads.enumerate() {
            let cols = i * width..(i + 1) * width;
            let head = Head::pack(self, simd::level(), h, &(0..shape.0), scratch);
            HeadGradient {
                q: head.columns(self.q),
                k: head.columns(self.k),
                v: head.columns(self.v),
                dout: dout.col_range(cols.clone()),
                dq: to.dq.reborrow().col_range(cols.clone()),
                dk: to.dk.reborrow().col_range(cols.clone()),
                dv: to.dv.reborrow().col_range(cols.clone()),
                content: wants_keys
                    .then(|| Term::new(&head, tables.keys, &mut to.position_keys, cols.clone())),
                position: wants_queries.then(|| {
                    Term::new(
                        &head,
                        tables.queries,
                        &mut to.position_queries,
                        cols.clone(),
                    )
                }),
                head: &head,
            }
            .run(scratch);
        }
    }
}

/// One head's columns of a position table and of its gradient, in the rows that the sequence reads.
struct Term<'a> {
    distances: &'a Distances,
    /// The table row that comes first.
    first: usize,
    table: Mat<'a>,
    d: MatMut<'a>,
}

impl<'a> Term<'a> {
    fn new(
        head: &Head<'a>,
        table: Option<Mat<'a>>,
        d: &'a mut Option<MatMut<'_>>,
        cols: Range<usize>,
    ) -> Self {
        let Positions::Relative(relative) = head.of.positions else {
            unreachable!("a term belongs to relative positions");
        };
        let table = table.expect("a position term needs its projected table");
        let d = d
            .as_mut()
            .expect("the gradient of a position table needs a place");
        let (distances, last) = (relative.distances, head.of.q.rows() - 1);
        assert_eq!(
            (table.rows(), table.cols()),
            (2 * distances.span(), head.of.q.cols()),
            "projected position table"
        );
        let rows = distances.table_row(0, last)..distances.table_row(last, 0) + 1;
        Self {
            distances,
            first: rows.start,
            table: head.columns(table).row_range(rows.clone()),
            d: d.reborrow().col_range(cols).row_range(rows),
        }
    }

    /// Entry of a row of gradients for query `i` and key `j`.
    fn column(&self, i: usize, j: usize) -> usize {
        self.distances.table_row(i, j) - self.first
    }
}

/// The operands of one head's gradient.
struct HeadGradient<'a> {
    head: &'a Head<'a>,
    q: Mat<'a>,
    k: Mat<'a>,
    v: Mat<'a>,
    dout: Mat<'a>,
    dq: MatMut<'a>,
    dk: MatMut<'a>,
    dv: MatMut<'a>,
    content: Option<Term<'a>>,
    position: Option<Term<'a>>,
}

impl HeadGradient<'_> {
    fn run(mut self, scratch: &mut Scratch) {
        let (head, tokens) = (self.head, self.q.rows());
        let scale = head.of.scale;
        let mut own = std::mem::take(&mut scratch.gradients);
        for r in 0..tokens {
            self.dk.row_mut(r).fill(0.0);
            self.dv.row_mut(r).fill(0.0);
        }
        if let Some(term) = &self.position {
            own.position.get_mut(tokens * term.table.rows()).fill(0.0);
        }
        let rows = head.block_rows();
        for start in (0..tokens).step_by(rows) {
            let block = start..tokens.min(start + rows);
            // All keys are packed, so columns of the block are keys.
            let keys = head.weights(block.clone(), scratch);
            let (n, stride) = (block.len(), padded(keys.len()));
            let mut p =
                MatMut::new(scratch.scores.get_mut(n * stride), n, stride).col_range(0..keys.len());
            let (x, by) = (p.reborrow(), &scratch.sums[..]);
            simd::run_at(head.level, Divide { x, by });
            let p = p.as_ref();
            let (q, dout) = (
                self.q.row_range(block.clone()),
                self.dout.row_range(block.clone()),
            );
            let (k, v) = (
                self.k.row_range(keys.clone()),
                self.v.row_range(keys.clone()),
            );
            // out = (p o mask) v
            let mut dropped = p;
            if let Some(dropout) = head.of.dropout {
                let all = own.dropped.get_mut(n * keys.len());
                let mut to = MatMut::new(&mut *all, n, keys.len());
                to.copy_from(p);
                head.drop(dropout, block.clone(), keys.start, to);
                dropped = Mat::new(all, n, keys.len());
            }
            let dv = self.dv.reborrow().row_range(keys.clone());
            gemm(dv, 1.0, 1.0, dropped, true, dout, false);
            let mut ds = MatMut::new(own.scores.get_mut(n * keys.len()), n, keys.len());
            gemm(ds.reborrow(), 0.0, 1.0, dout, false, v, true);
            if let Some(dropout) = head.of.dropout {
                head.drop(dropout, block.clone(), keys.start, ds.reborrow());
            }
            // p = softmax(s)
            softmax::backward_at(head.level, p, ds.reborrow());
            let ds = ds.as_ref();
            // s = q kT scale
            let dq = self.dq.reborrow().row_range(block.clone());
            gemm(dq, 0.0, scale, ds, false, k, false);
            let dk = self.dk.reborrow().row_range(keys.clone());
            gemm(dk, 1.0, scale, ds, true, q, false);
            // s_ij += q_i . pos_key[p_ij] scale
            if let Some(term) = &mut self.content {
                let width = term.table.rows();
                let dc = own.content.get_mut(n * width);
                dc.fill(0.0);
                for (r, i) in block.clone().enumerate() {
                    for c in head.columns_seen(i, keys.start) {
                        dc[r * width + term.column(i, keys.start + c)] += ds.row(r)[c];
                    }
                }
                let dc = Mat::new(dc, n, width);
                let dq = self.dq.reborrow().row_range(block.clone());
                gemm(dq, 1.0, scale, dc, false, term.table, false);
                gemm(term.d.reborrow(), 1.0, scale, dc, true, q, false);
            }
            // s_ij += k_j . pos_query[p_ij] scale
            if let Some(term) = &self.position {
                let width = term.table.rows();
                let dp = own.position.get_mut(tokens * width);
                for (r, i) in block.enumerate() {
                    for c in head.columns_seen(i, keys.start) {
                        let j = keys.start + c;
                        dp[j * width + term.column(i, j)] += ds.row(r)[c];
                    }
                }
            }
        }
        if let Some(term) = &mut self.position {
            let width = term.table.rows();
            let dp = Mat::new(own.position.get(tokens * width), tokens, width);
            gemm(self.dk.reborrow(), 1.0, scale, dp, false, term.table, false);
            gemm(term.d.reborrow(), 1.0, scale, dp, true, self.k, false);
        }
        scratch.gradients = own;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{Case, Inputs, KINDS},
        *,
    };
    use crate::{
        kernel::naive::{Noise, assert_near, differences},
        mat::Matrix,
    };

    /// Products of up to 33 terms that were themselves differences of sums.
    const TOLERANCE: f64 = 5e-6;

    #[test]
    fn gradients_equal_differences() {
        let mut scratch = Scratch::default();
        for (kind, dropped) in KINDS.into_iter().flat_map(|k| [(k, 0.0), (k, 0.3)]) {
            for (tokens, width) in [(1, 8), (5, 4), (18, 6), (70, 2)] {
                let case = Case::new(kind, tokens, 2, width).dropping(dropped);
                let (attention, h) = (case.attention(), 2 * width);
                let dout = Noise::new(tokens as u64).matrix(tokens, h, 1.0);
                let table = |t: &Option<(Matrix, _)>| t.as_ref().map(|t| t.0.rows());
                let nan = |rows| Matrix::from_vec(vec![f32::NAN; rows * h], rows, h);
                let (mut dq, mut dk, mut dv) = (nan(tokens), nan(tokens), nan(tokens));
                // Gradients of tables are added to what is there.
                let there = |rows: Option<usize>| {
                    rows.map(|rows| Matrix::from_vec(vec![0.5; rows * h], rows, h))
                };
                let mut pk = there(table(&case.keys));
                let mut pq = there(table(&case.queries));
                for heads in [1..2, 0..1] {
                    let cols = heads.start * width..heads.end * width;
                    let tables = PositionTables {
                        keys: case.keys.as_ref().map(|t| t.0.view()),
                        queries: case.queries.as_ref().map(|t| t.0.view()),
                    };
                    let to = Gradients {
                        dq: dq.view_mut().col_range(cols.clone()),
                        dk: dk.view_mut().col_range(cols.clone()),
                        dv: dv.view_mut().col_range(cols.clone()),
                        position_keys: pk.as_mut().map(|m| m.view_mut().col_range(cols.clone())),
                        position_queries: pq.as_mut().map(|m| m.view_mut().col_range(cols.clone())),
                    };
                    attention.backward(
                        heads,
                        tables,
                        dout.view().col_range(cols),
                        to,
                        &mut scratch,
                    );
                }
                let inputs = case.inputs();
                let loss = |inputs: &Inputs| -> f64 {
                    let out = case.naive(inputs);
                    out.iter()
                        .zip(dout.as_slice())
                        .map(|(o, &d)| o * f64::from(d))
                        .sum()
                };
                let what = format!("{kind:?}, {tokens} x {width}, {dropped} dropped");
                type Pick = fn(&mut Inputs) -> &mut Vec<f64>;
                let parts: [(&str, Option<&Matrix>, f64, Pick); 5] = [
                    ("dq", Some(&dq), 0.0, |x| &mut x.q),
                    ("dk", Some(&dk), 0.0, |x| &mut x.k),
                    ("dv", Some(&dv), 0.0, |x| &mut x.v),
                    ("position keys", pk.as_ref(), 0.5, |x| &mut x.keys),
                    ("position queries", pq.as_ref(), 0.5, |x| &mut x.queries),
                ];
                for (name, got, there, pick) in parts {
                    let Some(got) = got else { continue };
                    let mut moved = inputs.clone();
                    let at = pick(&mut moved).clone();
                    // Every eleventh element: a difference costs two whole forward passes.
                    let some: Vec<usize> = (0..at.len()).step_by(11).collect();
                    let start: Vec<f64> = some.iter().map(|&i| at[i]).collect();
                    let want = differences(&start, |x| {
                        for (&i, &x) in some.iter().zip(x) {
                            pick(&mut moved)[i] = x;
                        }
                        loss(&moved)
                    });
                    let got: Vec<f32> = some
                        .iter()
                        .map(|&i| got.as_slice()[i] - there as f32)
                        .collect();
                    assert_near(&format!("{name}, {what}"), &got, &want, TOLERANCE);
                }
            }
        }
    }
}
