//! Which files of a repository a base or an adapter is made of: those that the loaders read, and no others.
//!
//! Two rounds: what is asked for by its own name, then what those files name (shards, the pooling's folder).

use std::path::Path;

use serde_json::Value;

use super::Want;
use crate::{
    adapter,
    error::Result,
    weights::{COMPANIONS, Source, shards},
};

const CONFIG: &str = "config.json";
const MODULES: &str = "modules.json";
/// A checkpoint is there where one of these is.
const WEIGHTS: [&str; 2] = [shards::WHOLE, shards::INDEX];

/// The files asked for by name, of those that there are, or why this repository is not what is wanted.
pub(super) fn by_name<'a>(names: &[&'a str], want: Want) -> Result<Vec<&'a str>, String> {
    let has = |name: &str| names.contains(&name);
    let is_adapter = has(adapter::CONFIG);
    let (base, adapter) = match want {
        Want::Base if !has(CONFIG) && is_adapter => {
            return Err(
                "holds an adapter (adapter_config.json) and no base (config.json)".to_owned(),
            );
        }
        Want::Adapter if !is_adapter && has(CONFIG) => {
            return Err(
                "holds a base (config.json) and no adapter (adapter_config.json)".to_owned(),
            );
        }
        _ if !has(CONFIG) && !is_adapter => {
            let why = "holds neither a base (config.json) nor an adapter (adapter_config.json)";
            return Err(why.to_owned());
        }
        Want::Base => (true, false),
        Want::Adapter => (false, true),
        // A config.json beside an adapter may be there for its labels alone.
        Want::Any => (!is_adapter || WEIGHTS.iter().any(|f| has(f)), is_adapter),
    };
    if base && !WEIGHTS.iter().any(|f| has(f)) {
        return Err(no_safetensors(names, shards::WHOLE));
    }
    if adapter && !has(adapter::WEIGHTS) {
        return Err(no_safetensors(names, adapter::WEIGHTS));
    }
    let of_base = |name: &str| {
        let limit = name.starts_with("sentence_") && name.ends_with("_config.json");
        let whole = has(shards::WHOLE);
        [CONFIG, shards::WHOLE].contains(&name)
            || COMPANIONS.contains(&name)
            || (limit && !name.contains('/'))
            || (name == shards::INDEX && !whole)
    };
    let of_adapter = |name: &str| adapter::FILES.contains(&name) || name == CONFIG;
    let mut wanted: Vec<&str> = names.to_vec();
    wanted.retain(|name| (base && of_base(name)) || (adapter && of_adapter(name)));
    Ok(wanted)
}

/// The files that those in `snapshot` name: shards, and the configuration of each module of sentence-transformers.
pub(super) fn named_inside<'a>(snapshot: &Path, names: &[&'a str]) -> Result<Vec<&'a str>> {
    let source = Source::dir(snapshot)?;
    let mut inside: Vec<String> = shards::of(&source)?.into_iter().collect();
    if let Some(modules) = source.read(MODULES)? {
        // What is wrong with it is the loader's to say.
        let modules: Vec<Value> = serde_json::from_slice(&modules).unwrap_or_default();
        let folders = modules.iter().filter_map(|m| m.get("path")?.as_str());
        inside.extend(folders.map(|folder| format!("{folder}/{CONFIG}")));
    }
    let mut wanted: Vec<&str> = names.to_vec();
    wanted.retain(|&name| inside.iter().any(|i| i == name));
    Ok(wanted)
}

