//! What is not a plain LoRA of this library is refused by name.

use super::*;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference/adapterhub")
        .join(name)
}

/// A copy of a fixture whose file `name` says something else.
fn changed(from: &str, name: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(from)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let path = dir.path().join(name);
    let mut said = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut said);
    std::fs::write(path, said.to_string()).unwrap();
    dir
}

fn refusal(from: &str, name: &str, change: impl FnOnce(&mut Value)) -> String {
    let dir = changed(from, name, change);
    let refused = Adapter::import_adapterhub(dir.path());
    refused.map(|_| ()).expect_err("refused").to_string()
}

#[test]
fn factors_scale_labels_and_head_are_taken_over() {
    let (adapter, report) = Adapter::import_adapterhub(&fixture("bert-two-layers")).unwrap();
    assert_eq!((report.alpha, report.modules.len()), (7.0, 15));
    let path = "bert.encoder.layer.2.intermediate.dense";
    let f = &adapter.factors[path];
    assert_eq!((f.rank(), f.a.cols(), f.b.rows()), (3, 32, 64));
    assert_eq!(f.scale, (7.0 / 3.0_f64) as f32);
    assert_eq!(
        report.head,
        [
            "bert.pooler.dense.bias",
            "bert.pooler.dense.weight",
            "classifier.bias",
            "classifier.weight"
        ]
    );
    assert_eq!(adapter.labels.unwrap(), ["sad", "flat", "glad"]);
    assert_eq!(adapter.task_type, Some(TaskType::SequenceClassification));
}

#[test]
fn other_kinds_are_refused_by_name() {
    const CONFIG: &str = "adapter_config.json";
    let cases: [(&str, Value); 6] = [
        ("architecture", "prefix_tuning".into()),
        ("composition_mode", "scale".into()),
        ("use_gating", true.into()),
        ("use_dora", true.into()),
        ("vera_d", 0.1.into()),
        ("something_new", 3.into()),
    ];
    for (key, value) in cases {
        let why = refusal("bert-two-layers", CONFIG, |c| c["config"][key] = value);
        assert!(why.contains(key), "{key}: {why}");
    }
    let why = refusal("bert-two-layers", CONFIG, |c| c["model_type"] = "t5".into());
    assert!(why.contains("t5"), "{why}");
    let why = refusal("bert-two-layers", CONFIG, |c| c["config"]["r"] = 4.into());
    assert!(why.contains("lora_A") && why.contains("[4, in]"), "{why}");
    for alpha in [Value::Null, "much".into()] {
        let why = refusal("bert-two-layers", CONFIG, |c| c["config"]["alpha"] = alpha);
        assert!(why.contains("alpha"), "{why}");
    }
}

#[test]
fn a_head_that_the_family_does_not_have_is_refused() {
    const CONFIG: &str = "head_config.json";
    let cases: [(&str, Value); 5] = [
        ("head_type", "multiple_choice".into()),
        ("activation_function", "relu".into()),
        ("layers", 3.into()),
        ("bias", false.into()),
        ("use_pooler", true.into()),
    ];
    for (key, value) in cases {
        let why = refusal("bert-two-layers", CONFIG, |c| c["config"][key] = value);
        assert!(why.contains("head"), "{key}: {why}");
    }
    let why = refusal("bert-own", CONFIG, |c| {
        c["model_class"] = "BertForMaskedLM".into()
    });
    assert!(why.contains("BertForMaskedLM"), "{why}");
}

#[test]
fn a_directory_of_peft_is_not_taken_for_one() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden/bert/adapters/mixed");
    assert!(!Adapter::is_adapterhub(&golden).unwrap());
    assert!(Adapter::is_adapterhub(&fixture("bert-own")).unwrap());
}
