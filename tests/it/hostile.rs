//! Damaged bases: an error that names the file and the thing, never a panic, never an answer.

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
