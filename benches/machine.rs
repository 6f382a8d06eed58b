//! What this machine can do at most: the multipliers' peak and the reading of memory, as a record for `benches/record/`.
//!
//! `cargo bench --bench machine` prints it as JSON, one line a fact. `-- --check` measures for an instant only.
//! Every other bench measures the peak beside itself; these figures say how far another machine is from this one.
#![allow(clippy::print_stdout)] // a bench prints its figures

mod support;

use std::{hint::black_box, process::Command};

use serde_json::json;
use sorank::{kernel::panel::peak, simd};
use support::{PRECISIONS, dtype_name, median, pool, seconds};

/// Bytes read at once, by where they come from: half of a level's size on the reference machine, or far more than all caches.
const FROM: [(&str, usize); 3] = [("L2", 512 << 10), ("L3", 12 << 20), ("DRAM", 512 << 20)];
const ROUNDS: usize = 9;

fn main() {
    let (check, _) = support::arguments();
    let rounds = if check { 1 } else { ROUNDS };
    let threads = if check { vec![1] } else { vec![1, 2] };
    let mut record = serde_json::Map::new();
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = text.lines().find(|l| l.starts_with(key));
        line.and_then(|l| l.split_once(':'))
            .map(|(_, v)| v.trim().to_owned())
    };
    let features: Vec<String> = field("flags")
        .unwrap_or_default()
        .split_whitespace()
        .filter(|f| f.starts_with("avx") || ["fma", "f16c", "amx_tile"].contains(f))
        .map(str::to_owned)
        .collect();
    record.insert("cpu".into(), json!(field("model name")));
    record.insert(
        "family_model".into(),
        json!([field("cpu family"), field("model\t")]),
    );
    record.insert("features".into(), json!(features.join(" ")));
    record.insert("level".into(), json!(simd::level().name()));
    record.insert(
        "cores".into(),
        json!(std::thread::available_parallelism().map_or(1, usize::from)),
    );
    record.insert("rustc".into(), json!(rustc()));
    for &threads in &threads {
        let pool = pool(threads);
        for precision in PRECISIONS {
            let times = if check { 1000 } else { 400_000 };
            let rates = (0..rounds).map(|_| {
                let mut ops = 0;
                let spent = seconds(|| {
                    ops = pool
                        .broadcast(|_| peak(simd::level(), precision, times))
                        .iter()
                        .sum()
                });
                ops as f64 / spent / 1e9
            });
            let name = format!("peak_{}_gops_{threads}_threads", dtype_name(precision));
            record.insert(name, json!(median(rates.collect()).round()));
        }
        for (from, bytes) in FROM {
            let bytes = if check { bytes.min(1 << 20) } else { bytes };
            let name = format!("read_{}_gb_per_s_{threads}_threads", from.to_lowercase());
            record.insert(name, json!(reading(&pool, bytes, rounds).round()));
        }
    }
    for (name, fact) in &record {
        println!("  {name:32} {fact}");
    }
    if check {
        assert!(
            record.values().all(|v| !v.is_null() || v.is_string()),
            "a fact is missing"
        );
        return;
    }
    println!(
        "{}",
        serde_json::to_string_pretty(&record).expect("numbers and strings are JSON")
    );
}

/// Gigabytes a second that the threads of `pool` read together, each from `bytes` of its own.
fn reading(pool: &rayon::ThreadPool, bytes: usize, rounds: usize) -> f64 {
    let threads = pool.current_num_threads();
    let own: Vec<Vec<u64>> = (0..threads)
        .map(|t| vec![t as u64 + 1; bytes / 8])
        .collect();
    let times = ((256 << 20) / bytes).max(1);
    let rates = (0..rounds).map(|_| {
        let spent = seconds(|| {
            pool.broadcast(|at| {
                for _ in 0..times {
                    black_box(sum(black_box(&own[at.index()])));
                }
            });
        });
        (threads * times * bytes) as f64 / spent / 1e9
    });
    median(rates.collect())
}

/// Several chains at once, so that additions never wait for each other.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for chunk in words.chunks_exact(32) {
        for (sum, &word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(word);
        }
    }
    sums.iter().fold(0, |a, &b| a.wrapping_add(b))
}

fn rustc() -> String {
    let said = Command::new("rustc").arg("--version").output();
    said.map_or("unknown".to_owned(), |out| {
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    })
}
