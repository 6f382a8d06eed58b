//! The reader against what peft itself saved and computed: tests/reference/peft/, made by peft_accepts.py.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::adapter::{Adapter, peft_config::PeftConfig};

/// peft computed the products in f32 over at most 12 terms; the sum runs over 96 of them.
const TOLERANCE: f64 = 1e-5;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/peft")
}

#[test]
fn every_product_is_peft_s() {
    let expected = std::fs::read(directory().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let mut wrong = Vec::new();
    for (name, modules) in expected.as_object().unwrap() {
        let adapter = Adapter::read(&directory().join(name)).unwrap();
        let modules = modules.as_object().unwrap();
        assert!(
            adapter.factors.keys().all(|m| modules.contains_key(m)),
            "{name}"
        );
        for (module, want) in modules {
            let number = |key: &str| want[key].as_f64().unwrap();
            let (norm, sum) = (number("norm"), number("sum"));
            // A module that lost all its ranks must not be missed at bind.
            assert_eq!(
                adapter.targets.matches(module),
                norm != 0.0,
                "{name}: {module}"
            );
            let Some(f) = adapter.factors.get(module) else {
                if norm != 0.0 {
                    wrong.push(format!("{name}: {module} is missing"));
                }
                continue;
            };
            let (mut square, mut total) = (0.0, 0.0);
            for o in 0..f.b.rows() {
                for i in 0..f.a.cols() {
                    let dot = |r| f64::from(f.b.row(o)[r]) * f64::from(f.a.row(r)[i]);
                    let value = (0..f.rank()).map(dot).sum::<f64>() * f64::from(f.scale);
                    square += value * value;
                    total += value;
                }
            }
            let shape = [f.b.rows(), f.a.cols()].map(|n| n as f64).to_vec();
            let want_shape: Vec<f64> = want["shape"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_f64)
                .collect();
            let near = |got: f64, want: f64| (got - want).abs() <= TOLERANCE * norm.max(1.0);
            if shape != want_shape || !near(square.sqrt(), norm) || !near(total, sum) {
                wrong.push(format!(
                    "{name}: {module}: {} and {total}, not {want}",
                    square.sqrt()
                ));
            }
            if name != "bert_adalora" && f64::from(f.scale) != f64::from(number("scaling") as f32) {
                wrong.push(format!("{name}: {module}: scale {}, not {want}", f.scale));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn heads_and_pruned_modules_are_as_saved() {
    let read = |name: &str| Adapter::read(&directory().join(name)).unwrap();
    let saved = |name: &str| read(name).saved.into_keys().collect::<Vec<_>>();
    assert_eq!(
        saved("bert_patterns"),
        [
            "bert.pooler.dense.bias",
            "bert.pooler.dense.weight",
            "classifier.bias",
            "classifier.weight"
        ]
    );
    assert_eq!(
        saved("distilbert_regex"),
        [
            "classifier.bias",
            "classifier.weight",
            "pre_classifier.bias",
            "pre_classifier.weight"
        ]
    );
    assert_eq!(saved("roberta_all_linear_rslora").len(), 4);
    assert_eq!(
        saved("deberta_layers"),
        ["classifier.bias", "classifier.weight"]
    );
    assert!(saved("modernbert_exclude").is_empty());
    let adalora = read("bert_adalora");
    assert!(
        !adalora
            .factors
            .contains_key("bert.encoder.layer.0.attention.self.query")
    );
    assert!(
        adalora
            .factors
            .values()
            .all(|f| f.rank() <= 2 && f.scale == 1.0)
    );
}

#[test]
fn matching_is_peft_s_on_random_configurations() {
    let file = std::fs::read(directory().join("matching.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let strings = |v: &Value| serde_json::from_value::<Vec<String>>(v.clone()).unwrap();
    let paths = strings(&file["paths"]);
    let mut wrong = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        let config = PeftConfig::parse(case.to_string().as_bytes(), Path::new("c")).unwrap();
        let targeted: Vec<_> = paths
            .iter()
            .filter(|p| config.targets.matches(p))
            .cloned()
            .collect();
        let ranks: Vec<_> = paths
            .iter()
            .map(|p| config.claimed_rank(p).0.into())
            .collect();
        if targeted != strings(&case["targeted"]) || Value::Array(ranks.clone()) != case["ranks"] {
            wrong.push(format!(
                "{case}\n  targeted {targeted:?}\n  ranks {ranks:?}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
