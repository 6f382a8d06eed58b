//! Commands on adapters and bases: prune, verify, import, pack.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sorank::engine::Want;

use crate::{
    cli::{fails, lines, numbers, sorank},
    fixtures::{add, admit, bits, distance, engine, golden, logits, manifest_dir},
};

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn stdout(args: &[&str]) -> String {
    let out = sorank(args, "");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Logits of the golden texts with the adapter in `dir`.
fn answers(base: &Path, dir: &Path) -> Vec<Vec<f32>> {
    let engine = engine(base, 512);
    add(&engine, "a", dir);
    let rows = admit(&engine, Some("a"), Want::Classes, &golden("bert").texts());
    engine
        .run(&rows)
        .iter()
        .map(|a| logits(a).to_vec())
        .collect()
}

#[test]
fn pruning_at_full_energy_changes_nothing_and_records_the_base() {
    let golden = golden("bert");
    let (base, from) = (golden.base(), golden.adapter_dir("mixed"));
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("pruned");
    let args = [
        "prune",
        utf8(&from),
        "--energy",
        "1",
        "--model",
        utf8(&base),
        "-o",
        utf8(&out),
    ];
    let table = stdout(&args);
    assert!(
        table.contains("relative error") && table.contains("parameters kept"),
        "{table}"
    );
    for (a, b) in answers(&base, &from).iter().zip(answers(&base, &out)) {
        assert!(distance(&b, a) <= 1e-6);
    }
    let named = format!("p={}", utf8(&out));
    let verify = [
        "verify",
        "--model",
        utf8(&base),
        "--adapter",
        &named,
        "--json",
    ];
    let found = &lines(&verify, "")[0];
    assert_eq!(
        (&found["ok"], &found["fingerprint"]),
        (&json!(true), &json!(true)),
        "{found}"
    );
    // The recorded base is asked for: another one, of the same shape, is refused.
    let other = tempfile::tempdir().expect("a directory");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(base.join(name), other.path().join(name)).expect("copied");
    }
    let weights = other.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let last = bytes.len() - 1;
    bytes[last - 1] ^= 1; // of the last number, the middle of its mantissa
    std::fs::write(&weights, bytes).expect("written");
    let verify = ["verify", "--model", utf8(other.path()), "--adapter", &named];
    let why = fails(1, &verify, "");
    assert!(why.contains("another base"), "{why}");
}

#[test]
fn pruning_says_what_each_site_lost() {
    let golden = golden("bert");
    let from = golden.adapter_dir("mixed");
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("small");
    let report = &lines(
        &[
            "prune",
            utf8(&from),
            "--rank",
            "1",
            "-o",
            utf8(&out),
            "--json",
        ],
        "",
    )[0];
    let modules = report["modules"].as_array().expect("modules");
    assert!(modules.iter().all(|m| m["rank_after"] == 1), "{report}");
    let lost = |m: &Value| m["relative_error"].as_f64().expect("a number");
    let cut = |m: &Value| m["rank_before"].as_u64() > Some(1);
    assert!(modules.iter().any(cut) && modules.iter().all(|m| cut(m) == (lost(m) > 0.0)));
    assert!(!answers(&golden.base(), &out).is_empty(), "it loads");
    let why = fails(
        1,
        &["prune", utf8(&from), "--rank", "1", "-o", utf8(&out)],
        "",
    );
    assert!(why.contains("not empty"), "{why}");
    fails(2, &["prune", utf8(&from)], "");
    fails(
        2,
        &["prune", utf8(&from), "--rank", "1", "--energy", "0.5"],
        "",
    );
    let why = fails(1, &["prune", utf8(&from), "--energy", "1.5"], "");
    assert!(why.contains("energy"), "{why}");
}

/// A copy of an adapter directory.
fn copy(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(from).expect("an adapter") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    dir
}

#[test]
fn verify_names_every_reason() {
    let golden = golden("bert");
    let base = golden.base();
    let verify = |dir: &Path| {
        let named = format!("a={}", utf8(dir));
        let args = ["verify", "--model", utf8(&base), "--adapter", &named];
        let out = sorank(&args, "");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        (out.status.code(), said)
    };
    let (code, said) = verify(&golden.adapter_dir("mixed"));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("a: ok") && said.contains("a head of 3"),
        "{said}"
    );
    // A self test that is right, and one that is not.
    let dir = copy(&golden.adapter_dir("mixed"));
    let (text, pair) = &golden.texts()[0];
    let mut expected = golden.row("logits.mixed", 0).to_vec();
    let write = |expected: &[f32]| {
        let row = json!({"text": text, "text_pair": pair, "logits": expected});
        let test = json!({"rows": [row]}).to_string();
        std::fs::write(dir.path().join("selftest.json"), test).expect("written");
    };
    write(&expected);
    let (code, said) = verify(dir.path());
    assert!(
        code == Some(0) && said.contains("1 rows of selftest.json right"),
        "{said}"
    );
    expected[1] += 0.5;
    write(&expected);
    let (code, said) = verify(dir.path());
    assert!(
        code == Some(1) && said.contains("rows[0]") && said.contains("off by"),
        "{said}"
    );
    // Not of this base.
    let roberta = crate::fixtures::golden("roberta").adapter_dir("mixed");
    let (code, said) = verify(&roberta);
    assert!(code == Some(1) && said.contains("1 problem"), "{said}");
    let (code, said) = verify(Path::new("/nowhere"));
    assert!(code == Some(1) && said.contains("nowhere"), "{said}");
}

