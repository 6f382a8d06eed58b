//! Training runs as they are lived with: cut by `kill -9` or Ctrl-C and gone on with, stopped early, gone wrong, repeated
//! from the settings that they wrote. What counts is the bytes of the adapter. Checkpoints after every step, in one process: `cuts`.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cli::{fails, lines, sorank},
    fixtures::golden,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A directory with rows of two labels, and what trains on them.
struct Bench {
    dir: tempfile::TempDir,
    base: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let rows: String = (0..40)
            .map(|i| match i % 3 {
                0 => format!("the coffee was cold, {i} times\tbad\n"),
                1 => format!("a wonderful hotel of {i} rooms\tgood\n"),
                _ => format!("{i} people came\tneither\n"),
            })
            .collect();
        std::fs::write(dir.path().join("rows.tsv"), format!("text\tlabel\n{rows}")).expect("rows");
        let base = golden("bert").base();
        Bench { dir, base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// The arguments of a run of 50 steps, and `more`.
    fn args(&self, out: &str, more: &[&str]) -> Vec<String> {
        let (base, rows) = (self.base.to_str().expect("UTF-8"), self.text("rows.tsv"));
        let mut args: Vec<String> = [
            "train",
            "--model",
            base,
            "--train",
            &rows,
            "--dev",
            &rows,
            "--epochs",
            "10",
            "--batch",
            "8",
            "--lr",
            "0.01",
            "--r-max",
            "3",
            "--lambda",
            "4",
            "--dropout",
            "0.1",
            "--threads",
            "2",
            "--quiet",
            "--out",
            &self.text(out),
        ]
        .map(str::to_owned)
        .into();
        args.extend(more.iter().map(|&s| s.to_owned()));
        args
    }

    fn run(&self, args: &[String]) -> Value {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        lines(&args, "").remove(0)
    }

    fn fails(&self, code: i32, args: &[String]) -> String {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fails(code, &args, "")
    }

    fn start(&self, args: &[String]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_sorank"))
            .args(args)
            .env(
                "SORANK_CACHE",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            )
            .env_remove("SORANK_MODEL")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts")
    }

    /// The bytes of an adapter, and its scores by epoch.
    fn result(&self, out: &str) -> (Vec<u8>, Vec<u8>, Vec<Value>) {
        let read = |name: &str| std::fs::read(self.path(out).join(name)).expect("a result");
        let epochs = String::from_utf8(read("metrics.jsonl")).expect("UTF-8");
        let epochs = epochs.lines().map(|line| {
            let mut epoch: Value = serde_json::from_str(line).expect("JSON");
            epoch["seconds"].take();
            epoch
        });
        let epochs = epochs.collect();
        let [weights, config] = ["adapter_model.safetensors", "adapter_config.json"].map(read);
        (weights, config, epochs)
    }
}

/// Waits until `there` is, or the process has ended.
fn wait(child: &mut Child, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() && child.try_wait().expect("a child").is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing comes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).expect("a process id");
    let _ = kill_process(pid, signal); // it may have ended already
}

#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_bytes() {
    let bench = Bench::new();
    let whole = bench.args("whole", &[]);
    bench.run(&whole);
    let args = bench.args("cut", &["--checkpoint-every", "1", "--resume"]);
    let checkpoint = bench.path("cut.partial/checkpoint.safetensors");
    let mut cuts = 0;
    while !bench.path("cut").exists() {
        assert!(cuts < 200, "it never ends");
        let before = std::fs::read(&checkpoint).ok();
        let mut child = bench.start(&args);
        // At least one step further, then somewhere within the next ones: the delays are those of a write.
        wait(&mut child, || {
            std::fs::read(&checkpoint).is_ok_and(|now| Some(now) != before)
        });
        std::thread::sleep(Duration::from_micros(997 * (cuts % 23)));
        signal(&child, Signal::KILL);
        child.wait().expect("it ends");
        cuts += 1;
    }
    println!("killed {cuts} times");
    assert!(cuts >= 3, "killed {cuts} times only");
    assert!(bench.result("whole") == bench.result("cut"));
    assert!(!bench.path("cut.partial").exists() || cuts > 0);
    // What is done is done, and what a kill left beside it is cleared away.
    let done = sorank(&args.iter().map(String::as_str).collect::<Vec<_>>(), "");
    assert!(done.status.success() && !bench.path("cut.partial").exists());
}

