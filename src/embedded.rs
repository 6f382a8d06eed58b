//! The model that is built into the binary: a small English base and its adapters, so that everything can be tried
//! without a download. Made by `models/tiny/make.py`; real work wants a real base.
//!
//! Its files are unpacked once into the cache directory, where they are mapped and packed like any other
//! model's; where there is no cache to write to, they are read from the binary itself.

use std::path::{Path, PathBuf};

use crate::{
    adapter::AdapterFiles,
    error::{Error, Result},
    weights::{Source, cache, durable},
};

const FILES: &[(&str, &[u8])] = &[
    (
        "config.json",
        include_bytes!("../models/tiny/base/config.json"),
    ),
    (
        "tokenizer.json",
        include_bytes!("../models/tiny/base/tokenizer.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../models/tiny/base/model.safetensors"),
    ),
];

/// The built-in base.
pub fn base() -> Source {
    let Some(cache) = cache::directory() else {
        return Source::Embedded(FILES);
    };
    match unpacked(&cache) {
        Ok(dir) => Source::Dir(dir),
        Err(error) => {
            tracing::warn!(
                "cannot unpack the built-in model ({error}); reading it from the binary"
            );
            Source::Embedded(FILES)
        }
    }
}

/// The directory in `cache` that holds the built-in base, made where it is not there yet.
fn unpacked(cache: &Path) -> Result<PathBuf> {
    let mut hash = blake3::Hasher::new();
    FILES.iter().for_each(|(_, bytes)| _ = hash.update(bytes));
    let dir = cache.join(format!("built-in-{}", &hash.finalize().to_hex()[..16]));
    if !dir.exists() {
        let made = durable::directory(&dir, |dir| {
            let write = |(name, bytes): &(&str, &[u8])| {
                let path = dir.join(name);
                std::fs::write(&path, bytes).map_err(Error::io(&path))
            };
            FILES.iter().try_for_each(write)
        });
        // Another process may have been first; what it made is looked at below.
        if !dir.exists() {
            made?;
        }
    }
    for (name, bytes) in FILES {
        let path = dir.join(name);
        let len = std::fs::metadata(&path).map_err(Error::io(&path))?.len();
        if len != bytes.len() as u64 {
            let why = format!(
                "expected {} bytes, found {len}; remove the directory",
                bytes.len()
            );
            return Err(Error::format(&path, why));
        }
    }
    Ok(dir)
}

/// Its adapters, by name.
pub fn adapters() -> Vec<(&'static str, AdapterFiles)> {
    macro_rules! adapter {
        ($name:literal) => {
            (
                $name,
                AdapterFiles {
                    config: include_bytes!(concat!(
                        "../models/tiny/adapters/",
                        $name,
                        "/adapter_config.json"
                    ))
                    .to_vec(),
                    weights: include_bytes!(concat!(
                        "../models/tiny/adapters/",
                        $name,
                        "/adapter_model.safetensors"
                    ))
                    .to_vec(),
                    labels: Some(
                        include_bytes!(concat!("../models/tiny/adapters/", $name, "/labels.json"))
                            .to_vec(),
                    ),
                    selftest: None,
                },
            )
        };
    }
    vec![
        adapter!("sentiment"),
        adapter!("question"),
        adapter!("intent"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_twice_finds_the_first_and_a_damaged_one_is_not_used() {
        let cache = tempfile::tempdir().expect("a directory");
        let dir = unpacked(cache.path()).expect("unpacked");
        assert_eq!(unpacked(cache.path()).expect("found"), dir);
        std::fs::write(dir.join("model.safetensors"), b"short").expect("written");
        let why = unpacked(cache.path())
            .expect_err("it is damaged")
            .to_string();
        assert!(
            why.contains("model.safetensors") && why.contains("found 5"),
            "{why}"
        );
    }
}
