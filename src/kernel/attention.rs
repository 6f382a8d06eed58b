//! Attention of one sequence: scores, softmax and the weighted sum of the values, head by head.
//!
//! ```text
//! s_ij = (q_i . k_j + positions_ij) scale + bias_ij      p = softmax_j(s)      out_i = sum_j p_ij v_j
//! ```
//!
//! Keys and values of a head are packed into panels ([`transient`]) and both products run on the panel
//! kernels, a block of queries at a time against all keys in reach. The block is chosen so that its scores stay
//! in cache, so memory is linear in the length. Exponents are not divided by their sum before the second
//! product: the D outputs are, which are fewer. A query's row of scores holds exactly the keys it sees (padding
//! of the last panel never gets in); keys outside its window enter the second product with weight 0.
//!
//! Each output element is made of sums whose order depends on T, the window and its own place alone, so
//! the bits are the same however the work is cut: heads, queries, blocks and value chunks (which continue
//! one chain of additions). [`Attention::part`] is what threads share a sequence with.
//!
//! In training, weights may be dropped after the softmax: each query's, over the keys it sees, is a row of the mask.
//!
//! Not here: masks (a ragged batch has no padding), causal order, threads.

mod backward;
mod disentangled;

use std::ops::Range;

use disentangled::Terms;

pub use backward::{Gradients, PositionTables};

use crate::{
    kernel::{
        bucketed::DistanceBias,
        dropout::Dropout,
        panel::{Init, Panels, Precision, Product, WIDTH},
        reduce::{load_at, store_at},
        relative::{Distances, PositionPanels},
        softmax,
        transient::{self, Words},
    },
    mat::{Mat, MatMut},
    simd::{self, Kernel, LANES, Level, Simd},
};

/// What a score depends on besides q and k.
#[derive(Debug, Clone, Copy)]
pub enum Positions<'a> {
    /// Nothing: positions are in the embeddings, or q and k were turned.
    None,
    /// A bias a head and distance, added after scaling.
    Bucketed(&'a DistanceBias),
    /// Disentangled terms, added before scaling.
    Relative(Relative<'a>),
}

/// The disentangled terms of relative positions; see [`relative`](super::relative).
#[derive(Debug, Clone, Copy)]
pub struct Relative<'a> {
    /// Which row a distance reads.
    pub distances: &'a Distances,
    /// Content to position: projected with the key weights, read by q.
    pub keys: Option<&'a PositionPanels>,
    /// Position to content: projected with the query weights, read by k.
    pub queries: Option<&'a PositionPanels>,
}

impl Relative<'_> {
    /// What scores are multiplied by: `1 / sqrt(D (1 + terms))`.
    pub fn scale(&self, width: usize) -> f32 {
        let terms = 1 + usize::from(self.keys.is_some()) + usize::from(self.queries.is_some());
        1.0 / ((width * terms) as f32).sqrt()
    }
}

/// The operands of attention over one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// `[T x N D]`; q, k and v may be column ranges of one buffer.
    pub q: Mat<'a>,
    /// `[T x N D]`
    pub k: Mat<'a>,
    /// `[T x N D]`
    pub v: Mat<'a>,
    /// Heads N.
    pub heads: usize,
    /// Multiplies the scores; positive.
    pub scale: f32,
    /// A query sees the keys at most this far away; all, where there is none.
    pub window: Option<usize>,
    /// Position terms.
    pub positions: Positions<'a>,
    /// What drops weights, row `head T + query` over the keys seen.
    pub dropout: Option<Dropout>,
    /// How the two products are made: in `f32`, or with all operands rounded to `bf16` (sums stay `f32`).
    pub precision: Precision,
}

/// Buffers of one thread; they grow to the longest sequence and then stay.
#[derive(Debug, Default)]
pub struct Scratch {
    keys: Words,
    values: Words,
    scores: Words,
    sums: Vec<f32>,
    terms: Terms,
    gradients: backward::Buffers,
}

/// Words that a block of scores should fit into: half of an L2 of 512 KiB.
const BLOCK_WORDS: usize = 32 * 1024;
/// Queries of a block, at least and at most.
const BLOCK_ROWS: Range<usize> = 16..64;
/// Keys of a chunk of values. With a window small chunks waste less on keys out of reach.
const CHUNK: usize = 128;
const CHUNK_WINDOW: usize = 32;

