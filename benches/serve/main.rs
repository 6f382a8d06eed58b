//! The server beside the library it serves: tokens a second over 64 connections against the library's own batch run, in
//! turns, and latencies of an open loop at half of that load.
//!
//! With `../shared` it is all-MiniLM-L6-v2 and sentences of STS-B, one to eight joined; without, the built-in model. Before
//! any timing the server's vectors are compared with the library's; `-- --check` stops there. Words after `--`: `rounds=N`,
//! `rows=N`, `seconds=N`, `load=0.5`, `bf16`, `int8`.
//!
//! The load comes from one thread of this process, on the same cores: what it costs is in the server's figure.

#![allow(clippy::print_stdout)] // a bench says what it measured

mod load;
mod quiet;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use load::{Answered, Arrival, closed, open};
use sorank::{
    engine::{Answer, Engine, Request, Want},
    kernel::panel::Precision,
    model::{LoadOptions, Model},
    text::{Tokenizer, Truncate},
    weights::Source,
};

const CONNECTIONS: usize = 64;
/// f32 to JSON and back is exact, and an answer does not depend on its batch.
const EXACT: f32 = 0.0;

struct Texts {
    model: Option<PathBuf>,
    rows: Vec<String>,
    /// Tokens of each row, special ones included.
    tokens: Vec<usize>,
}

struct Server {
    child: Child,
    address: std::net::SocketAddr,
}

impl Server {
    fn start(model: Option<&Path>, dtype: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sorank"));
        command.args(["serve", "--port", "0", "--quiet", "--dtype", dtype]);
        command.args(["--max-concurrent-requests", "4096"]);
        command.args(model.map(|dir| format!("--model={}", dir.display())));
        let command = command.env("SORANK_LOG", "error").stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let out = child.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let url = line.split_once("http://")?.1.split(' ').next()?.to_owned();
            url.parse().ok()
        });
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.expect("it says where it listens");
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to save: it was started for this run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The word `name=...` of the command line.
fn word(name: &str, default: f64) -> f64 {
    let found =
        std::env::args().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
    found.unwrap_or(default)
}

fn engine(model: Option<&Path>, precision: Precision) -> Engine {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/base");
    let source = Source::dir(model.unwrap_or(&dir)).expect("a base");
    let tokenizer =
        Tokenizer::load(&|name| source.read(name), &source.path("")).expect("a tokenizer");
    let options = LoadOptions {
        precision: Some(precision),
        ..LoadOptions::default()
    };
    let model = Model::load(source, &options).expect("a base");
    Engine::new(model, tokenizer, sorank::engine::DEFAULT_BATCH_TOKENS).expect("an engine")
}

/// Rows of mixed lengths, the same at every run: one to eight sentences.
fn texts(count: usize) -> (Option<PathBuf>, Vec<String>) {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let (model, data) = (
        shared.join("models/all-MiniLM-L6-v2"),
        shared.join("data/glue/STS-B/dev.tsv"),
    );
    let found = model.exists() && data.exists();
    let sentences: Vec<String> = match found {
        true => {
            let text = std::fs::read_to_string(data).expect("STS-B");
            let columns = text
                .lines()
                .skip(1)
                .flat_map(|line| line.split('\t').skip(7).take(2));
            columns.map(str::to_owned).collect()
        }
        false => {
            println!("../shared is absent: the built-in model instead of MiniLM");
            let words = [
                "the hotel was wonderful",
                "where is the station",
                "book a table for two",
                "it rained all day",
            ];
            words.map(str::to_owned).to_vec()
        }
    };
    let mut state = 1u64;
    let mut below = |n: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut row = || {
        let parts: Vec<&str> = (0..=below(8))
            .map(|_| sentences[below(sentences.len())].as_str())
            .collect();
        parts.join(" ")
    };
    let rows = (0..count).map(|_| row()).collect();
    (found.then_some(model), rows)
}

/// The library's own batch run, tokenising included: how long, and the vectors.
fn library(engine: &Engine, rows: &[String]) -> (Duration, Vec<Vec<f32>>) {
    let requests: Vec<Request<'_>> = rows
        .iter()
        .map(|text| Request {
            text,
            pair: None,
            adapter: None,
            want: Want::Embedding,
        })
        .collect();
    let start = Instant::now();
    let answers = engine.answer(&requests, Truncate::Right);
    let took = start.elapsed();
    let vector = |answer: sorank::Result<(Answer, usize)>| match answer.expect("a row that fits").0
    {
        Answer::Embedding(vector) => vector,
        other => panic!("not asked for: {other:?}"),
    };
    (took, answers.into_iter().map(vector).collect())
}

fn bodies(rows: &[String]) -> Vec<Vec<u8>> {
    let body = |text: &String| serde_json::json!({"inputs": text, "truncate": true}).to_string();
    rows.iter()
        .map(|text| load::request("/embed", &body(text)))
        .collect()
}