#[test]
fn a_sora_checkpoint_is_imported() {
    let home = manifest_dir().join("tests/reference/sora");
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("imported");
    let from = home.join("checkpoint");
    let head = home.join("whole_model.bin");
    let args = [
        "import",
        utf8(&from),
        "--head",
        utf8(&head),
        "-o",
        utf8(&out),
    ];
    let report = &lines(&args, "")[0];
    let expected = std::fs::read(home.join("expected.json")).expect("expected.json");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    let adapter = sorank::adapter::Adapter::read(&out).expect("it reads");
    let mut compared = 0;
    for module in report["modules"].as_array().expect("modules") {
        let name = module["module"].as_str().expect("a name");
        let kept = module["kept"].as_array().expect("indices").len();
        assert_eq!(expected[name]["rank"], kept, "{name}");
        let Some(f) = adapter.factors.get(name) else {
            assert_eq!(kept, 0);
            continue;
        };
        let delta = numbers(&expected[name]["delta"]);
        let (rows, cols) = (f.b.rows(), f.a.cols());
        let product: Vec<f32> = (0..rows * cols)
            .map(|i| {
                let terms = (0..f.rank())
                    .map(|r| f64::from(f.b.row(i / cols)[r]) * f64::from(f.a.row(r)[i % cols]));
                (terms.sum::<f64>() * f64::from(f.scale)) as f32
            })
            .collect();
        let worst = distance(&product, &delta);
        assert!(worst <= 1e-6, "{name}: {worst:e}");
        compared += 1;
    }
    assert!(
        compared >= 4 && adapter.saved.contains_key("classifier.weight"),
        "{compared}"
    );
    let hostile = home.join("hostile/os_system.bin");
    let out = dir.path().join("hostile");
    let why = fails(1, &["import", utf8(&hostile), "-o", utf8(&out)], "");
    assert!(
        why.contains("os_system.bin") && why.contains("system"),
        "{why}"
    );
    assert!(!out.exists());
}

#[test]
fn adalora_becomes_plain_lora() {
    let from: PathBuf = manifest_dir().join("tests/reference/peft/bert_adalora");
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("plain");
    stdout(&["import", utf8(&from), "-o", utf8(&out)]);
    let config = std::fs::read(out.join("adapter_config.json")).expect("a configuration");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    assert_eq!(config["peft_type"], "LORA");
    let (a, b) = (
        sorank::adapter::Adapter::read(&from).expect("it reads"),
        sorank::adapter::Adapter::read(&out).expect("it reads"),
    );
    for (name, f) in &a.factors {
        let baked = f.baked();
        assert_eq!(
            bits(baked.b.as_slice()),
            bits(b.factors[name].b.as_slice()),
            "{name}"
        );
    }
    let why = fails(
        2,
        &["import", utf8(&from), "--alpha", "8", "-o", utf8(&out)],
        "",
    );
    assert!(why.contains("--alpha"), "{why}");
}

#[test]
fn packing_ahead_writes_what_a_start_maps_and_rebuilds_what_is_damaged() {
    let base = golden("bert").base();
    let dir = tempfile::tempdir().expect("a directory");
    let args = [
        "pack",
        "--model",
        utf8(&base),
        "--dtype",
        "f32,int8",
        "--cache",
        utf8(dir.path()),
    ];
    let first = stdout(&args);
    let paths: Vec<PathBuf> = first
        .lines()
        .map(|line| line.split_once('\t').expect("bytes and a path").1.into())
        .collect();
    assert_eq!(paths.len(), 2, "{first}");
    let good = std::fs::read(&paths[1]).expect("the packed file");
    let mut damaged = good.clone();
    let last = damaged.len() - 100;
    damaged[last] ^= 1;
    std::fs::write(&paths[1], &damaged).expect("a file");
    assert_eq!(stdout(&args), first);
    assert!(std::fs::read(&paths[1]).expect("the packed file") == good);

    let in_the_way = dir.path().join("file");
    std::fs::write(&in_the_way, "x").expect("a file");
    let cache = in_the_way.join("below");
    let args = ["pack", "--model", utf8(&base), "--cache", utf8(&cache)];
    let message = fails(1, &args, "");
    assert!(message.contains("no packed file"), "{message}");
}
