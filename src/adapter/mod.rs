//! Adapters as plain data: low-rank factors and a head's tensors, read from a file and not yet bound to a base.
//!
//! Formats are one file each; whatever the format, the result is an [`Adapter`] whose scale and gate are
//! explicit or folded, whose ranks are those of the tensors, and whose every value is finite. Knows nothing of
//! models: whether the modules exist and the widths fit is asked at bind.

use std::{collections::BTreeMap, path::PathBuf};

use crate::mat::Matrix;

/// What a file said.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// The directory it came from, for messages.
    pub path: PathBuf,
    /// Factors by module path (`bert.encoder.layer.0.attention.self.query`); a pruned-away site has no entry.
    pub factors: BTreeMap<String, Factors>,
    /// Whole tensors of `modules_to_save`, by parameter path (`classifier.weight`).
    pub saved: BTreeMap<String, SavedTensor>,
    /// Labels from a side file, by index.
    pub labels: Option<Vec<String>>,
    /// `task_type` of the configuration.
    pub task_type: Option<TaskType>,
    /// `problem_type` of a side file.
    pub problem: Option<crate::spec::Problem>,
    /// `base_model_name_or_path`, as written.
    pub base: Option<String>,
    /// Content hash of the base's tensors, where our own tools wrote it.
    pub base_fingerprint: Option<String>,
    /// Bytes of its weight file.
    pub bytes: u64,
    /// Which modules the configuration targets; asked at bind, so that a targeted module without tensors is found.
    pub targets: Targets,
}

/// `y += scale * (x At) Bt`
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// A, `[R x in]`.
    pub a: Matrix,
    /// B, `[out x R]`.
    pub b: Matrix,
    /// What the product is multiplied by.
    pub scale: f32,
}

/// A whole tensor kept beside the factors.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, as `f32`.
    pub data: Vec<f32>,
}

/// PEFT's `task_type`, as far as encoders go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum TaskType {
    /// `SEQ_CLS`
    #[serde(rename = "SEQ_CLS")]
    SequenceClassification,
    /// `TOKEN_CLS`
    #[serde(rename = "TOKEN_CLS")]
    TokenClassification,
    /// `FEATURE_EXTRACTION`
    #[serde(rename = "FEATURE_EXTRACTION")]
    FeatureExtraction,
}

/// Which modules a configuration says it adapts (interface; the matching rules land in `peft/`).
#[derive(Debug, Clone, Default)]
pub struct Targets {}

impl Targets {
    /// Whether the configuration targets the linear module at `path` (without `base_model.model.`).
    pub fn matches(&self, _path: &str) -> bool {
        true
    }
}