impl Attention<'_> {
    /// Attention of the whole sequence into `out [T x N D]`, on this thread.
    ///
    /// # Panics
    /// When shapes disagree, the scale is not positive or the position tables are too short.
    ///
    /// # Accuracy
    /// Within 2e-6 of the `f64` formula, relative to the largest value, for scores up to about 10.
    pub fn forward(&self, out: MatMut<'_>, scratch: &mut Scratch) {
        self.part(0..self.heads, 0..self.q.rows(), out, scratch);
    }

    /// The outputs of some heads and queries, `out [queries x heads D]`: the same bits as in [`Attention::forward`].
    ///
    /// # Panics
    /// As [`Attention::forward`], and when a range is out of bounds.
    pub fn part(
        &self,
        heads: Range<usize>,
        queries: Range<usize>,
        out: MatMut<'_>,
        scratch: &mut Scratch,
    ) {
        self.part_at(simd::level(), heads, queries, out, scratch);
    }

    /// [`Attention::part`] at `level`.
    pub fn part_at(
        &self,
        level: Level,
        heads: Range<usize>,
        queries: Range<usize>,
        mut out: MatMut<'_>,
        scratch: &mut Scratch,
    ) {
        let width = self.check();
        assert!(heads.end <= self.heads && queries.end <= self.q.rows());
        assert_eq!(
            (out.rows(), out.cols()),
            (queries.len(), heads.len() * width),
            "output of attention"
        );
        if queries.is_empty() {
            return;
        }
        for (i, h) in heads.enumerate() {
            let cols = i * width..(i + 1) * width;
            let head = Head::pack(self, level, h, &queries, scratch);
            head.queries(queries.clone(), out.reborrow().col_range(cols), scratch);
        }
    }

    /// Asserts that shapes agree; the head width.
    fn check(&self) -> usize {
        let (tokens, cols) = (self.q.rows(), self.q.cols());
        assert!(
            self.heads > 0 && cols.is_multiple_of(self.heads),
            "heads of {:?}",
            self.q
        );
        for m in [self.k, self.v] {
            assert_eq!((m.rows(), m.cols()), (tokens, cols), "q, k and v");
        }
        assert!(self.scale > 0.0, "scale of attention is {}", self.scale);
        let width = cols / self.heads;
        match self.positions {
            Positions::None => {}
            Positions::Bucketed(bias) => {
                assert_eq!(bias.heads(), self.heads, "heads of a distance bias");
                assert!(
                    tokens <= bias.tokens(),
                    "{tokens} tokens, bias for {}",
                    bias.tokens()
                );
            }
            Positions::Relative(r) => {
                let most = r.distances.tokens();
                assert!(tokens <= most, "{tokens} tokens, distances for {most}");
                for table in [r.keys, r.queries].into_iter().flatten() {
                    assert_eq!(
                        (table.rows(), table.heads(), table.width()),
                        (2 * r.distances.span(), self.heads, width),
                        "position table"
                    );
                }
            }
        }
        width
    }

    /// The keys that any of `queries` sees.
    fn reach(&self, queries: &Range<usize>) -> Range<usize> {
        match self.window {
            None => 0..self.k.rows(),
            Some(w) => {
                queries.start.saturating_sub(w)..queries.end.saturating_add(w).min(self.k.rows())
            }
        }
    }
}

/// One head whose keys and values in reach lie packed in the scratch.
struct Head<'a> {
    of: &'a Attention<'a>,
    level: Level,
    index: usize,
    width: usize,
    /// The packed keys.
    reach: Range<usize>,
    /// Keys of a chunk of values.
    chunk: usize,
}

