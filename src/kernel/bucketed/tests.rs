//! Buckets against the reference, and the layout of the table.

use super::*;
use crate::kernel::naive::Noise;

/// First distance of each bucket of a half, as `relative_position_bucket` of transformers 5.23 gives them.
const STARTS: [(usize, usize, &[usize]); 3] = [
    (
        32,
        128,
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91],
    ),
    (
        64,
        200,
        &[
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 22, 26, 31, 36, 42, 49,
            57, 67, 78, 91, 107, 125, 146, 171,
        ],
    ),
    (20, 100, &[0, 1, 2, 3, 4, 5, 10, 17, 31, 55]),
];

#[test]
fn buckets_equal_the_reference() {
    for (buckets, max_distance, starts) in STARTS {
        for d in 0..600usize {
            let want = starts.iter().rposition(|&s| s <= d).expect("starts at 0");
            let (before, after) = (-(d as isize), d as isize);
            assert_eq!(bucket(before, buckets, max_distance), want, "{d} before");
            let half = if d > 0 { buckets / 2 } else { 0 };
            assert_eq!(
                bucket(after, buckets, max_distance),
                want + half,
                "{d} after"
            );
        }
    }
}

#[test]
fn a_slice_of_the_table_is_the_bias_of_a_query() {
    let embedding = Noise::new(1).matrix(32, 3, 1.0);
    let bias = DistanceBias::new(embedding.view(), 128, 40);
    for i in 0..40usize {
        for h in 0..3 {
            let row = bias.from(h, -(i as isize));
            for j in 0..40usize {
                let b = bucket(j as isize - i as isize, 32, 128);
                assert_eq!(row[j], embedding.row(b)[h]);
            }
        }
    }
}