/// Compares what the server says with the library's vectors.
fn check(server: &Server, requests: &[Vec<u8>], vectors: &[Vec<f32>]) {
    let (_, answers) = closed(server.address, CONNECTIONS, requests, true);
    let mut worst = 0.0f32;
    for (answer, want) in answers.iter().zip(vectors) {
        let got: Vec<Vec<f32>> = serde_json::from_slice(answer).expect("a list of vectors");
        assert_eq!(got[0].len(), want.len());
        worst = got[0]
            .iter()
            .zip(want)
            .map(|(a, b)| (a - b).abs())
            .fold(worst, f32::max);
    }
    println!(
        "checked {} rows over {CONNECTIONS} connections: largest difference to the library {worst:e}",
        vectors.len()
    );
    assert!(worst <= EXACT, "the server's vectors are not the library's");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rate(texts: &Texts, took: Duration) -> f64 {
    texts.tokens.iter().sum::<usize>() as f64 / took.as_secs_f64()
}

fn throughput(
    engine: &Engine,
    server: &Server,
    texts: &Texts,
    requests: &[Vec<u8>],
    rounds: usize,
) -> f64 {
    let (mut ratios, mut tokens, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let before = library(engine, &texts.rows).0;
        let (served, _) = closed(server.address, CONNECTIONS, requests, false);
        let after = library(engine, &texts.rows).0;
        let alone = (rate(texts, before) + rate(texts, after)) / 2.0;
        ratios.push(rate(texts, served) / alone);
        tokens.push(rate(texts, served));
        rows.push(texts.rows.len() as f64 / served.as_secs_f64());
        println!(
            "round {round}: library {alone:.0} tokens/s, server {:.0} ({:.3})",
            tokens[round], ratios[round]
        );
    }
    let (low, high) = ratios
        .iter()
        .fold((f64::MAX, 0.0f64), |(l, h), &r| (l.min(r), h.max(r)));
    println!(
        "server / library, {CONNECTIONS} connections: {:.3} ({low:.3} to {high:.3}); {:.0} tokens/s, {:.0} rows/s",
        median(&mut ratios),
        median(&mut tokens),
        median(&mut rows)
    );
    median(&mut rows)
}

/// The open loop: percentiles of all rows, and of those that the machine did not slow down ([`quiet`]).
fn latency(server: &Server, texts: &Texts, requests: &[Vec<u8>], rows: f64, seconds: f64) {
    let arrivals = Arrival::poisson(rows, seconds, requests.len(), 5);
    let samples = quiet::watch(server.child.id());
    let all = open(server.address, CONNECTIONS, requests, &arrivals);
    let windows = quiet::windows(samples.stop(), &all, &texts.tokens);
    println!("open loop, {rows:.0} rows/s for {seconds} s");
    percentiles("all rows", &all);
    let of_quiet: Vec<Answered> = all
        .iter()
        .filter(|row| quiet::covers(&windows, row))
        .copied()
        .collect();
    let loud = windows.iter().filter(|window| !window.quiet).count();
    println!(
        "  {loud} of {} windows of {:?} are not counted: a token cost more than {:.2} times the median CPU time in them or before",
        windows.len(),
        quiet::WINDOW,
        quiet::TOLERANCE
    );
    percentiles("rows of the others", &of_quiet);
}

fn percentiles(what: &str, rows: &[Answered]) {
    let mut took: Histogram<u64> = Histogram::new(3).expect("three digits");
    for row in rows {
        let latency = row.done.saturating_sub(row.due).as_micros() as u64;
        took.record(latency).expect("a histogram that grows");
    }
    let ms = |q: f64| took.value_at_quantile(q) as f64 / 1e3;
    println!(
        "  {what} ({}): p50 {:.1} ms, p90 {:.1}, p99 {:.1}, p99.9 {:.1}; p99 / p50 {:.2}",
        took.len(),
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(0.999),
        ms(0.99) / ms(0.5)
    );
}

fn main() {
    let has = |name: &str| std::env::args().any(|arg| arg == name);
    let only_check = has("--check");
    let (dtype, precision) = match (has("bf16"), has("int8")) {
        (true, _) => ("bf16", Precision::Bf16),
        (_, true) => ("int8", Precision::Int8),
        _ => ("f32", Precision::F32),
    };
    let count = if only_check {
        100
    } else {
        word("rows", 1000.0) as usize
    };
    let (model, rows) = texts(count);
    let engine = engine(model.as_deref(), precision);
    let limit = engine.model().max_tokens();
    let count = |text: &String| {
        engine.tokenizer().encode(
            text,
            None,
            sorank::text::Limit {
                max: limit,
                truncate: Truncate::Right,
            },
        )
    };
    let tokens = rows
        .iter()
        .map(|text| count(text).expect("a text").len())
        .collect();
    let texts = Texts {
        model,
        rows,
        tokens,
    };
    let server = Server::start(texts.model.as_deref(), dtype);
    let requests = bodies(&texts.rows);
    check(&server, &requests, &library(&engine, &texts.rows).1);
    if only_check {
        return;
    }
    let (least, most) = (texts.tokens.iter().min(), texts.tokens.iter().max());
    println!(
        "{dtype}, {} rows of {least:?} to {most:?} tokens, {} in all",
        texts.rows.len(),
        texts.tokens.iter().sum::<usize>()
    );
    let rows = throughput(
        &engine,
        &server,
        &texts,
        &requests,
        word("rounds", 3.0) as usize,
    );
    latency(
        &server,
        &texts,
        &requests,
        rows * word("load", 0.5),
        word("seconds", 120.0),
    );
}