#[test]
fn ctrl_c_saves_and_the_run_goes_on_by_its_own_settings() {
    let bench = Bench::new();
    bench.run(&bench.args("whole", &[]));
    let mut child = bench.start(&bench.args("cut", &["--checkpoint-every", "0"]));
    let metrics = bench.path("cut.partial/metrics.jsonl");
    wait(&mut child, || {
        std::fs::read_to_string(&metrics).is_ok_and(|m| !m.is_empty())
    });
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(bench.path("cut.partial/checkpoint.safetensors").exists());
    assert!(!bench.path("cut").exists());
    // Without --resume it is not started over by mistake; with another rate it is another run.
    let why = bench.fails(1, &bench.args("cut", &[]));
    assert!(why.contains("--resume"), "{why}");
    let out = bench.text("cut");
    let resume = |more: &[&str]| -> Vec<String> {
        let args = ["train", "--resume", "--quiet", "--out", &out];
        args.iter().chain(more).map(|&s| s.to_owned()).collect()
    };
    let why = bench.fails(1, &resume(&["--lr", "0.02"]));
    assert!(why.contains("plan.lr: it has 0.01, this one 0.02"), "{why}");
    bench.run(&resume(&[]));
    assert!(bench.result("whole") == bench.result("cut"));
}

#[test]
fn the_settings_written_beside_a_result_make_it_again() {
    let bench = Bench::new();
    bench.run(&bench.args("first", &["--sites", "query,value", "--patience", "9"]));
    let config = bench.text("first/run.toml");
    let run = |out: &str, more: &[&str]| -> Vec<String> {
        let out = bench.text(out);
        let args = ["train", "--quiet", "--config", &config, "--out", &out];
        args.iter().chain(more).map(|&s| s.to_owned()).collect()
    };
    bench.run(&run("second", &[]));
    assert!(bench.result("first") == bench.result("second"));
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).expect("settings");
    assert_eq!(read("first/run.toml"), read("second/run.toml"));
    // A flag counts before the file.
    bench.run(&run("other", &["--seed", "2", "--sites=query"]));
    let made: Value = serde_json::from_str(&read("other/sorank.json")).expect("JSON");
    assert_eq!(made["seed"], 2);
    let sites = made["sites"].as_object().expect("sites");
    assert!(!sites.is_empty() && sites.keys().all(|s| s.ends_with("query")));
    assert!(made["plan"]["patience"] == 9 && made["threads"] == 2);
    // An unknown key is an error with file and key.
    std::fs::write(bench.path("bad.toml"), "epochs = 1\nlearning-rate = 3\n").expect("written");
    let bad = bench.text("bad.toml");
    let mut args = bench.args("none", &["--config"]);
    args.push(bad.clone());
    let why = bench.fails(2, &args);
    assert!(why.contains(&bad) && why.contains("learning-rate"), "{why}");
    assert!(!bench.path("none.partial").exists());
}

#[test]
fn a_loss_that_is_no_number_stops_with_its_step_and_lines() {
    let bench = Bench::new();
    let why = bench.fails(1, &bench.args("nan", &["--lr=1e30", "--clip=0"]));
    let named = why.contains("step ") && why.contains("lines [") && why.contains("rows.tsv");
    assert!(named && why.contains("learning rate"), "{why}");
    assert!(!bench.path("nan").exists());
}

#[test]
fn a_run_without_a_better_score_ends_early_with_its_best_epoch() {
    let bench = Bench::new();
    bench.run(&bench.args("still", &["--lr=0", "--patience", "3"]));
    let (.., epochs) = bench.result("still");
    assert_eq!(epochs.len(), 4);
    let made = std::fs::read(bench.path("still/sorank.json")).expect("sorank.json");
    let made: Value = serde_json::from_slice(&made).expect("JSON");
    assert_eq!(made["best"]["epoch"], 1);
}

#[test]
fn a_metric_that_is_none_is_refused_before_the_first_step() {
    let bench = Bench::new();
    let why = bench.fails(2, &bench.args("none", &["--metric", "pearson"]));
    assert!(
        why.contains("\"pearson\"") && why.contains("matthews"),
        "{why}"
    );
    assert!(
        !bench
            .path("none.partial")
            .join("checkpoint.safetensors")
            .exists()
    );
}

