//! The binary as a person runs it: output, exit codes, messages.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::fixtures::{PARITY, golden, manifest_dir};

/// Runs `sorank` with `args`, feeding `stdin`; the cache is the test's own.
pub(crate) fn sorank(args: &[&str], stdin: &str) -> Output {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sorank"))
        .args(args)
        .env("SORANK_CACHE", cache)
        .env_remove("SORANK_MODEL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A command that fails early closes its stdin before it is written.
    let _ = child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(stdin.as_bytes());
    child.wait_with_output().expect("it ends")
}

/// JSON lines of a run that must succeed.
pub(crate) fn lines(args: &[&str], stdin: &str) -> Vec<Value> {
    let out = sorank(args, stdin);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {stderr}");
    json(&out)
}

pub(crate) fn json(out: &Output) -> Vec<Value> {
    let text = String::from_utf8(out.stdout.clone()).expect("UTF-8");
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect()
}

/// A run that must fail with `code`; its message.
pub(crate) fn fails(code: i32, args: &[&str], stdin: &str) -> String {
    let out = sorank(args, stdin);
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

pub(crate) fn numbers(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .expect("numbers")
        .iter()
        .map(|x| x.as_f64().expect("a number") as f32)
        .collect()
}

#[test]
fn the_built_in_model_answers_a_mixed_batch() {
    let input = manifest_dir().join("models/tiny/mixed.jsonl");
    let rows = lines(&["classify", "--input", input.to_str().expect("UTF-8")], "");
    let asked: Vec<Value> = std::fs::read_to_string(&input)
        .expect("mixed.jsonl")
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(rows.len(), asked.len());
    for (i, (row, asked)) in rows.iter().zip(&asked).enumerate() {
        assert_eq!(row["index"], i);
        assert_eq!(row["adapter"], asked["adapter"]);
        let scores = row["scores"].as_object().expect("scores");
        let total: f64 = scores.values().map(|s| s.as_f64().expect("a number")).sum();
        assert!((total - 1.0).abs() < 1e-5, "softmax sums to one: {row}");
        assert_eq!(
            scores[row["label"].as_str().expect("a label")],
            row["score"]
        );
    }
    let adapters: std::collections::BTreeSet<&str> =
        rows.iter().filter_map(|r| r["adapter"].as_str()).collect();
    assert_eq!(
        adapters.into_iter().collect::<Vec<_>>(),
        ["intent", "question", "sentiment"]
    );
}

#[test]
fn classify_equals_peft_over_jsonl_on_stdin() {
    let golden = golden("bert");
    let base = golden.base();
    let adapter = |n: &str| format!("{}={}", n, golden.adapter_dir(n).display());
    let mut input = String::new();
    let mut expected = Vec::new();
    for (r, (text, pair)) in golden.texts().iter().enumerate() {
        for name in ["mixed", "qv2", "reg", "multi"] {
            let mut row = serde_json::json!({"text": text, "adapter": name});
            if let Some(pair) = pair {
                row["text_pair"] = pair.clone().into();
            }
            input += &format!("{row}\n");
            expected.push((r, name));
        }
    }
    let (a, b, c, d) = (
        adapter("mixed"),
        adapter("qv2"),
        adapter("reg"),
        adapter("multi"),
    );
    let base = base.to_str().expect("UTF-8");
    let args = [
        "classify",
        "--model",
        base,
        "--adapter",
        &a,
        "--adapter",
        &b,
        "--adapter",
        &c,
        "--adapter",
        &d,
        "--input",
        "-",
    ];
    let rows = lines(&args, &input);
    assert_eq!(rows.len(), expected.len());
    for (row, (r, name)) in rows.iter().zip(&expected) {
        assert_eq!(row["adapter"], *name);
        let logits = numbers(&row["logits"]);
        let error = golden.distance(&format!("logits.{name}"), *r, &logits);
        assert!(error <= PARITY, "{error:e}: {row}");
        match *name {
            "reg" => {
                assert!(row.get("label").is_none() && row.get("scores").is_none());
                assert_eq!(row["score"], row["logits"][0]);
            }
            "multi" => {
                for (label, score) in row["scores"].as_object().expect("scores") {
                    let labels = ["price", "service", "food", "place", "other"];
                    let i = labels
                        .iter()
                        .position(|l| l == label)
                        .expect("a known label");
                    let sigmoid = 1.0 / (1.0 + (-logits[i]).exp());
                    assert!((score.as_f64().expect("a number") as f32 - sigmoid).abs() < 1e-6);
                }
            }
            "qv2" => assert!(["no", "yes"].contains(&row["label"].as_str().expect("a label"))),
            _ => assert!(
                ["positive", "neutral", "negative"]
                    .contains(&row["label"].as_str().expect("a label"))
            ),
        }
    }
}

#[test]
fn embed_takes_arguments_files_and_plain_stdin() {
    let dir = tempfile::tempdir().expect("a directory");
    let texts = ["the first text", "a second, \"quoted\" text"];
    let from_args = lines(&["embed", texts[0], texts[1]], "");
    let plain = format!("{}\n{}\n", texts[0], texts[1]);
    assert_eq!(from_args, lines(&["embed", "--input", "-"], &plain));
    let files = [
        ("rows.txt", plain.clone()),
        (
            "rows.csv",
            format!(
                "text,n\n{},1\n\"{}\",2\n",
                texts[0],
                texts[1].replace('"', "\"\"")
            ),
        ),
        (
            "rows.tsv",
            format!("n\ttext\n1\t{}\n2\t{}\n", texts[0], texts[1]),
        ),
        (
            "rows.jsonl",
            texts
                .map(|t| serde_json::json!({ "text": t }).to_string())
                .join("\n"),
        ),
    ];
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, content).expect("written");
        let rows = lines(&["embed", "--input", path.to_str().expect("UTF-8")], "");
        assert_eq!(rows, from_args, "{name}");
    }
    assert_eq!(from_args[1]["index"], 1);
    assert_eq!(from_args[1]["adapter"], Value::Null);
}

