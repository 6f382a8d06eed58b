//! Adapters of stated ranks with random factors: to measure what an adapter costs where none is at hand.
//!
//! They are useless for answers. The numbers are small (about 0.02), so that activations keep their size.
//! Knows no base: sites are paths and widths.

use std::{collections::BTreeMap, path::PathBuf};

use super::{Adapter, Factors, Targets};
use crate::mat::Matrix;

/// A module to adapt: its path, inputs and outputs, and the rank to give it (0: left alone).
#[derive(Debug, Clone)]
pub struct RandomSite {
    /// Module path.
    pub path: String,
    /// Width of A.
    pub inputs: usize,
    /// Height of B.
    pub outputs: usize,
    /// R.
    pub rank: usize,
}

impl Adapter {
    /// An adapter with random factors at `sites`; the same `seed` gives the same numbers.
    pub fn random(sites: &[RandomSite], seed: u32) -> Self {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut noise = |rows: usize, cols: usize| {
            let next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.02
            };
            Matrix::from_vec(
                std::iter::repeat_with(next).take(rows * cols).collect(),
                rows,
                cols,
            )
        };
        let factors: BTreeMap<String, Factors> = sites
            .iter()
            .filter(|site| site.rank > 0)
            .map(|site| {
                let (a, b) = (
                    noise(site.rank, site.inputs),
                    noise(site.outputs, site.rank),
                );
                (site.path.clone(), Factors { a, b, scale: 1.0 })
            })
            .collect();
        let parameters: usize = factors.values().map(Factors::parameters).sum();
        Self {
            path: PathBuf::from(format!("<random {seed}>")),
            targets: Targets::exactly(factors.keys().cloned()),
            factors,
            saved: BTreeMap::new(),
            labels: None,
            task_type: None,
            problem: None,
            base: None,
            base_fingerprint: None,
            bytes: 4 * parameters as u64,
            provenance: BTreeMap::new(),
        }
    }
}

/// Ranks as pruning leaves them: between 0 and 4 times `mean`, a few sites high, many low, `mean` on average.
pub fn pruned_ranks(sites: usize, mean: usize, seed: u32) -> Vec<usize> {
    // Eight weights whose mean is 1, in an order that the seed turns.
    const SPREAD: [f64; 8] = [0.0, 0.25, 0.5, 0.5, 0.75, 1.0, 1.5, 3.5];
    let share = |i: usize| SPREAD[(i.wrapping_mul(5) + seed as usize) % SPREAD.len()];
    (0..sites)
        .map(|i| (share(i) * mean as f64).round() as usize)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_have_the_mean_asked_for_and_are_uneven() {
        for (mean, seed) in [(4, 0), (8, 3), (16, 70)] {
            let ranks = pruned_ranks(72, mean, seed);
            assert_eq!(ranks.iter().sum::<usize>(), 72 * mean);
            assert!(ranks.contains(&0) && ranks.iter().any(|&r| r > 2 * mean));
        }
    }

    #[test]
    fn one_seed_one_adapter() {
        let site = |rank| RandomSite {
            path: format!("site{rank}"),
            inputs: 3,
            outputs: 5,
            rank,
        };
        let sites = [site(0), site(2)];
        let (a, b, c) = (
            Adapter::random(&sites, 1),
            Adapter::random(&sites, 1),
            Adapter::random(&sites, 2),
        );
        assert_eq!(a.factors.len(), 1, "rank 0 is left alone");
        assert_eq!(a.factors, b.factors);
        assert_ne!(a.factors, c.factors);
        assert!(a.targets.matches("site2") && !a.targets.matches("site0"));
    }
}
