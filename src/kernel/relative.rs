//! Disentangled relative positions: which row of the position table a distance reads, and the table packed for attention.
//!
//! He, Liu, Gao, Chen: "DeBERTa: Decoding-enhanced BERT with Disentangled Attention" (2021). A score is
//! `(q_i . k_j + q_i . pos_key[p] + k_j . pos_query[p]) scale` with `p = bucket(i - j) + span`, clamped to the
//! `2 span` rows, `scale = 1 / sqrt(D (1 + terms))`. The bucket is odd in the distance, so both terms read the
//! same row `p`: content to position and position to content differ in the factor only.
//!
//! Distances below half the buckets have a bucket each; further ones share buckets whose width grows with the
//! logarithm, without an end: only the clamp ends them. The reference computes the bucket in `f32`, and `ceil`
//! makes a last bit visible, so [`bucket`] rounds where the reference does.
//!
//! Rows are stored in *descending* `i - j`, so that a query's terms ascend with the key: one vector load where
//! distances are not bucketed.
//!
//! Not here: projecting the position table (a linear, whose adapters change it) and the sums themselves
//! (`attention.rs`).

use crate::{
    kernel::{
        panel::{PanelShape, Panels, Precision},
        transient::{self, Words},
    },
    mat::Mat,
};

/// The signed bucket of `distance = i - j`; the distance itself where `buckets` is 0.
///
/// `buckets` is `position_buckets`, `max_distance` is `max_relative_positions` of a configuration.
pub fn bucket(distance: isize, buckets: usize, max_distance: usize) -> isize {
    let mid = buckets / 2;
    let far = distance.unsigned_abs();
    if buckets == 0 || far <= mid {
        return distance;
    }
    let ln = |x: f32| f64::from(x).ln() as f32;
    let mid_f = mid as f32;
    let range = ln(((max_distance - 1) as f64 / mid as f64) as f32);
    let step = (ln(far as f32 / mid_f) / range * (mid_f - 1.0)).ceil() + mid_f;
    step as isize * distance.signum()
}

/// Half the rows of the position table: the buckets on each side, or the distances where they are not bucketed.
pub fn span(buckets: usize, max_distance: usize) -> usize {
    if buckets > 0 { buckets } else { max_distance }
}

/// The row of the position table for every distance between two tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Distances {
    /// Entry `j - i + tokens - 1`: the row in descending order, `2 span - 1 - p`.
    rows: Vec<u32>,
    span: usize,
    tokens: usize,
    /// Below this distance rows ascend by one with the key.
    linear: usize,
}

impl Distances {
    /// For sequences of at most `tokens`; `buckets` (0: none) and `max_distance` as in [`bucket`].
    pub fn new(buckets: usize, max_distance: usize, tokens: usize) -> Self {
        let span = span(buckets, max_distance);
        let last = tokens as isize - 1;
        let rows: Vec<u32> = (-last..=last)
            .map(|after| {
                let p = bucket(-after, buckets, max_distance) + span as isize;
                (2 * span as isize - 1 - p.clamp(0, 2 * span as isize - 1)) as u32
            })
            .collect();
        let middle = tokens.saturating_sub(1);
        let linear = (1..tokens)
            .find(|&d| {
                rows[middle + d] as usize != span - 1 + d
                    || rows[middle - d] as usize + d != span - 1
            })
            .unwrap_or(tokens);
        Self {
            rows,
            span,
            tokens,
            linear,
        }
    }

    /// Half the rows of the position table.
    pub fn span(&self) -> usize {
        self.span
    }

    /// The longest sequence.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The row `bucket(i - j) + span` of the position table as checkpoints order it.
    pub fn table_row(&self, i: usize, j: usize) -> usize {
        2 * self.span - 1 - self.row(j as isize - i as isize)
    }

    /// The packed row for a key `after = j - i` tokens behind its query.
    pub(super) fn row(&self, after: isize) -> usize {
        self.rows[(after + self.tokens as isize - 1) as usize] as usize
    }

    /// Packed rows for keys `after..` behind the query, in the order of the keys.
    pub(super) fn rows_from(&self, after: isize) -> &[u32] {
        &self.rows[(after + self.tokens as isize - 1) as usize..]
    }

    /// Distances below this have a row each.
    pub(super) fn linear(&self) -> usize {
        self.linear
    }
}

/// A projected position table, packed head by head.
#[derive(Debug)]
pub struct PositionPanels {
    words: Words,
    heads: usize,
    shape: PanelShape,
}