#[test]
fn a_bad_row_stops_with_its_line_or_is_reported_in_its_place() {
    let input = "{\"text\": \"good\", \"adapter\": \"sentiment\"}\n{\"text\": 7}\n{\"text\": \"fine\", \"adapter\": \"question\"}\n";
    let why = fails(1, &["classify", "--input", "-"], input);
    assert!(why.contains("-:2"), "{why}");
    let out = sorank(&["classify", "--input", "-", "--keep-going"], input);
    let rows = json(&out);
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[1]["index"], 1);
    assert_eq!(rows[1]["line"], 2);
    assert!(
        rows[1]["error"]
            .as_str()
            .is_some_and(|e| e.contains("text")),
        "{}",
        rows[1]
    );
    assert_eq!(rows[2]["adapter"], "question");
}

#[test]
fn an_unknown_adapter_is_never_answered_by_the_base() {
    let why = fails(1, &["classify", "--use", "nobody", "a text"], "");
    assert!(why.contains("nobody") && why.contains("sentiment"), "{why}");
    let row = "{\"text\": \"a\", \"adapter\": \"nobody\"}\n";
    let why = fails(1, &["embed", "--input", "-"], row);
    assert!(why.contains("-:1") && why.contains("nobody"), "{why}");
}

#[test]
fn the_base_without_a_head_does_not_classify() {
    let why = fails(1, &["classify", "a text"], "");
    assert!(why.contains("head"), "{why}");
}

#[test]
fn usage_errors_end_with_two() {
    fails(2, &["embed"], "");
    fails(2, &["embed", "--dtype", "f64", "x"], "");
    fails(2, &["embed", "--adapter", "nameless", "x"], "");
    fails(2, &["nonsense"], "");
}

#[test]
fn a_text_that_is_too_long_is_refused_or_cut() {
    let long = "wonderful ".repeat(2000);
    let why = fails(1, &["embed", &long], "");
    assert!(why.contains("tokens"), "{why}");
    assert_eq!(lines(&["embed", &long, "--truncate"], "").len(), 1);
}

#[test]
fn inspect_shows_bases_adapters_and_draws_ranks() {
    let out = sorank(&["inspect"], "");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && text.contains("sentiment") && text.contains("layers"),
        "{text}"
    );
    let golden = golden("bert");
    let dir = tempfile::tempdir().expect("a directory");
    let svg = dir.path().join("ranks.svg");
    let adapter = golden.adapter_dir("mixed");
    let args = [
        "inspect",
        adapter.to_str().expect("UTF-8"),
        "--svg",
        svg.to_str().expect("UTF-8"),
        "--json",
    ];
    let facts = &lines(&args, "")[0];
    let total: u64 = facts["ranks"]
        .as_array()
        .expect("ranks")
        .iter()
        .map(|r| r["params"].as_u64().expect("a number"))
        .sum();
    assert_eq!(facts["parameters"], total);
    assert!(
        std::fs::read_to_string(&svg)
            .expect("drawn")
            .starts_with("<svg")
    );
}

