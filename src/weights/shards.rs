//! Which files a checkpoint consists of: one, or the shards that an index names.
//!
//! An index is outside data: a shard must be the plain name of a file beside it, so that no index can make this
//! process read elsewhere. Whether the shards hold what the index says is asked by `tensors`.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{
    header::{self, Unique},
    source::Source,
};
use crate::{Error, Result};

/// The one file of a checkpoint.
pub(super) const WHOLE: &str = "model.safetensors";
/// The index of its shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The shard of each tensor; shards are plain names of safetensors files.
pub(super) fn read_index(index: &[u8], path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: Unique<String>,
    }
    if index.len() as u64 > header::LIMIT {
        let why = format!(
            "{} bytes of index, expected at most {}",
            index.len(),
            header::LIMIT
        );
        return Err(Error::format(path, why));
    }
    let index: Index = serde_json::from_slice(index)
        .map_err(|e| Error::format(path, format!("not an index of shards: {e}")))?;
    let weight_map = index.weight_map.0;
    let plain = |name: &str| {
        name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0']) && name != ".."
    };
    if let Some(bad) = weight_map.values().find(|name| !plain(name)) {
        return Err(Error::config(
            path,
            "weight_map",
            format!("expected names of .safetensors files beside it, found {bad:?}"),
        ));
    }
    if weight_map.is_empty() {
        return Err(Error::config(path, "weight_map", "names no tensor"));
    }
    Ok(weight_map)
}

/// No safetensors file: says what there is instead.
pub(super) fn no_checkpoint(source: &Source) -> Error {
    let path = source.path(WHOLE);
    let Some(dir) = source.directory() else {
        return Error::format(&path, "expected this file, and it is not there");
    };
    const OTHERS: [&str; 6] = [
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.pt",
        "tf_model.h5",
        "flax_model.msgpack",
        "model.ckpt",
    ];
    match OTHERS.iter().find(|name| dir.join(name).exists()) {
        Some(name) => Error::unsupported(
            &dir.join(name),
            "a checkpoint that is not safetensors",
            "convert it once: transformers' from_pretrained, then save_pretrained, writes model.safetensors",
        ),
        None => Error::format(
            &path,
            format!("expected this file, or {INDEX} and its shards, and neither is there"),
        ),
    }
}
