//! Trained parameters as an adapter: closed ranks left out, scale and gate folded into B, the head beside it.

use std::collections::BTreeMap;

use super::{Kind, Live, Parameter};
use crate::{
    adapter::{Adapter, Factors, SavedTensor, Targets, TaskType},
    mat::Matrix,
    model::{Level, Model},
};

impl Live {
    /// The adapter that these parameters are: pruned, scale and gate folded into B, the head beside it.
    pub fn adapter(&self, model: &Model) -> Adapter {
        let mut factors = BTreeMap::new();
        for site in &self.sites {
            let (a, b) = (
                &self.parameters[site.a].value,
                &self.parameters[site.b].value,
            );
            let kept: Vec<usize> = (0..a.rows())
                .filter(|&j| self.gate_of(site, j) != 0.0)
                .collect();
            if kept.is_empty() {
                continue;
            }
            let (n, r) = (b.cols(), kept.len());
            let kept_a = kept.iter().flat_map(|&j| a.row(j)).copied().collect();
            let mut kept_b = vec![0.0; n * r];
            for (c, &j) in kept.iter().enumerate() {
                let by = site.scale * self.gate_of(site, j);
                b.row(j)
                    .iter()
                    .enumerate()
                    .for_each(|(i, b)| kept_b[i * r + c] = b * by);
            }
            factors.insert(
                site.path.clone(),
                Factors {
                    a: Matrix::from_vec(kept_a, r, a.cols()),
                    b: Matrix::from_vec(kept_b, n, r),
                    scale: 1.0,
                },
            );
        }
        if factors.is_empty() {
            // A file without any rank is no adapter to PEFT: one rank of zeros changes nothing and loads.
            let prefixes = model.spec().names.prefixes;
            let prefix = prefixes
                .iter()
                .find(|p| !p.is_empty())
                .copied()
                .unwrap_or("");
            if let Some(site) = model.sites().all().first() {
                let nothing = Factors {
                    a: Matrix::zeros(1, site.inputs),
                    b: Matrix::zeros(site.columns.len(), 1),
                    scale: 1.0,
                };
                factors.insert(format!("{prefix}{}", site.path), nothing);
            }
        }
        let head = self.parameters.iter().filter(|p| p.kind == Kind::Head);
        let saved = head.map(|p| {
            let shape = match p.name.ends_with(".bias") || p.value.rows() == 1 && self.is_norm(p) {
                true => vec![p.value.cols()],
                false => vec![p.value.rows(), p.value.cols()],
            };
            let data = p.value.as_slice().to_vec();
            (p.name.clone(), SavedTensor { shape, data })
        });
        Adapter {
            path: std::path::PathBuf::new(),
            targets: Targets::exactly(factors.keys().cloned()),
            factors,
            saved: saved.collect(),
            labels: Some(self.labels.to_vec()),
            task_type: Some(match self.level {
                Level::Sequence => TaskType::SequenceClassification,
                Level::Token => TaskType::TokenClassification,
            }),
            problem: Some(self.problem),
            base: None,
            base_fingerprint: Some(model.packed().content_hash().to_owned()),
            bytes: 0,
            provenance: BTreeMap::new(),
        }
    }

    fn is_norm(&self, p: &Parameter) -> bool {
        let norm = self.head.spec.dense.and_then(|d| d.norm);
        norm.is_some_and(|n| p.name.ends_with(&format!("{n}.weight")))
    }
}