/// Scores of the trainer and of `eval` come from the same logits up to how a fold rounds.
const SAME_SCORE: f64 = 1e-5;

#[test]
fn every_kind_of_label_scores_the_same_in_the_run_and_in_eval() {
    let bench = Bench::new();
    let conll = "-DOCSTART- O\n\nPeter I-PER\ncame O\nfrom O\nBerlin I-LOC\n\nWarm O\nrain O\nin O\nParis I-LOC\n\n";
    let write = |name: &str, text: String| std::fs::write(bench.path(name), text).expect("rows");
    write("rows.conll", conll.repeat(8));
    let many = "{\"text\": \"cold coffee\", \"label\": [\"a\", \"b\"]}\n{\"text\": \"kind people\", \"label\": []}\n{\"text\": \"late again\", \"label\": [\"b\"]}\n";
    write("rows.jsonl", many.repeat(8));
    let numbers = "a man\ta person\t4.5\na cat\train\t0.25\nwarm food\thot food\t3\n";
    write("rows.txt", format!("s\tt\tscore\n{}", numbers.repeat(8)));
    let kinds: [(&str, &[&str], &[&str]); 3] = [
        (
            "rows.conll",
            &["--tags"],
            &["f1", "precision", "recall", "accuracy", "macro_f1"],
        ),
        (
            "rows.jsonl",
            &["--multi-label"],
            &["f1", "accuracy", "macro_f1"],
        ),
        (
            "rows.txt",
            &[
                "--regression",
                "--text",
                "s",
                "--text-pair",
                "t",
                "--label",
                "score",
            ],
            &["pearson", "spearman", "mse"],
        ),
    ];
    for (rows, kind, metrics) in kinds {
        let (file, out, base) = (
            bench.text(rows),
            bench.text(&format!("{rows}.out")),
            bench.base.to_str().expect("UTF-8"),
        );
        let mut train = vec![
            "train", "--model", base, "--train", &file, "--dev", &file, "--epochs", "12",
            "--batch", "4", "--lr", "0.01", "--r-max", "2", "--quiet", "--out", &out,
        ];
        train.extend(kind);
        let said = lines(&train, "").remove(0);
        let mut eval = vec!["eval", "--model", base, "--adapter", &out, "--input", &file];
        eval.extend(kind);
        let scores = lines(&eval, "").remove(0);
        for metric in metrics {
            let trained = said["best"]["scores"][metric].as_f64().expect("a score");
            let scored = scores[metric].as_f64().expect("a score");
            let error = (trained - scored).abs();
            assert!(
                error < SAME_SCORE,
                "{rows} {metric}: {scored} for {trained}"
            );
        }
        let learnt = said["best"]["scores"][metrics[0]]
            .as_f64()
            .expect("a score");
        assert!(learnt > 0.9, "{rows}: {learnt}");
        let page = std::fs::read_to_string(bench.path(&format!("{rows}.out/report.html")));
        assert!(page.expect("a page").contains("Rank map of"));
    }
    // The head of words is none for texts.
    let (file, out) = (bench.text("rows.tsv"), bench.text("rows.conll.out"));
    let base = bench.base.to_str().expect("UTF-8");
    let why = fails(
        1,
        &["eval", "--model", base, "--adapter", &out, "--input", &file],
        "",
    );
    assert!(why.contains("a label a word"), "{why}");
}

/// A bf16 weight is off by up to 2^-9 of itself; over two layers and ten epochs the mean loss strays by a few of that.
const BF16_LOSS: f64 = 0.05;

#[test]
fn a_bf16_base_trains_nearly_as_an_f32_one() {
    let bench = Bench::new();
    let losses = |dtype: &str| -> Vec<f64> {
        bench.run(&bench.args(
            dtype,
            &["--dtype", dtype, "--dropout", "0", "--lr", "0.002"],
        ));
        let (.., epochs) = bench.result(dtype);
        epochs
            .iter()
            .map(|e| e["loss"].as_f64().expect("a loss"))
            .collect()
    };
    let (full, half) = (losses("f32"), losses("bf16"));
    for (i, (a, b)) in full.iter().zip(&half).enumerate() {
        println!("epoch {}: loss {a:.5} with f32, {b:.5} with bf16", i + 1);
        assert!(
            (a - b).abs() <= BF16_LOSS * a,
            "epoch {}: {b} for {a}",
            i + 1
        );
    }
    assert_ne!(full, half);
}
