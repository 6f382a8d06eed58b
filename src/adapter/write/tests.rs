//! Written adapters read back as they were, whole or not at all.

use std::collections::BTreeMap;

use super::*;
use crate::adapter::Targets;

fn adapter() -> Adapter {
    let matrix = |rows: usize, cols: usize, step: f32| {
        Matrix::from_vec(
            (0..rows * cols).map(|i| (i as f32 - 2.0) * step).collect(),
            rows,
            cols,
        )
    };
    let factors = |r: usize, scale: f32| Factors {
        a: matrix(r, 3, 0.3),
        b: matrix(4, r, 0.7),
        scale,
    };
    Adapter {
        path: "nowhere".into(),
        factors: BTreeMap::from([
            (
                "bert.encoder.layer.1.attention.self.query".to_owned(),
                factors(1, 1.0),
            ),
            (
                "bert.encoder.layer.11.attention.self.query".to_owned(),
                factors(5, 0.3),
            ),
            (
                "bert.encoder.layer.1.output.dense".to_owned(),
                factors(2, 1.0),
            ),
            (
                "bert.encoder.layer.1.attention.output.dense".to_owned(),
                factors(3, 2.0),
            ),
            (
                "bert.encoder.layer.2.output.dense".to_owned(),
                factors(0, 2.0),
            ),
        ]),
        saved: BTreeMap::from([
            (
                "classifier.dense.weight".to_owned(),
                SavedTensor {
                    shape: vec![2, 2],
                    data: vec![1.0, -0.0, 0.1, 4.0],
                },
            ),
            (
                "classifier.out_proj.bias".to_owned(),
                SavedTensor {
                    shape: vec![1],
                    data: vec![0.5],
                },
            ),
            (
                "bert.pooler.dense.weight".to_owned(),
                SavedTensor {
                    shape: vec![1, 1],
                    data: vec![0.5],
                },
            ),
        ]),
        labels: Some(vec!["no".into(), "yes".into()]),
        task_type: Some(TaskType::SequenceClassification),
        problem: Some(crate::spec::Problem::MultiLabelClassification),
        base: Some("some/base".into()),
        base_fingerprint: Some("abc".into()),
        bytes: 0,
        targets: Targets::default(),
        provenance: BTreeMap::from([("sorank.pruned".to_owned(), "by a test".to_owned())]),
    }
}

#[test]
fn what_is_written_reads_back_baked() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("new/place");
    let a = adapter();
    a.write(&dir).unwrap();
    let back = Adapter::read(&dir).unwrap();
    let baked = a.baked();
    assert_eq!(back.factors, baked.factors);
    assert!(back.factors.values().all(|f| f.scale == 1.0));
    assert_eq!(back.saved, a.saved);
    assert_eq!(
        (&back.labels, back.problem, back.task_type),
        (&a.labels, a.problem, a.task_type)
    );
    assert_eq!(
        (&back.base, &back.base_fingerprint),
        (&a.base, &a.base_fingerprint)
    );
    assert_eq!(back.provenance, a.provenance);
    assert!(
        !back.targets.matches("bert.encoder.layer.2.output.dense"),
        "rank 0 is not targeted"
    );
    assert!(
        back.targets
            .matches("bert.encoder.layer.11.attention.self.query")
    );

    // Bytes depend on the adapter alone, and a second generation is the first.
    let again = root.path().join("again");
    back.write(&again).unwrap();
    for name in [CONFIG, WEIGHTS, labels::LABELS] {
        assert_eq!(
            std::fs::read(dir.join(name)).unwrap(),
            std::fs::read(again.join(name)).unwrap()
        );
    }
    let names = |d: &Path| {
        let mut n: Vec<_> = std::fs::read_dir(d)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        n.sort();
        n
    };
    assert_eq!(
        names(root.path()),
        ["again", "new"],
        "nothing temporary is left"
    );
    assert_eq!(names(&dir), [CONFIG, WEIGHTS, labels::LABELS]);
}

