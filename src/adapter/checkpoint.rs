//! What imports share: a weight file of either format, and the report of what became of it.
//!
//! A pickle is read without executing anything in it (see `unpickle`). What the tensors mean is the formats' affair.

use std::path::{Path, PathBuf};

use super::{SavedTensor, tensors::TensorFile, torch_file::TorchFile};
use crate::{Error, Result};

/// What an import did.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ImportReport {
    /// The scale's numerator that was used.
    pub alpha: f64,
    /// One entry a module, in order of names.
    pub modules: Vec<ImportedModule>,
    /// Parameter paths of the head; empty: the adapter has none, and a classifier cannot be served from it.
    pub head: Vec<String>,
}

/// What became of one module.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ImportedModule {
    /// Its path.
    pub module: String,
    /// Its rank in training.
    pub rank_max: usize,
    /// Indices of the ranks that were kept; none: the module is gone.
    pub kept: Vec<usize>,
}

/// The first of `names` that is a file in `dir`.
pub(super) fn first_of(dir: &Path, names: &[&str]) -> Result<PathBuf> {
    let mut paths = names.iter().map(|name| dir.join(name));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        let why = format!("expected a checkpoint: one of {}", names.join(", "));
        Error::format(dir, why)
    })
}

/// A weight file of either format.
pub(super) enum Checkpoint<'a> {
    Safe(TensorFile<'a>),
    Torch(TorchFile<'a>),
}

impl<'a> Checkpoint<'a> {
    /// Parses `bytes`, the file at `path`.
    pub(super) fn parse(bytes: &'a [u8], path: &'a Path) -> Result<Self> {
        // A zip or a pickle by its first bytes; safetensors begin with a length, which is never that small or large.
        match bytes.starts_with(b"PK") || path.extension().is_some_and(|e| e == "bin" || e == "pt")
        {
            true => TorchFile::parse(bytes, path).map(Self::Torch),
            false => TensorFile::parse(bytes, path).map(Self::Safe),
        }
    }

    /// Names of all tensors.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Safe(file) => file.names().map(str::to_owned).collect(),
            Self::Torch(file) => file.names().map(str::to_owned).collect(),
        }
    }

    /// One of them.
    pub(super) fn decode(&self, name: &str) -> Result<SavedTensor> {
        match self {
            Self::Safe(file) => file.decode(name),
            Self::Torch(file) => file.decode(name),
        }
    }
}
