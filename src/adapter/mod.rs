//! Adapters as plain data: low-rank factors and a head's tensors, read from a file and not yet bound to a base.
//!
//! Formats are one file each; whatever the format, the result is an [`Adapter`] whose scale and gate are
//! explicit or folded, whose ranks are those of the tensors, whose every value is finite, and whose factors fit `f32`. Knows nothing of
//! models: whether the modules exist and the widths fit is asked at bind.

mod adalora;
mod adapterhub;
mod archive;
mod bounded;
mod checkpoint;
mod expression;
mod files;
#[cfg(test)]
mod fixture;
mod gate;
mod json;
mod labels;
mod matching;
mod overflow;
mod parametrized;
mod peft;
mod peft_config;
mod prune;
mod random;
mod sora;
mod svd;
mod tensors;
mod torch_file;
mod unpickle;
mod write;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use checkpoint::{ImportReport, ImportedModule};
pub use files::{AdapterFiles, FILES, SELFTEST};
pub use matching::Targets;
pub use parametrized::EmbeddedImport;
pub use peft::{CONFIG, WEIGHTS};
pub use prune::{Keep, PruneReport, PrunedModule};
pub use random::{RandomSite, pruned_ranks};
pub use sora::SoraImport;
pub use write::Stored;

use crate::{Error, Result, mat::Matrix};

/// The key of the base's fingerprint in the metadata of a weight file.
const BASE_FINGERPRINT: &str = "sorank.base_fingerprint";

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
    /// What the metadata of the weight file says of its making (how it was pruned, from what).
    pub provenance: BTreeMap<String, String>,
}

impl Adapter {
    /// Reads an adapter from its directory: a PEFT LoRA or AdaLoRA with safetensors, and labels where there are some.
    ///
    /// Labels come from `labels.json`, else from `id2label` of a `config.json` beside the adapter.
    ///
    /// # Errors
    /// Anything in the files that is missing, unknown, contradictory, not finite or not supported.
    pub fn read(dir: &Path) -> Result<Self> {
        AdapterFiles::read(dir)?.adapter(dir)
    }

    /// Reads an adapter whose files are in memory: `adapter_config.json`, `adapter_model.safetensors`, `labels.json`.
    ///
    /// `shown_as` is the directory that messages name.
    ///
    /// # Errors
    /// As [`Adapter::read`].
    pub fn from_bytes(
        config: &[u8],
        weights: &[u8],
        labels: Option<&[u8]>,
        shown_as: &Path,
    ) -> Result<Self> {
        let mut adapter = peft::read(config, weights, shown_as)?;
        if let Some(bytes) = labels {
            adapter.take_labels(labels::parse(bytes, &shown_as.join(labels::LABELS))?);
        }
        Ok(adapter)
    }

    /// Parameters of all factors: the sum of `R (in + out)`. Saved tensors are not counted.
    pub fn parameters(&self) -> usize {
        self.factors.values().map(Factors::parameters).sum()
    }

    fn take_labels(&mut self, labels: labels::Labels) {
        (self.labels, self.problem) = (labels.names, labels.problem);
    }
}

/// A directory that holds its tensors only as a pickle gets told so, rather than that a file is missing.
fn refuse_pickle(dir: &Path, weights: &Path) -> Result<()> {
    const PICKLE: &str = "adapter_model.bin";
    const CHECKPOINT: &str = "pytorch_model.bin";
    if weights.exists() {
        return Ok(());
    }
    if dir.join(PICKLE).exists() {
        let why =
            "a pickle can run code when it is read; save it with peft's safe_serialization=True";
        return Err(Error::unsupported(
            dir,
            format!("{PICKLE} without {}", peft::WEIGHTS),
            why,
        ));
    }
    if dir.join(CHECKPOINT).exists() && !dir.join(peft::CONFIG).exists() {
        let why = format!(
            "{CHECKPOINT} and no {}: a SoRA checkpoint is imported first",
            peft::CONFIG
        );
        return Err(Error::format(dir, why));
    }
    Ok(())
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

impl Factors {
    /// R.
    pub fn rank(&self) -> usize {
        self.a.rows()
    }

    /// `R (in + out)`
    pub fn parameters(&self) -> usize {
        self.rank() * (self.a.cols() + self.b.rows())
    }
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