#[test]
fn the_config_is_peft_s() {
    let a = adapter().baked();
    let config: Value = serde_json::from_slice(&config_bytes(&a, Path::new("d")).unwrap()).unwrap();
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(5), &json!(5))
    );
    assert_eq!(config["rank_pattern"], config["alpha_pattern"]);
    assert_eq!(
        config["rank_pattern"]["bert.encoder.layer.1.output.dense"],
        2
    );
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 4);
    assert_eq!(
        config["modules_to_save"],
        json!(["bert.pooler.dense", "classifier"])
    );
    assert_eq!(config["task_type"], "SEQ_CLS");
    let keys: Vec<_> = config.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted());

    // Without its head PEFT could not load a classifier's adapter.
    let headless = Adapter {
        saved: BTreeMap::new(),
        ..a
    };
    let config: Value =
        serde_json::from_slice(&config_bytes(&headless, Path::new("d")).unwrap()).unwrap();
    assert_eq!(
        (&config["task_type"], &config["modules_to_save"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("out");
    let refused = |a: &Adapter, why: &str| {
        let message = a.write(&dir).unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    };
    let mut a = adapter();
    a.factors.retain(|_, f| f.rank() == 0);
    refused(&a, "every rank is pruned away");

    let mut a = adapter();
    a.factors.values_mut().for_each(|f| f.scale = f32::MAX);
    refused(&a, "holds");

    let mut a = adapter();
    a.saved.insert(
        "loose".into(),
        SavedTensor {
            shape: vec![1],
            data: vec![0.0],
        },
    );
    refused(&a, "loose");

    // A path that is a suffix of another would take its rank by PEFT's rules.
    let mut a = adapter();
    let f = a.factors["bert.encoder.layer.1.output.dense"].clone();
    a.factors.insert(
        "output.dense".into(),
        Factors {
            a: f.a.clone(),
            b: f.b,
            scale: 1.0,
        },
    );
    let f = a.factors["bert.encoder.layer.11.attention.self.query"].clone();
    a.factors.insert("x.output.dense".into(), f);
    refused(&a, "output.dense");
}

#[test]
fn halves_read_back_rounded_and_what_does_not_fit_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let written = |a: &Adapter, stored: Stored, name: &str| {
        let dir = root.path().join(name);
        a.write_as(&dir, stored)
            .map(|()| Adapter::read(&dir).unwrap())
    };
    let whole = written(&adapter(), Stored::F32, "f32").unwrap();
    for (stored, name, off) in [(Stored::F16, "f16", 5e-4), (Stored::Bf16, "bf16", 4e-3)] {
        let half = written(&adapter(), stored, name).unwrap();
        for (module, f) in &whole.factors {
            let got = &half.factors[module];
            for (x, y) in f.b.as_slice().iter().zip(got.b.as_slice()) {
                assert!((x - y).abs() <= off * x.abs(), "{module}: {x} became {y}");
            }
        }
        let size = |name: &str| {
            let path = root.path().join(name).join(WEIGHTS);
            std::fs::metadata(path).unwrap().len()
        };
        assert!(size(name) < size("f32"));
    }
    let mut large = adapter();
    let f = large.factors.values_mut().next().unwrap();
    f.a.view_mut().row_mut(0)[0] = 1e5;
    let why = written(&large, Stored::F16, "large")
        .unwrap_err()
        .to_string();
    assert!(why.contains("lora_A") && why.contains("holds inf"), "{why}");
}

#[test]
fn a_place_that_is_taken_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("mine.txt");
    std::fs::write(&file, "x").unwrap();
    assert!(
        adapter()
            .write(root.path())
            .unwrap_err()
            .to_string()
            .contains("not empty")
    );
    assert!(adapter().write(&file).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
    let empty = root.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    adapter().write(&empty).unwrap();
}

/// The Rust half of tests/reference/peft_accepts.py, which runs it and loads with peft what it wrote.
#[test]
#[ignore = "run by tests/reference/peft_accepts.py"]
fn rewrites_adapters_for_peft() {
    let from = |name: &str| std::path::PathBuf::from(std::env::var(name).unwrap());
    let (input, output) = (from("SORANK_PEFT_IN"), from("SORANK_PEFT_OUT"));
    for entry in std::fs::read_dir(input).unwrap().map(|e| e.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            let adapter = Adapter::read(&entry.path()).unwrap();
            adapter.write(&output.join(entry.file_name())).unwrap();
            let (pruned, _) = adapter.prune(crate::adapter::Keep::Rank(1)).unwrap();
            pruned
                .write(&output.join("pruned").join(entry.file_name()))
                .unwrap();
        }
    }
}
