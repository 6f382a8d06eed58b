//! The files of an adapter as bytes, and their content hash: what is loaded, shared and compared as one generation.
//!
//! Whoever opens the files (a directory here, a guarded root or an object store elsewhere) hands over bytes that nobody
//! can change any more; hash, factors and labels then come from the same bytes.

use std::path::Path;

use super::{Adapter, bounded, labels, peft};
use crate::{Error, Result};

/// Input texts and expected answers beside an adapter.
pub const SELFTEST: &str = "selftest.json";
/// Every file that an adapter may consist of, and what `sorank train` notes of its making.
pub const FILES: [&str; 5] = [
    peft::CONFIG,
    peft::WEIGHTS,
    labels::LABELS,
    SELFTEST,
    "sorank.json",
];
/// The largest self test that is read.
const MAX_SELFTEST: u64 = 16 << 20;

/// The bytes of an adapter's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterFiles {
    /// `adapter_config.json`
    pub config: Vec<u8>,
    /// `adapter_model.safetensors`
    pub weights: Vec<u8>,
    /// `labels.json`, else a `config.json` beside the adapter.
    pub labels: Option<Vec<u8>>,
    /// `selftest.json`
    pub selftest: Option<Vec<u8>>,
}

impl AdapterFiles {
    /// From the adapter's directory.
    ///
    /// # Errors
    /// When a file is missing, is not a regular one, is too large, or cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let weights_path = dir.join(peft::WEIGHTS);
        super::refuse_pickle(dir, &weights_path)?;
        Self::read_with(dir, |name, max| {
            let path = dir.join(name);
            let there = bounded::is_there(&path)? || [peft::CONFIG, peft::WEIGHTS].contains(&name);
            there.then(|| bounded::read(&path, max)).transpose()
        })
    }

    /// The self test in an adapter's directory, where there is one.
    ///
    /// # Errors
    /// When it is no regular file, too large, or cannot be read.
    pub fn read_selftest(dir: &Path) -> Result<Option<Vec<u8>>> {
        let path = dir.join(SELFTEST);
        bounded::is_there(&path)?
            .then(|| bounded::read(&path, MAX_SELFTEST))
            .transpose()
    }

    /// From wherever `read` gets them: the bytes of the file of that name, at most so many; `None` where there is none.
    /// `dir` is what messages call the place.
    ///
    /// # Errors
    /// Those of `read`, and when configuration or weights are missing.
    pub fn read_with(
        dir: &Path,
        mut read: impl FnMut(&str, u64) -> Result<Option<Vec<u8>>>,
    ) -> Result<Self> {
        let mut must = |name: &str, max| {
            let missing = || Error::format(&dir.join(name), "there is no such file");
            read(name, max)?.ok_or_else(missing)
        };
        let config = must(peft::CONFIG, bounded::MAX_CONFIG)?;
        let weights = must(peft::WEIGHTS, bounded::MAX_WEIGHTS)?;
        let mut labels = read(labels::LABELS, bounded::MAX_CONFIG)?;
        if labels.is_none() {
            labels = read("config.json", bounded::MAX_CONFIG)?;
        }
        Ok(Self {
            config,
            weights,
            labels,
            selftest: read(SELFTEST, MAX_SELFTEST)?,
        })
    }

    /// Content hash of all that decides an answer, in hexadecimal: configuration, weights, labels, each with its length.
    pub fn generation(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let labels = self.labels.as_deref().unwrap_or_default();
        for part in [&self.config[..], &self.weights[..], labels] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().to_hex().to_string()
    }

    /// The adapter in them; `shown_as` is the directory that messages name.
    ///
    /// # Errors
    /// As [`Adapter::read`].
    pub fn adapter(&self, shown_as: &Path) -> Result<Adapter> {
        let labels = self.labels.as_deref();
        Adapter::from_bytes(&self.config, &self.weights, labels, shown_as)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> AdapterFiles {
        AdapterFiles {
            config: b"{}".to_vec(),
            weights: b"w".to_vec(),
            labels: None,
            selftest: None,
        }
    }

    #[test]
    fn a_byte_moved_between_files_is_another_generation() {
        let moved = AdapterFiles {
            config: b"{".to_vec(),
            weights: b"}w".to_vec(),
            ..files()
        };
        assert_ne!(files().generation(), moved.generation());
        let labelled = AdapterFiles {
            labels: Some(b"[]".to_vec()),
            ..files()
        };
        assert_ne!(files().generation(), labelled.generation());
        assert_eq!(files().generation(), files().generation());
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = AdapterFiles::read_with(Path::new("shown"), |_, _| Ok(None));
        let why = none.unwrap_err().to_string();
        assert!(why.contains("shown/adapter_config.json"), "{why}");
    }
}
