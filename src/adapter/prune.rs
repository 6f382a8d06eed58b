//! Pruning without data: each product `s B A` is decomposed, and singular values are kept by energy, by rank, or within
//! a budget of parameters for the whole adapter.
//!
//! Energy is the squared Frobenius norm, the sum of the squared singular values; what is dropped is the best a
//! product of that rank can do (Eckart and Young), so the relative error is `sqrt(dropped / all)`. A module that loses no
//! rank keeps its factors bit for bit. One that does gets balanced ones, `B' = U sqrt(sigma)` and `A' = sqrt(sigma) Vt`,
//! the largest value first, at scale 1. Modules left without a rank are gone.
//!
//! How much energy a *task* can miss is not known here: measure the answers. Saved heads are not touched.

use std::collections::BTreeMap;

use super::{
    Adapter, Factors, Targets,
    svd::{self, Svd},
};
use crate::{Error, Result, mat::Matrix};

/// A singular value this small beside the largest is less than the rounding of f32 factors (6e-8 relative).
const NEGLIGIBLE: f64 = 1e-9;
/// The decomposition takes time with the cube of the rank.
const MAX_RANK: usize = 512;

/// What to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// As few ranks of each module as hold this share of its energy, above 0 and at most 1.
    Energy(f64),
    /// At most so many ranks of each module.
    Rank(usize),
    /// At most so many parameters of all modules together: the most energy for each parameter first.
    Budget(usize),
}

/// What pruning did.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PruneReport {
    /// One entry a module, in order of names.
    pub modules: Vec<PrunedModule>,
    /// Parameters of the factors before.
    pub parameters_before: usize,
    /// Parameters of the factors after.
    pub parameters_after: usize,
    /// `|| dropped || / || all ||` over all modules together.
    pub relative_error: f64,
}

/// What pruning did to one module.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PrunedModule {
    /// Its path.
    pub module: String,
    /// Its rank before.
    pub rank_before: usize,
    /// Its rank after; 0: it is gone.
    pub rank_after: usize,
    /// The share of its squared Frobenius norm that was dropped, 0 to 1.
    pub dropped_energy: f64,
    /// `|| dropped || / || all ||` (Frobenius), 0 to 1.
    pub relative_error: f64,
}

impl Adapter {
    /// A smaller adapter, and what was dropped for it. Deterministic.
    ///
    /// # Errors
    /// An energy outside (0, 1], a rank or budget of 0; a rank above 512; when no rank of any module would be left.
    pub fn prune(&self, keep: Keep) -> Result<(Adapter, PruneReport)> {
        self.check_prunable(keep)?;
        let all: BTreeMap<&String, Svd> = self
            .factors
            .iter()
            .map(|(module, f)| (module, svd::of_product(&f.a, &f.b, f64::from(f.scale))))
            .collect();
        let ranks = match keep {
            Keep::Energy(share) => all.iter().map(|(m, s)| (*m, by_energy(s, share))).collect(),
            Keep::Rank(most) => all
                .iter()
                .map(|(m, s)| (*m, substance(s).min(most)))
                .collect(),
            Keep::Budget(most) => self.by_budget(&all, most),
        };
        let mut factors = BTreeMap::new();
        let mut modules = Vec::new();
        let (mut dropped, mut total) = (0.0, 0.0);
        for (module, svd) in &all {
            let before = &self.factors[*module];
            let rank = ranks[*module];
            let kept = match rank {
                0 => None,
                rank if rank == before.rank() => Some(before.clone()),
                rank => Some(balanced(svd, rank)),
            };
            factors.extend(kept.map(|f| ((*module).clone(), f)));
            let (lost, held) = (
                energy(&svd.sigma[rank.min(svd.sigma.len())..]),
                energy(&svd.sigma),
            );
            let share = if held > 0.0 { lost / held } else { 0.0 };
            modules.push(PrunedModule {
                module: (*module).clone(),
                rank_before: before.rank(),
                rank_after: rank,
                dropped_energy: share,
                relative_error: share.sqrt(),
            });
            dropped += lost;
            total += held;
        }
        if factors.is_empty() {
            let why = format!(
                "pruning to {} would leave no rank of any module",
                describe(keep)
            );
            return Err(Error::format(&self.path, why));
        }
        let mut pruned = Adapter {
            targets: Targets::exactly(factors.keys().cloned()),
            factors,
            ..self.clone()
        };
        pruned
            .provenance
            .insert("sorank.pruned".into(), describe(keep));
        let report = PruneReport {
            modules,
            parameters_before: self.parameters(),
            parameters_after: pruned.parameters(),
            relative_error: if total > 0.0 {
                (dropped / total).sqrt()
            } else {
                0.0
            },
        };
        Ok((pruned, report))
    }

