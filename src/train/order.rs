//! The order in which an epoch takes its rows: a function of the seed and the epoch, so that a run that was cut goes on
//! with the batch it would have had.

use super::{learner::Example, random::Random};

/// The rows of `epoch` in batches of `size`: shuffled, rows of like length together, batches shuffled again.
pub fn batches(rows: &[Example], size: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    const BUCKETS: usize = 50; // batches that are sorted together
    let size = size.max(1);
    let mut random = Random::new(seed, &format!("order of epoch {epoch}"));
    let mut order: Vec<usize> = (0..rows.len()).collect();
    random.shuffle(&mut order);
    for bucket in order.chunks_mut(size * BUCKETS) {
        bucket.sort_by_key(|&i| rows[i].ids.len());
    }
    let mut batches: Vec<Vec<usize>> = order.chunks(size).map(<[usize]>::to_vec).collect();
    random.shuffle(&mut batches);
    batches
}

/// At most `most` of `rows` rows, chosen by the seed, in ascending order.
pub fn sample(rows: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Random::new(seed, "rows that are scored again").shuffle(&mut order);
    order.truncate(most);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::loss::Target;

    #[test]
    fn an_epoch_takes_every_row_once_in_batches_of_like_length() {
        let rows: Vec<Example> = (0..103)
            .map(|i| Example {
                ids: vec![1; 1 + i * 7 % 31],
                types: vec![0; 1 + i * 7 % 31],
                target: Target::Class(0),
            })
            .collect();
        let found = batches(&rows, 8, 3, 1);
        assert_eq!(found, batches(&rows, 8, 3, 1));
        assert_ne!(found, batches(&rows, 8, 3, 2));
        let spread = found.iter().map(|b| {
            let lengths = b.iter().map(|&i| rows[i].ids.len());
            lengths.clone().max().unwrap() - lengths.min().unwrap()
        });
        assert!(spread.max().unwrap() <= 4);
        let mut all = found.concat();
        all.sort_unstable();
        assert_eq!(all, (0..103).collect::<Vec<_>>());
    }

    #[test]
    fn a_sample_is_the_seeds() {
        assert_eq!(sample(9, 3, 1), sample(9, 3, 1));
        assert_eq!(sample(3, 9, 1), [0, 1, 2]);
        assert_ne!(sample(1000, 5, 1), sample(1000, 5, 2));
    }
}