impl<'a> Head<'a> {
    fn pack(
        of: &'a Attention<'a>,
        level: Level,
        index: usize,
        queries: &Range<usize>,
        scratch: &mut Scratch,
    ) -> Self {
        let width = of.q.cols() / of.heads;
        let Range { start, end } = of.reach(queries);
        // From an even key on: a pair of `bf16` is two keys, the same two whichever queries are asked for.
        let reach = start & !1..end;
        let head = Head {
            of,
            level,
            index,
            width,
            chunk: if of.window.is_some() {
                CHUNK_WINDOW
            } else {
                CHUNK
            },
            reach: reach.clone(),
        };
        let k = head.columns(of.k).row_range(reach.clone());
        let v = head.columns(of.v).row_range(reach.clone());
        let bytes = |n, k| transient::shape(of.precision, n, k).bytes();
        let keys = scratch.keys.get_mut(bytes(k.rows(), width) / 4);
        transient::pack_rows(of.precision, k, keys);
        let values = scratch.values.get_mut(bytes(width, v.rows()) / 4);
        let chunk = bytes(width, head.chunk) / 4;
        for (c, to) in values.chunks_mut(chunk).enumerate() {
            let keys = c * head.chunk..v.rows().min((c + 1) * head.chunk);
            transient::pack_depth(of.precision, v.row_range(keys), to);
        }
        if let Positions::Relative(r) = of.positions {
            head.pack_position(r, queries, &mut scratch.terms);
        }
        head
    }

    /// The columns of this head.
    fn columns<'m>(&self, m: Mat<'m>) -> Mat<'m> {
        m.col_range(self.index * self.width..(self.index + 1) * self.width)
    }

    /// The outputs of `queries`, `out [queries x D]`.
    fn queries(&self, queries: Range<usize>, mut out: MatMut<'_>, scratch: &mut Scratch) {
        let rows = self.block_rows();
        for start in queries.clone().step_by(rows) {
            let block = start..queries.end.min(start + rows);
            let at = start - queries.start;
            let out = out.reborrow().row_range(at..at + block.len());
            self.block(block, out, scratch);
        }
    }

    /// Queries of a block: a number that keeps its scores in cache.
    fn block_rows(&self) -> usize {
        let most = match self.of.positions {
            Positions::Relative(_) => disentangled::BLOCK,
            _ => BLOCK_ROWS.end,
        };
        let keys = self.reach.len().next_multiple_of(self.chunk);
        (BLOCK_WORDS / keys / 8 * 8).clamp(BLOCK_ROWS.start, most)
    }

    fn block(&self, queries: Range<usize>, mut out: MatMut<'_>, scratch: &mut Scratch) {
        let Range {
            start: first,
            end: last,
        } = self.weights(queries.clone(), scratch);
        let stride = padded(last - first);
        if let Some(dropout) = self.of.dropout {
            let all = scratch.scores.get_mut(queries.len() * stride);
            let weights = MatMut::new(all, queries.len(), stride);
            self.drop(dropout, queries.clone(), first, weights);
        }
        let weights = Mat::new(
            scratch.scores.get(queries.len() * stride),
            queries.len(),
            stride,
        );
        let values = transient::shape(self.of.precision, self.width, self.reach.len());
        let values = scratch.values.get(values.bytes() / 4);
        for chunk in (first..last).step_by(self.chunk) {
            let keys = chunk..last.min(chunk + self.chunk);
            let shape = |keys| transient::shape(self.of.precision, self.width, keys);
            let words = &values[shape(chunk).bytes() / 4..];
            let words = &words[..shape(keys.len()).bytes() / 4];
            let init = if chunk == first {
                Init::Zero
            } else {
                Init::Keep
            };
            product(
                self.level,
                weights.col_range(keys.start - first..keys.end - first),
                Panels::of_words(words, shape(keys.len())),
                init,
                out.reborrow(),
            );
        }
        simd::run_at(
            self.level,
            Divide {
                x: out,
                by: &scratch.sums,
            },
        );
    }

    /// `e^(s - max)` of `queries` in the scratch, rows padded to whole vectors, and its sums; the packed keys
    /// that the columns stand for (whole chunks of values).
    fn weights(&self, queries: Range<usize>, scratch: &mut Scratch) -> Range<usize> {
        // Keys are counted from the first packed one; whole chunks of values are multiplied.
        let base = self.reach.start;
        let seen = self.of.reach(&queries);
        let (low, high) = (seen.start - base, seen.end - base);
        let first = low / self.chunk * self.chunk;
        let last = high.next_multiple_of(self.chunk).min(self.reach.len());
        let q = self.columns(self.of.q).row_range(queries.clone());

        let stride = padded(last - first);
        let all = scratch.scores.get_mut(queries.len() * stride);
        let mut scores = MatMut::new(all, queries.len(), stride).col_range(0..last - first);
        let keys = transient::shape(self.of.precision, self.reach.len(), self.width);
        let keys = Panels::of_words(scratch.keys.get(keys.bytes() / 4), keys)
            .panel_range(low / WIDTH..high.div_ceil(WIDTH));
        let at = low / WIDTH * WIDTH - first;
        let to = scores.reborrow().col_range(at..at + keys.shape().n);
        product(self.level, q, keys, Init::Zero, to);

        if let Positions::Relative(r) = self.of.positions {
            let (terms, scores) = (&mut scratch.terms, scores.reborrow());
            self.add_terms(r, &queries, &seen, first, terms, scores);
        }
        if scratch.sums.len() < queries.len() {
            scratch.sums.resize(queries.len(), 0.0);
        }
        simd::run_at(
            self.level,
            Exponents {
                head: self,
                queries: queries.clone(),
                first,
                scores: scores.reborrow(),
                sums: &mut scratch.sums,
            },
        );

        first..last
    }

    /// Masks a row of `weights` a query, over the keys it sees; the first column is packed key `first`.
    fn drop(&self, dropout: Dropout, queries: Range<usize>, first: usize, mut weights: MatMut<'_>) {
        let tokens = self.of.q.rows();
        for (r, i) in queries.enumerate() {
            let seen = self.columns_seen(i, first);
            dropout.row(self.index * tokens + i, &mut weights.row_mut(r)[seen]);
        }
    }

    /// Keys that query `i` sees, as columns of a block whose first column is packed key `first`.
    #[inline(always)]
    fn columns_seen(&self, i: usize, first: usize) -> Range<usize> {
        let seen = self.of.reach(&(i..i + 1));
        let origin = self.reach.start + first;
        seen.start - origin..seen.end - origin
    }
}

