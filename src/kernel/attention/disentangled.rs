//! The disentangled terms of a block of scores.
//!
//! Content to position is a product of the block's queries with the rows of the position table that the block
//! and its keys read between them; position to content one of keys with theirs, made once a head for all
//! queries. Both run over short blocks of consecutive tokens, because a block of n tokens against T others reads
//! `T + n - 1` distances, and every row more is multiplied in vain.
//!
//! Then each score picks its entry. Where distances are not bucketed the entries of a row of scores lie a
//! fixed step apart (one for content; a row and one for position), elsewhere a table says where.

use std::ops::Range;

use super::{Head, Relative, product};
use crate::{
    kernel::{
        panel::{Init, Panels, WIDTH},
        relative::{Distances, PositionPanels},
        transient::Words,
    },
    mat::MatMut,
};

/// Tokens of a block of either product.
pub(super) const BLOCK: usize = 32;

/// Buffers of the terms.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Content to position, a row a query of the block.
    content: Words,
    /// Position to content, a row a packed key.
    position: Words,
    /// Columns of `position`.
    columns: usize,
    /// The packed table row of column 0 of `position`, for each block of keys.
    starts: Vec<usize>,
}

impl Head<'_> {
    /// Makes position to content for the packed keys against `queries`.
    pub(super) fn pack_position(&self, r: Relative<'_>, queries: &Range<usize>, terms: &mut Terms) {
        let Some(table) = r.queries else { return };
        let k = self.columns(self.of.k).row_range(self.reach.clone());
        let blocks = || {
            (0..k.rows())
                .step_by(BLOCK)
                .map(|b| b..k.rows().min(b + BLOCK))
        };
        let rows = |block: &Range<usize>| {
            let keys = self.reach.start + block.start..self.reach.start + block.end;
            self.table_rows(r.distances, table, queries, &keys)
        };
        terms.columns = blocks().map(|b| rows(&b).0.shape().n).max().unwrap_or(0);
        terms.starts.clear();
        let words = terms.position.get_mut(k.rows() * terms.columns);
        let mut all = MatMut::new(words, k.rows(), terms.columns);
        for block in blocks() {
            let (panels, start) = rows(&block);
            terms.starts.push(start);
            let y = all
                .reborrow()
                .row_range(block.clone())
                .col_range(0..panels.shape().n);
            product(self.level, k.row_range(block), panels, Init::Zero, y);
        }
    }

    /// Adds both terms to the scores of `queries`, who see the keys `seen` between them; columns of `scores` are
    /// packed keys from `first` on.
    pub(super) fn add_terms(
        &self,
        r: Relative<'_>,
        queries: &Range<usize>,
        seen: &Range<usize>,
        first: usize,
        terms: &mut Terms,
        mut scores: MatMut<'_>,
    ) {
        if let Some(table) = r.keys {
            let (panels, start) = self.table_rows(r.distances, table, queries, seen);
            let n = panels.shape().n;
            let q = self.columns(self.of.q).row_range(queries.clone());
            let mut content = MatMut::new(terms.content.get_mut(q.rows() * n), q.rows(), n);
            product(self.level, q, panels, Init::Zero, content.reborrow());
            for (row, i) in queries.clone().enumerate() {
                let seen = self.columns_seen(i, first);
                let after = (self.reach.start + first + seen.start) as isize - i as isize;
                let to = &mut scores.row_mut(row)[seen];
                add(r.distances, after, content.row_mut(row), 0, start, to);
            }
        }
        if r.queries.is_some() {
            let columns = terms.columns;
            let position = terms.position.get(self.reach.len() * columns);
            let (low, high) = (seen.start - self.reach.start, seen.end - self.reach.start);
            // Keys outside, queries inside: neighbouring queries read neighbouring entries of a key.
            for (block, &start) in terms.starts.iter().enumerate() {
                let keys = block * BLOCK..(block + 1) * BLOCK;
                if keys.end <= low || keys.start >= high {
                    continue;
                }
                for (row, i) in queries.clone().enumerate() {
                    let seen = self.columns_seen(i, first);
                    let run = keys.start.max(first + seen.start)..keys.end.min(first + seen.end);
                    if run.is_empty() {
                        continue;
                    }
                    let after = (self.reach.start + run.start) as isize - i as isize;
                    let to = &mut scores.row_mut(row)[run.start - first..run.end - first];
                    let from = &position[run.start * columns..run.end * columns];
                    add(r.distances, after, from, columns, start, to);
                }
            }
        }
    }

    /// The panels of a position table that `queries` and `keys` read between them, and their first row.
    fn table_rows<'t>(
        &self,
        distances: &Distances,
        table: &'t PositionPanels,
        queries: &Range<usize>,
        keys: &Range<usize>,
    ) -> (Panels<'t>, usize) {
        let first = distances.row(keys.start as isize - (queries.end as isize - 1));
        let last = distances.row(keys.end as isize - 1 - queries.start as isize);
        let panels = first / WIDTH..last / WIDTH + 1;
        let start = panels.start * WIDTH;
        (table.head(self.index).panel_range(panels), start)
    }
}

/// Adds one term to the scores of one query against consecutive keys, the first of them `after` behind the query:
/// key `c` reads `terms[c step + row - start]`, where `row` is the packed table row of its distance.
fn add(
    distances: &Distances,
    after: isize,
    terms: &[f32],
    step: usize,
    start: usize,
    scores: &mut [f32],
) {
    let rows = &distances.rows_from(after)[..scores.len()];
    // From `near.start` to `near.end` the row ascends by one with the key.
    let linear = distances.linear() as isize;
    let clamp = |x: isize| x.clamp(0, scores.len() as isize) as usize;
    let near = clamp(1 - linear - after)..clamp(linear - after);
    for c in (0..near.start).chain(near.end..scores.len()) {
        scores[c] += terms[c * step + rows[c] as usize - start];
    }
    if near.is_empty() {
        return;
    }
    let from = &terms[near.start * step + rows[near.start] as usize - start..];
    if step == 0 {
        for (s, t) in scores[near].iter_mut().zip(from) {
            *s += t;
        }
    } else {
        for (s, t) in scores[near].iter_mut().zip(from.iter().step_by(step + 1)) {
            *s += t;
        }
    }
}