/// The file without which `snapshot` cannot be used; `None` when it has all that it must have.
pub(super) fn missing(snapshot: &Path, want: Want) -> Result<Option<String>> {
    let has = |name: &str| snapshot.join(name).is_file();
    let is_adapter = has(adapter::CONFIG);
    let missing = |name: &str| Ok((!has(name)).then(|| name.to_owned()));
    match want {
        Want::Adapter if !is_adapter => return missing(adapter::CONFIG),
        Want::Adapter => return missing(adapter::WEIGHTS),
        Want::Any if is_adapter && !has(adapter::WEIGHTS) => return missing(adapter::WEIGHTS),
        Want::Any if is_adapter => return Ok(None),
        Want::Base | Want::Any if !has(CONFIG) => return missing(CONFIG),
        _ => {}
    }
    if has(shards::WHOLE) || !has(shards::INDEX) {
        return missing(shards::WHOLE);
    }
    let shards = shards::of(&Source::dir(snapshot)?)?;
    Ok(shards.into_iter().find(|name| !has(name)))
}

fn no_safetensors(names: &[&str], expected: &str) -> String {
    const OTHERS: [&str; 8] = [
        ".bin",
        ".bin.index.json",
        ".pt",
        ".pth",
        ".h5",
        ".msgpack",
        ".ckpt",
        ".onnx",
    ];
    let weights = names
        .iter()
        .find(|name| OTHERS.iter().any(|end| name.ends_with(end)));
    match weights {
        Some(other) => format!(
            "holds no {expected}, only {other}, and such files are not read: convert it once (transformers' from_pretrained, \
             then save_pretrained), or name a revision that has safetensors (owner/name@refs/pr/N)"
        ),
        None => format!("holds no {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: [&str; 12] = [
        ".gitattributes",
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "modules.json",
        "onnx/model.onnx",
        "pytorch_model.bin",
        "sentence_bert_config.json",
        "tokenizer.json",
        "sub/model.safetensors",
    ];

    #[test]
    fn a_base_is_what_the_loaders_read() {
        let expected = [
            "1_Pooling/config.json",
            "config.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json",
        ];
        assert_eq!(by_name(&BASE, Want::Base).unwrap(), expected);
        assert_eq!(by_name(&BASE, Want::Any).unwrap(), expected);
    }

    #[test]
    fn an_adapter_with_labels_is_not_taken_for_a_base() {
        let names = [
            "adapter_config.json",
            "adapter_model.safetensors",
            "config.json",
            "selftest.json",
            "tokenizer.json",
        ];
        let expected = [
            "adapter_config.json",
            "adapter_model.safetensors",
            "config.json",
            "selftest.json",
        ];
        assert_eq!(by_name(&names, Want::Any).unwrap(), expected);
        assert_eq!(by_name(&names, Want::Adapter).unwrap(), expected);
    }

    #[test]
    fn what_is_not_wanted_is_named() {
        let refused = |names: &[&str], want, says: &str| {
            let why = by_name(names, want).unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        refused(&BASE, Want::Adapter, "holds a base");
        refused(&["adapter_config.json"], Want::Base, "holds an adapter");
        refused(&["README.md"], Want::Any, "neither");
        refused(
            &["config.json", "pytorch_model.bin"],
            Want::Base,
            "only pytorch_model.bin",
        );
        refused(
            &["adapter_config.json", "adapter_model.bin"],
            Want::Any,
            "only adapter_model.bin",
        );
        refused(&["config.json"], Want::Any, "holds no model.safetensors");
    }

    #[test]
    fn shards_and_module_folders_are_read_off_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(CONFIG, "{}");
        write(
            MODULES,
            r#"[{"path": ""}, {"path": "0_Pool"}, {"path": "../x"}]"#,
        );
        write(
            shards::INDEX,
            r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#,
        );
        let names = [
            "0_Pool/config.json",
            "config.json",
            "m-1.safetensors",
            "m-2.safetensors",
            "m-3.safetensors",
        ];
        let found = named_inside(dir.path(), &names).unwrap();
        assert_eq!(
            found,
            ["0_Pool/config.json", "m-1.safetensors", "m-2.safetensors"]
        );
        write("m-1.safetensors", "");
        let missing = missing(dir.path(), Want::Base).unwrap();
        assert_eq!(missing.as_deref(), Some("m-2.safetensors"));
    }
}
