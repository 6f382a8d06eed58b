//! Damaged bases: an error that names the file and the thing, never a panic, never an answer.

#[cfg(target_os = "linux")]
mod bounds;

use std::path::Path;

use sorank::{
    model::{LoadOptions, Model},
    weights::Source,
};

use crate::fixtures::golden;

/// A copy of the BERT fixture's base.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(golden("bert").base()).expect("base/") {
        let path = entry.expect("base/").path();
        std::fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    dir
}

/// The message with which the base in `dir` is refused.
fn refusal(dir: &Path) -> String {
    let loaded = Source::dir(dir).and_then(|s| Model::load(s, &LoadOptions::default()));
    match loaded {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("config.json");
    let mut config =
        serde_json::from_slice(&std::fs::read(&path).expect("a configuration")).expect("JSON");
    edit(&mut config);
    std::fs::write(path, config.to_string()).expect("written");
}

#[test]
fn configurations_that_change_the_answer_are_refused_by_name() {
    let cases: [(&str, serde_json::Value); 6] = [
        ("position_embedding_type", "relative_key".into()),
        ("is_decoder", true.into()),
        ("hidden_act", "mish".into()),
        ("num_attention_heads", 5.into()),
        ("hidden_size", 0.into()),
        ("model_type", "gpt2".into()),
    ];
    for (key, value) in cases {
        let dir = copy();
        edit_config(dir.path(), |c| c[key] = value.clone());
        let why = refusal(dir.path());
        assert!(why.contains(key) || why.contains("gpt2"), "{key}: {why}");
        assert!(why.contains("config.json"), "{key}: {why}");
    }
}

#[test]
fn missing_and_unused_tensors_are_all_named() {
    let dir = copy();
    edit_config(dir.path(), |c| c["num_hidden_layers"] = 4.into());
    let why = refusal(dir.path());
    assert!(why.contains("layer.3.attention.self.query.weight"), "{why}");
    assert!(why.contains("layer.3.output.dense.bias"), "{why}");
    edit_config(dir.path(), |c| c["num_hidden_layers"] = 2.into());
    let why = refusal(dir.path());
    assert!(
        why.contains("unused") && why.contains("layer.2.output.dense.bias"),
        "{why}"
    );
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let dir = copy();
    edit_config(dir.path(), |c| c["intermediate_size"] = 65.into());
    let why = refusal(dir.path());
    assert!(
        why.contains("intermediate.dense") && why.contains("65") && why.contains("64"),
        "{why}"
    );
}

#[test]
fn every_truncation_of_the_weights_is_refused() {
    let dir = copy();
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).expect("weights");
    for len in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).expect("written");
        let why = refusal(dir.path());
        assert!(why.contains("model.safetensors"), "{len}: {why}");
    }
}

#[test]
fn a_directory_without_a_model_says_what_it_lacks() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(refusal(dir.path()).contains("config.json"));
    let dir = copy();
    std::fs::remove_file(dir.path().join("model.safetensors")).expect("removed");
    assert!(refusal(dir.path()).contains("model.safetensors"));
}

/// Rewrites the header of the copied weights: its text goes through `edit`, the data stays.
fn edit_header(dir: &Path, edit: impl FnOnce(String) -> String) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).expect("weights");
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = edit(String::from_utf8(bytes[8..8 + len].to_vec()).expect("UTF-8"));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&bytes[8 + len..]);
    std::fs::write(path, out).expect("written");
}

fn header_of(text: &str) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(text).expect("a header is JSON")
}

#[test]
fn overlapping_tensors_are_refused() {
    let dir = copy();
    edit_header(dir.path(), |text| {
        let mut header = header_of(&text);
        let bias = "bert.encoder.layer.0.attention.self.key.bias";
        let other =
            header["bert.encoder.layer.0.attention.self.query.bias"]["data_offsets"].clone();
        header[bias]["data_offsets"] = other;
        serde_json::to_string(&header).expect("JSON")
    });
    let why = refusal(dir.path());
    assert!(why.contains("model.safetensors"), "{why}");
}

#[test]
fn tensors_past_the_end_of_the_file_are_refused() {
    for far in [1u64 << 20, 1 << 62] {
        let dir = copy();
        edit_header(dir.path(), |text| {
            let mut header = header_of(&text);
            header["bert.embeddings.word_embeddings.weight"]["data_offsets"] =
                serde_json::json!([0, far]);
            serde_json::to_string(&header).expect("JSON")
        });
        let why = refusal(dir.path());
        assert!(why.contains("model.safetensors"), "{why}");
    }
    // A header that claims to be longer than the file, and one of absurd length.
    for len in [1u64 << 24, u64::MAX] {
        let dir = copy();
        let path = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).expect("weights");
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        std::fs::write(&path, bytes).expect("written");
        assert!(refusal(dir.path()).contains("model.safetensors"));
    }
}

#[test]
fn a_tensor_named_twice_is_refused() {
    let dir = copy();
    edit_header(dir.path(), |text| {
        let header = header_of(&text);
        let name = "bert.encoder.layer.0.attention.self.key.bias";
        format!("{{\"{name}\":{},{}", header[name], &text[1..])
    });
    let why = refusal(dir.path());
    assert!(why.contains("model.safetensors"), "{why}");
}

#[test]
fn weights_that_are_not_numbers_are_refused_by_tensor() {
    for name in [
        "bert.encoder.layer.1.output.dense.weight",
        "bert.encoder.layer.1.output.dense.bias",
        "bert.encoder.layer.1.output.LayerNorm.weight",
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
    ] {
        for bad in [f32::NAN, f32::INFINITY] {
            let dir = copy();
            let path = dir.path().join("model.safetensors");
            let mut bytes = std::fs::read(&path).expect("weights");
            let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
            let header = header_of(std::str::from_utf8(&bytes[8..8 + len]).expect("UTF-8"));
            let start = header[name]["data_offsets"][0].as_u64().expect("an offset") as usize;
            bytes[8 + len + start + 4..][..4].copy_from_slice(&bad.to_le_bytes());
            std::fs::write(&path, bytes).expect("written");
            let why = refusal(dir.path());
            assert!(why.contains(name), "{name}: {why}");
        }
    }
}
