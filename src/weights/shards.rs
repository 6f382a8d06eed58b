//! Which files a checkpoint consists of: one, or the shards that an index names.
//!
//! An index is outside data: a shard must be the plain name of a file beside it, so that no index can make this
//! process read elsewhere. Whether the shards hold what the index says is asked by `tensors`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;

use super::{
    header::{self, Unique},
    source::Source,
};
use crate::{Error, Result};

/// The one file of a checkpoint.
pub const WHOLE: &str = "model.safetensors";
/// The index of its shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The files of shards that the index names; none where there is no index.
///
/// # Errors
/// When the index is not one, or names what is no file beside it.
pub fn of(source: &Source) -> Result<BTreeSet<String>> {
    let Some(index) = source.read(INDEX)? else {
        return Ok(BTreeSet::new());
    };
    let weight_map = read_index(&index, &source.path(INDEX))?;
    Ok(weight_map.into_values().collect())
}

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