impl PositionPanels {
    /// Packs `projected [2 span x N D]`, a row for each clamped `bucket + span`, as checkpoints order them; `precision` is
    /// that of the products with q and k, `f32` or `bf16`.
    ///
    /// # Panics
    /// When the width is not a multiple of `heads`.
    pub fn new(precision: Precision, projected: Mat<'_>, heads: usize) -> Self {
        let width = projected.cols() / heads;
        assert_eq!(width * heads, projected.cols(), "heads of a position table");
        let shape = transient::shape(precision, projected.rows(), width);
        let per_head = shape.bytes() / 4;
        let mut words = Words::default();
        for (h, to) in words
            .get_mut(heads * per_head)
            .chunks_mut(per_head)
            .enumerate()
        {
            let head = projected.col_range(h * width..(h + 1) * width);
            transient::pack_rows_reversed(precision, head, to);
        }
        Self {
            words,
            heads,
            shape,
        }
    }

    /// Rows of the table.
    pub fn rows(&self) -> usize {
        self.shape.n
    }

    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Head width.
    pub fn width(&self) -> usize {
        self.shape.k
    }

    /// The weight of head `h`: output columns are packed rows, depth is the head's width.
    pub(super) fn head(&self, h: usize) -> Panels<'_> {
        let per_head = self.shape.bytes() / 4;
        Panels::of_words(
            &self.words.get(self.heads * per_head)[h * per_head..][..per_head],
            self.shape,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First distance of bucket 1, 2, .. as `make_log_bucket_position` of transformers 5.23 gives it; the
    /// buckets below the first entry's are one distance wide.
    const LOG_BUCKETS: [(usize, usize, usize, &[usize]); 4] = [
        (
            256,
            512,
            129,
            &[
                129, 130, 131, 133, 134, 136, 137, 139, 140, 142, 143, 145, 146, 148, 150, 151,
                153, 155, 156, 158, 160, 161, 163, 165, 167, 169, 170, 172, 174, 176, 178, 180,
                182, 184, 186, 188, 190, 192, 194, 196, 198, 201, 203, 205, 207, 210, 212, 214,
                216, 219, 221, 224, 226, 229, 231, 234, 236, 239, 241, 244, 247, 249, 252, 255,
                258, 260, 263, 266, 269, 272, 275, 278, 281, 284, 287, 290, 294, 297, 300, 303,
                307, 310, 313, 317, 320, 324, 327, 331, 335, 338, 342, 346, 349, 353, 357, 361,
                365, 369, 373, 377, 381, 385, 390, 394, 398, 403, 407, 411, 416, 420, 425, 430,
                434, 439, 444, 449, 454, 459, 464, 469, 474, 479, 484, 490, 495, 500, 506, 512,
                517, 523, 528, 534, 540, 546, 552, 558, 564, 570, 577, 583, 589, 596, 602, 609,
                616, 622, 629, 636, 643, 650, 657, 664, 672, 679, 686, 694, 701, 709, 717, 725,
                733, 741, 749, 757, 765, 774, 782, 791, 799, 808, 817, 826, 835, 844, 853, 863,
                872, 882, 891, 901, 911, 921, 931, 941, 952, 962, 973, 983, 994, 1005, 1016,
            ],
        ),
        (
            32,
            128,
            17,
            &[
                17, 19, 22, 25, 28, 32, 37, 43, 49, 56, 64, 74, 84, 97, 111, 128, 146, 168, 193,
                221, 254, 291, 334, 384,
            ],
        ),
        (16, 40, 9, &[9, 11, 13, 16, 20, 25, 32, 40, 49, 62, 77, 97]),
        (7, 50, 4, &[4, 13, 50]),
    ];

    #[test]
    fn buckets_equal_the_reference() {
        for (buckets, max_distance, first, starts) in LOG_BUCKETS {
            let mut want = 0;
            for d in 0..=starts[starts.len() - 1] {
                if d < first || starts.contains(&d) {
                    want = if d < first { d as isize } else { want + 1 };
                }
                let d = d as isize;
                assert_eq!(bucket(d, buckets, max_distance), want, "{d} of {buckets}");
                assert_eq!(bucket(-d, buckets, max_distance), -want, "{d} of {buckets}");
            }
        }
        assert_eq!(bucket(-700, 0, 512), -700);
    }

    #[test]
    fn distances_clamp_and_ascend_with_the_key() {
        for (buckets, max_distance, tokens) in
            [(16, 40, 130), (0, 20, 50), (256, 512, 512), (16, 40, 1)]
        {
            let d = Distances::new(buckets, max_distance, tokens);
            let span = d.span() as isize;
            for i in 0..tokens {
                for j in 0..tokens {
                    let p = bucket(i as isize - j as isize, buckets, max_distance) + span;
                    assert_eq!(d.table_row(i, j) as isize, p.clamp(0, 2 * span - 1));
                    if i.abs_diff(j) < d.linear() {
                        let after = j as isize - i as isize;
                        assert_eq!(d.row(after) as isize, span - 1 + after);
                    }
                }
            }
        }
        assert_eq!(Distances::new(256, 512, 512).linear(), 132);
        assert_eq!(Distances::new(256, 512, 64).linear(), 64);
    }
}