/// `n` rounded up to whole panels.
fn padded(n: usize) -> usize {
    n.next_multiple_of(WIDTH)
}

/// `y = init + x wt` at `level`.
fn product(level: Level, x: Mat<'_>, w: Panels<'_>, init: Init<'_>, y: MatMut<'_>) {
    let product = Product {
        x,
        w,
        init,
        activation: None,
        residual: None,
    };
    product.into_at(level, None, y);
}

/// Turns scores into `e^(s - max)` where a query sees the key, and 0 elsewhere; sums go to `sums`.
struct Exponents<'a> {
    head: &'a Head<'a>,
    queries: Range<usize>,
    first: usize,
    scores: MatMut<'a>,
    sums: &'a mut [f32],
}

impl Kernel for Exponents<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let head = self.head;
        let scale = head.of.scale;
        for (r, i) in self.queries.enumerate() {
            let seen = head.columns_seen(i, self.first);
            let all = self.scores.row_mut(r);
            all[..seen.start].fill(0.0);
            all[seen.end..].fill(0.0);
            let after = (head.reach.start + self.first + seen.start) as isize - i as isize;
            let row = &mut all[seen];
            self.sums[r] = match head.of.positions {
                Positions::Bucketed(bias) => {
                    let bias = &bias.from(head.index, after)[..row.len()];
                    for v in 0..row.len().div_ceil(LANES) {
                        let x = s.fma(load_at(s, row, v), s.splat(scale), load_at(s, bias, v));
                        store_at(s, x, row, v);
                    }
                    softmax::exponents(s, row, 1.0)
                }
                _ => softmax::exponents(s, row, scale),
            };
        }
    }
}

/// Divides row `r` of `x` by `by[r]`.
struct Divide<'a> {
    x: MatMut<'a>,
    by: &'a [f32],
}

impl Kernel for Divide<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for r in 0..self.x.rows() {
            let by = s.splat(self.by[r]);
            let row = self.x.row_mut(r);
            for i in 0..row.len().div_ceil(LANES) {
                store_at(s, s.div(load_at(s, row, i), by), row, i);
            }
        }
    }
}

#[cfg(test)]
mod tests;