#[test]
fn help_teaches_and_completions_come() {
    let help = String::from_utf8_lossy(&sorank(&["--help"], "").stdout).into_owned();
    for word in [
        "embed",
        "classify",
        "inspect",
        "merge",
        "Examples",
        "SORANK_CACHE",
    ] {
        assert!(help.contains(word), "{word} in {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let out = sorank(&["completions", shell], "");
        let script = String::from_utf8_lossy(&out.stdout);
        assert!(
            script.contains("max-batch-tokens") && out.stderr.is_empty(),
            "{shell}"
        );
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let man = dir.path().join("man1");
    let out = sorank(&["man", man.to_str().expect("UTF-8")], "");
    assert!(out.status.success());
    let page = |name: &str| std::fs::read_to_string(man.join(name)).expect("a page");
    assert!(page("sorank.1").contains(".TH sorank 1"));
    for command in ["classify", "embed", "train"] {
        assert!(page(&format!("sorank-{command}.1")).contains("SORANK_MODEL"));
    }
}

#[test]
fn empty_text_is_refused_by_its_line() {
    let why = fails(
        1,
        &["embed", "--input", "-"],
        "{\"text\": \"a\"}\n{\"text\": \"  \"}\n",
    );
    assert!(why.contains("-:2") && why.contains("empty"), "{why}");
    let why = fails(1, &["embed", ""], "");
    assert!(why.contains("empty"), "{why}");
}

#[test]
fn a_hundred_kilobytes_of_text_are_refused_or_cut() {
    let long = "All work and no play. ".repeat(5_000);
    let why = fails(1, &["embed", "--input", "-"], &format!("{long}\n"));
    assert!(why.contains("-:1") && why.contains("tokens"), "{why}");
    assert_eq!(
        lines(
            &["embed", "--input", "-", "--truncate"],
            &format!("{long}\n")
        )
        .len(),
        1
    );
}

#[test]
fn invalid_utf8_is_refused_by_its_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("rows.txt");
    std::fs::write(&path, b"good\n\xff\xfe bad\n").expect("written");
    let why = fails(1, &["embed", "--input", path.to_str().expect("UTF-8")], "");
    assert!(why.contains("rows.txt:2") && why.contains("UTF-8"), "{why}");
}

#[test]
fn training_writes_an_adapter_that_scores_the_same() {
    let base = golden("bert").base();
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let rows: String = (0..24)
        .map(|i| ["the coffee was cold\tbad\n", "a wonderful hotel\tgood\n"][i % 2])
        .collect();
    std::fs::write(path("rows.tsv"), format!("text\tlabel\n{rows}")).expect("written");
    let (base, data) = (base.to_str().expect("UTF-8"), path("rows.tsv"));
    let train = |method: &str, out: &str| {
        let args = [
            "train", "--model", base, "--train", &data, "--dev", &data, "--epochs", "4", "--batch",
            "8", "--lr", "0.02", "--r-max", "2", "--method", method, "--out", out,
        ];
        lines(&args, "").remove(0)
    };
    for method in ["sora", "lora", "adalora", "head"] {
        let out = path(method);
        let said = train(method, &out);
        let args = ["eval", "--model", base, "--adapter", &out, "--input", &data];
        let scores = lines(&args, "").remove(0);
        assert_eq!(scores["rows"], 24);
        assert_eq!(
            scores["accuracy"], said["best"]["scores"]["accuracy"],
            "{method}"
        );
        assert_eq!(
            scores["accuracy"], 1.0,
            "{method}: two texts are told apart"
        );
        let made = std::fs::read(dir.path().join(method).join("sorank.json")).expect("sorank.json");
        let made: Value = serde_json::from_slice(&made).expect("JSON");
        assert_eq!(made["labels"], serde_json::json!(["bad", "good"]));
    }
    // What trains the base itself writes a base, which needs no adapter beside it.
    for method in ["bitfit", "full"] {
        let out = path(method);
        let said = train(method, &out);
        let scores = lines(&["eval", "--model", &out, "--input", &data], "").remove(0);
        assert_eq!(
            scores["accuracy"], said["best"]["scores"]["accuracy"],
            "{method}"
        );
        assert_eq!(scores["accuracy"], 1.0, "{method}");
    }
    // Same seed, same bits.
    train("sora", &path("again"));
    let weights = |name: &str| {
        let file = dir.path().join(name).join("adapter_model.safetensors");
        std::fs::read(file).expect("weights")
    };
    assert!(weights("sora") == weights("again"));
    let taken = [
        "train",
        "--model",
        base,
        "--train",
        &data,
        "--dev",
        &data,
        "--out",
        &path("sora"),
    ];
    assert!(fails(1, &taken, "").contains("exists already"));
    std::fs::write(path("odd.tsv"), "text\tlabel\nfine\tugly\n").expect("written");
    let (odd, out) = (path("odd.tsv"), path("none"));
    let unseen = [
        "train", "--model", base, "--train", &data, "--dev", &odd, "--out", &out,
    ];
    assert!(fails(1, &unseen, "").contains("odd.tsv:2: label \"ugly\" is not one of training's"));
}

/// Quotas of cgroups are asked by the same call of the standard library; they need rights to set, an affinity does not.
#[test]
fn threads_default_to_the_cores_that_the_process_may_use() {
    let bench = "bench --rounds 1 --batches 1x4 --distinct 1 --full-ranks 2 --quiet";
    let mut command = Command::new("taskset");
    command.args(["-c", "0", env!("CARGO_BIN_EXE_sorank")]);
    let Ok(out) = command.args(bench.split(' ')).output() else {
        return println!("skipped: no taskset");
    };
    let table = String::from_utf8_lossy(&out.stdout);
    assert!(table.contains(", 1 thread(s)"), "{table}");
}

#[test]
fn a_level_of_another_cpu_is_named_in_a_warning() {
    let other = if cfg!(target_arch = "x86_64") {
        "neon"
    } else {
        "avx2"
    };
    for level in [other, "sse9"] {
        let out = Command::new(env!("CARGO_BIN_EXE_sorank"))
            .args(["classify", "--use", "sentiment", "fine"])
            .env("SORANK_SIMD", level)
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&out.stderr);
        let named = format!("SORANK_SIMD={level} names no level of this CPU");
        assert!(out.status.success() && stderr.contains(&named), "{stderr}");
    }
}
