//! From the start of the process to the first answer, and what a second process adds in memory.
//!
//! `cargo bench --bench start` runs `sorank embed` on a BERT-base of random weights whose packed file is in the cache
//! and in memory already; words choose dtypes; `-- --check` does it once on a tiny shape. The time is the whole
//! process, from spawn to end: loading, a tokenizer of 30,522 words, 8 tokens, the answer written, memory given back.
#![allow(clippy::print_stdout)] // a bench prints its figures

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use support::{BASE, PRECISIONS, TINY, dtype_name, least, median, seconds};

const ROUNDS: usize = 15;
/// Rows that `sorank embed` reads before it answers.
const WINDOW: usize = 1024;

fn main() {
    let (check, words) = support::arguments();
    let shape = if check { TINY } else { BASE };
    let dir = tempfile::tempdir().expect("a temporary directory");
    shape.write(dir.path());
    support::write_tokenizer(dir.path(), shape.vocab);
    for precision in PRECISIONS {
        let dtype = dtype_name(precision);
        if !words.is_empty() && !words.iter().any(|w| w == dtype) {
            continue;
        }
        let answer = first_answer(dir.path(), dtype);
        let mut times = Vec::new();
        for _ in 0..if check { 1 } else { ROUNDS } {
            let mut again = Vec::new();
            times.push(seconds(|| again = first_answer(dir.path(), dtype)));
            assert_eq!(again, answer, "another answer from the packed file");
        }
        println!(
            "{dtype}: process to first answer {:.1} ms median, {:.1} best",
            1e3 * median(times.clone()),
            1e3 * least(&times)
        );
        let (mut first, mut second) = (
            Lasting::new(dir.path(), dtype),
            Lasting::new(dir.path(), dtype),
        );
        first.answer();
        second.answer();
        let id = second.child.id();
        let private = support::smaps(id, &["Private_Clean:", "Private_Dirty:"]);
        let resident = support::smaps(id, &["Rss:"]);
        let base = std::fs::metadata(dir.path().join("model.safetensors"));
        let base = base.expect("it was written").len() as f64;
        println!(
            "{dtype}: a second process: {:.1} MiB of its own of {:.1} resident, {:.1} % of the checkpoint's bytes",
            private / 1048576.0,
            resident / 1048576.0,
            100.0 * private / base
        );
    }
}

fn sorank(dir: &Path, dtype: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sorank"));
    command
        .args(["embed", "--quiet", "--dtype", dtype, "--model"])
        .arg(dir)
        .env("SORANK_CACHE", dir);
    command
}

fn first_answer(dir: &Path, dtype: &str) -> Vec<u8> {
    let out = sorank(dir, dtype)
        .arg("w10 w11 w12 w13 w14 w15 w16 w17")
        .output();
    let out = out.expect("the program runs");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.stdout.starts_with(b"{\"index\":0"), "no answer");
    out.stdout
}

/// A process that has answered and waits for more.
struct Lasting {
    child: Child,
}

impl Lasting {
    fn new(dir: &Path, dtype: &str) -> Self {
        let mut command = sorank(dir, dtype);
        command
            .args(["--input", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Self {
            child: command.spawn().expect("the program runs"),
        }
    }

    fn answer(&mut self) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        input
            .write_all(&b"w10 w11 w12\n".repeat(WINDOW))
            .expect("it reads");
        let lines = BufReader::new(self.child.stdout.as_mut().expect("it is piped")).lines();
        assert_eq!(lines.take(WINDOW).filter(|l| l.is_ok()).count(), WINDOW);
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.stdout.take());
        let _ = self.child.wait();
    }
}
