//! The facts that `sorank inspect` shows, as data (`serde`) and as text (`Display`).

use std::fmt;

use serde::Serialize;

use super::rankmap::RankRow;
use crate::{
    adapter::Adapter,
    model::sites::Sites,
    spec::{EncoderSpec, SentenceSpec},
    weights::{Source, Tensors},
};

/// A base.
#[derive(Debug, Clone, Serialize)]
pub struct BaseFacts {
    /// Where it is.
    pub base: String,
    /// `model_type`.
    pub family: String,
    /// L.
    pub layers: usize,
    /// H.
    pub hidden: usize,
    /// N.
    pub heads: usize,
    /// F.
    pub ffn: usize,
    /// V.
    pub vocabulary: usize,
    /// The most tokens of one text.
    pub max_tokens: usize,
    /// Elements of all tensors in the file.
    pub parameters: u64,
    /// Bytes of all tensors in the file.
    pub bytes: u64,
    /// Elements of the linears that adapters may change.
    pub linear_parameters: u64,
    /// How embeddings are pooled.
    pub pooling: crate::spec::Pooling,
    /// Whether they are divided by their norm.
    pub normalize: bool,
    /// Labels of the checkpoint's own classifier.
    pub labels: Vec<String>,
    /// Sites of one layer: module path with `{}` for the layer, inputs, outputs.
    pub sites: Vec<(String, usize, usize)>,
}

impl BaseFacts {
    /// Reads the facts off a base's files.
    pub fn new(
        source: &Source,
        spec: &EncoderSpec,
        sentence: &SentenceSpec,
        tensors: &Tensors,
    ) -> Self {
        let sites = Sites::new(spec);
        let (mut parameters, mut bytes) = (0, 0);
        for tensor in tensors.names().filter_map(|n| tensors.get(n)) {
            parameters += tensor.shape.iter().product::<usize>() as u64;
            bytes += tensor.bytes.len() as u64;
        }
        let size = |s: &crate::model::sites::Site| (s.inputs * s.columns.len()) as u64;
        let of_layer_0 = sites.all().iter().filter(|s| s.layer == Some(0));
        Self {
            base: source.path("").display().to_string(),
            family: spec.family.clone(),
            layers: spec.layers.len(),
            hidden: spec.hidden,
            heads: spec.heads,
            ffn: spec.ffn,
            vocabulary: spec.vocab,
            max_tokens: sentence
                .max_tokens
                .map_or(spec.max_tokens, |n| n.min(spec.max_tokens)),
            parameters,
            bytes,
            linear_parameters: sites.all().iter().map(size).sum(),
            pooling: sentence.pooling,
            normalize: sentence.normalize,
            labels: if spec.own_head.is_some() {
                spec.labels.clone()
            } else {
                Vec::new()
            },
            sites: of_layer_0
                .map(|s| (s.path.replacen(".0.", ".{}.", 1), s.inputs, s.columns.len()))
                .collect(),
        }
    }
}

impl fmt::Display for BaseFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "base {}", self.base)?;
        writeln!(
            f,
            "  {}: {} layers, hidden {}, {} heads, ffn {}, vocabulary {}, at most {} tokens",
            self.family,
            self.layers,
            self.hidden,
            self.heads,
            self.ffn,
            self.vocabulary,
            self.max_tokens
        )?;
        writeln!(
            f,
            "  {} parameters in {}; {} of them in linears that adapters may change",
            count(self.parameters),
            size(self.bytes),
            count(self.linear_parameters)
        )?;
        let norm = if self.normalize { ", L2 norm" } else { "" };
        writeln!(f, "  embeddings: {:?} pooling{norm}", self.pooling)?;
        if !self.labels.is_empty() {
            writeln!(f, "  classifier: {}", self.labels.join(", "))?;
        }
        writeln!(f, "  sites of each layer (inputs -> outputs):")?;
        for (path, inputs, outputs) in &self.sites {
            writeln!(f, "    {path}  {inputs} -> {outputs}")?;
        }
        Ok(())
    }
}

