//! A learned bias on attention scores, one value a head for each bucket of distance.
//!
//! Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2020),
//! section 2.1, in its bidirectional form: half the buckets for keys before the query (and at it), half for
//! keys after. In each half the first half of the buckets are distances, the others grow with the logarithm up
//! to `max_distance`; everything further shares the last. The bias is added *after* the scores were scaled.
//!
//! The bias depends on `j - i` alone, so it is laid out once, for the longest sequence, as a row a head over
//! `j - i`: a query's bias is a slice of it.
//!
//! Not here: gradients of the table; adapters do not touch it.

use crate::mat::Mat;

/// The bucket of a key `after = j - i` tokens behind its query, of `buckets` in all.
pub fn bucket(after: isize, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let far = after.unsigned_abs();
    let within = if far < exact {
        far
    } else {
        // In `f32` with the logarithm of the range in `f64`, as the reference computes it.
        let range = (max_distance as f64 / exact as f64).ln() as f32;
        let ln = f64::from(far as f32 / exact as f32).ln() as f32;
        (exact + (ln / range * (half - exact) as f32) as usize).min(half - 1)
    };
    within + if after > 0 { half } else { 0 }
}

/// The bias of every head at every distance.
#[derive(Debug, Clone)]
pub struct DistanceBias {
    /// `[N x (2 tokens - 1)]`, column `j - i + tokens - 1`.
    table: Vec<f32>,
    heads: usize,
    tokens: usize,
}

impl DistanceBias {
    /// Lays out `embedding [buckets x N]` for sequences of at most `tokens >= 1`.
    pub fn new(embedding: Mat<'_>, max_distance: usize, tokens: usize) -> Self {
        let (buckets, heads) = (embedding.rows(), embedding.cols());
        let last = tokens as isize - 1;
        let table = (0..heads)
            .flat_map(|h| {
                (-last..=last)
                    .map(move |after| embedding.row(bucket(after, buckets, max_distance))[h])
            })
            .collect();
        Self {
            table,
            heads,
            tokens,
        }
    }

    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The longest sequence.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// What head `h` adds for keys `after..` behind the query, in the order of the keys.
    pub fn from(&self, h: usize, after: isize) -> &[f32] {
        let row = &self.table[h * (2 * self.tokens - 1)..][..2 * self.tokens - 1];
        &row[(after + self.tokens as isize - 1) as usize..]
    }
}

#[cfg(test)]
mod tests;