    fn check_prunable(&self, keep: Keep) -> Result<()> {
        let sound = match keep {
            Keep::Energy(share) => share > 0.0 && share <= 1.0,
            Keep::Rank(n) | Keep::Budget(n) => n > 0,
        };
        if !sound {
            let why = "expected an energy above 0 and at most 1, or a rank or budget of at least 1";
            return Err(Error::format(
                &self.path,
                format!("pruning to {}: {why}", describe(keep)),
            ));
        }
        match self.factors.iter().find(|(_, f)| f.rank() > MAX_RANK) {
            None => Ok(()),
            Some((module, f)) => Err(Error::unsupported(
                &self.path,
                format!("pruning {module} of rank {}", f.rank()),
                format!("the decomposition takes ranks of at most {MAX_RANK}"),
            )),
        }
    }

    /// Ranks by module: singular values in order of energy for each parameter they cost, as long as they fit.
    ///
    /// Within a module all cost the same and the larger comes first, so what is taken is always a prefix; once one
    /// does not fit, none of its module does.
    fn by_budget<'a>(
        &self,
        all: &BTreeMap<&'a String, Svd>,
        most: usize,
    ) -> BTreeMap<&'a String, usize> {
        let mut offers: Vec<(f64, &'a String, usize)> = Vec::new();
        for (module, svd) in all {
            let f = &self.factors[*module];
            let cost = f.a.cols() + f.b.rows();
            let worth = |sigma: &f64| (sigma * sigma / cost as f64, *module, cost);
            offers.extend(svd.sigma[..substance(svd)].iter().map(worth));
        }
        // Stable: equal offers stand in order of module.
        offers.sort_by(|x, y| y.0.total_cmp(&x.0));
        let mut ranks: BTreeMap<&String, usize> = all.keys().map(|m| (*m, 0)).collect();
        let mut left = most;
        for (_, module, cost) in offers {
            if cost <= left {
                left -= cost;
                *ranks.entry(module).or_default() += 1;
            }
        }
        ranks
    }
}

/// How many singular values are more than rounding.
fn substance(svd: &Svd) -> usize {
    let floor = svd
        .sigma
        .first()
        .map_or(0.0, |largest| largest * NEGLIGIBLE);
    svd.sigma.iter().take_while(|s| **s > floor).count()
}

/// The fewest ranks that hold `share` of the energy.
fn by_energy(svd: &Svd, share: f64) -> usize {
    let most = substance(svd);
    let may_go = (1.0 - share) * energy(&svd.sigma);
    // From the smallest up: sums of small numbers first lose nothing to the large ones.
    let mut gone = energy(&svd.sigma[most..]);
    let mut rank = most;
    while rank > 1 {
        gone += svd.sigma[rank - 1].powi(2);
        if gone > may_go {
            break;
        }
        rank -= 1;
    }
    rank
}

/// Smallest first, for accuracy.
fn energy(sigma: &[f64]) -> f64 {
    sigma.iter().rev().map(|s| s * s).sum()
}

/// The `rank` largest terms as factors of equal size.
fn balanced(svd: &Svd, rank: usize) -> Factors {
    let roots: Vec<f64> = svd.sigma[..rank].iter().map(|s| s.sqrt()).collect();
    let (width, height) = (svd.right[0].len(), svd.left[0].len());
    let a = (0..rank).flat_map(|j| svd.right[j].iter().map(move |v| (j, v)));
    let a = a.map(|(j, v)| (v * roots[j]) as f32).collect();
    let b = (0..height).flat_map(|o| (0..rank).map(move |j| (o, j)));
    let b = b.map(|(o, j)| (svd.left[j][o] * roots[j]) as f32).collect();
    Factors {
        a: Matrix::from_vec(a, rank, width),
        b: Matrix::from_vec(b, height, rank),
        scale: 1.0,
    }
}

fn describe(keep: Keep) -> String {
    match keep {
        Keep::Energy(share) => format!("energy {share}"),
        Keep::Rank(rank) => format!("rank {rank}"),
        Keep::Budget(parameters) => format!("{parameters} parameters"),
    }
}

#[cfg(test)]
mod tests;