/// An adapter.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterFacts {
    /// Its name.
    pub adapter: String,
    /// Where it is.
    pub path: String,
    /// The base it names.
    pub base: Option<String>,
    /// PEFT's task type.
    pub task_type: Option<crate::adapter::TaskType>,
    /// Labels, where a side file gives them.
    pub labels: Option<Vec<String>>,
    /// Adapted sites; one that was pruned away is not listed.
    pub ranks: Vec<SiteRank>,
    /// Elements of A and B.
    pub parameters: u64,
    /// Elements of whole tensors saved beside them.
    pub saved_parameters: u64,
    /// Bytes of the weight file.
    pub bytes: u64,
}

impl AdapterFacts {
    /// Reads the facts off an adapter.
    pub fn new(name: &str, adapter: &Adapter) -> Self {
        let ranks: Vec<SiteRank> = adapter
            .factors
            .iter()
            .map(|(path, factors)| {
                let (layer, site) = layer_and_site(path);
                let (a, b) = (&factors.a, &factors.b);
                let params = (a.rows() * a.cols() + b.rows() * b.cols()) as u64;
                SiteRank {
                    layer,
                    site,
                    rank: a.rows(),
                    params,
                }
            })
            .collect();
        Self {
            adapter: name.to_owned(),
            path: adapter.path.display().to_string(),
            base: adapter.base.clone(),
            task_type: adapter.task_type,
            labels: adapter.labels.clone(),
            parameters: ranks.iter().map(|r| r.params).sum(),
            saved_parameters: adapter.saved.values().map(|t| t.data.len() as u64).sum(),
            bytes: adapter.bytes,
            ranks,
        }
    }
}

/// One adapted module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteRank {
    /// Its layer, from 0; none for a module outside the layers.
    pub layer: Option<usize>,
    /// Its path within the layer.
    pub site: String,
    /// Its rank.
    pub rank: usize,
    /// Elements of A and B.
    pub params: u64,
}

impl AdapterFacts {
    /// The sites inside layers, as the rank map takes them.
    pub fn rank_rows(&self) -> Vec<RankRow> {
        let row = |s: &SiteRank| {
            let (site, rank) = (s.site.clone(), s.rank);
            Some(RankRow {
                layer: s.layer?,
                site,
                rank,
                r_max: None,
                params: s.params,
            })
        };
        self.ranks.iter().filter_map(row).collect()
    }
}

impl fmt::Display for AdapterFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "adapter {} ({})", self.adapter, self.path)?;
        if let Some(base) = &self.base {
            writeln!(f, "  made for {base}")?;
        }
        if let Some(labels) = &self.labels {
            writeln!(f, "  labels: {}", labels.join(", "))?;
        }
        let ranks = || self.ranks.iter().map(|r| r.rank);
        let mean = ranks().sum::<usize>() as f64 / self.ranks.len().max(1) as f64;
        writeln!(
            f,
            "  {} sites, ranks {} to {}, mean {mean:.1}; {} parameters in A and B, {} in saved modules; {}",
            self.ranks.len(),
            ranks().min().unwrap_or(0),
            ranks().max().unwrap_or(0),
            count(self.parameters),
            count(self.saved_parameters),
            size(self.bytes)
        )
    }
}

/// `bert.encoder.layer.3.attention.self.query` is layer 3, site `attention.self.query`; a module outside the
/// layers keeps its whole path.
pub fn layer_and_site(path: &str) -> (Option<usize>, String) {
    let mut rest = path;
    while let Some((head, tail)) = rest.split_once('.') {
        if let Ok(layer) = head.parse() {
            return (Some(layer), tail.to_owned());
        }
        rest = tail;
    }
    (None, path.to_owned())
}

/// `1234567` as `1.23 M`.
fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        _ => format!("{:.2} M", n as f64 / 1e6),
    }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_the_layer_number() {
        let split = |p| layer_and_site(p);
        assert_eq!(
            split("bert.encoder.layer.11.output.dense"),
            (Some(11), "output.dense".to_owned())
        );
        assert_eq!(
            split("layers.0.attn.Wqkv"),
            (Some(0), "attn.Wqkv".to_owned())
        );
        assert_eq!(split("pooler.dense"), (None, "pooler.dense".to_owned()));
    }
}
