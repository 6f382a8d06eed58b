//! A thousand resident adapters: their memory beside their files, and a batch of 32 of them beside a batch of one.
//!
//! `cargo bench --bench residents` prints both for a BERT-base of random weights; words choose dtypes; `-- --check`
//! makes a few on a tiny shape. Each round takes 32 others of the thousand, so that their factors come from memory.
#![allow(clippy::print_stdout)] // a bench prints its figures

mod support;

use sorank::{
    adapter::{Adapter, pruned_ranks},
    model::{Model, Task},
};
use support::{BASE, PRECISIONS, Shape, TINY, dtype_name, median, pool, seconds};

const RESIDENTS: usize = 1000;
/// Files that are made; each is read many times, as tenants of one recipe would be.
const FILES: usize = 10;
const MEAN_RANK: usize = 4;
const ROWS: usize = 32;
const ROUNDS: usize = 25;

fn main() {
    let (check, words) = support::arguments();
    let (shape, residents) = if check { (TINY, 40) } else { (BASE, RESIDENTS) };
    let dir = tempfile::tempdir().expect("a temporary directory");
    shape.write(dir.path());
    for precision in PRECISIONS {
        let name = dtype_name(precision);
        if words.is_empty() || words.iter().any(|w| w == name) {
            let model = shape.load(dir.path(), precision);
            let files = dir.path().join(name);
            std::fs::create_dir(&files).expect("a directory of this dtype's");
            let tasks = read(&model, &files, residents);
            measure(&shape, &model, &tasks, name, check);
        }
    }
}

/// `count` tasks, read from files; prints what they take.
fn read(model: &Model, dir: &std::path::Path, count: usize) -> Vec<Task> {
    let sites = model.sites().all().len();
    let files: Vec<_> = (0..FILES as u32)
        .map(|seed| {
            let ranks = pruned_ranks(sites, MEAN_RANK, seed);
            let at = dir.join(format!("adapter-{seed}"));
            let adapter = support::adapter(model, |i| ranks[i], seed);
            adapter.write(&at).expect("a temporary directory");
            at
        })
        .collect();
    let size = |at: &std::path::PathBuf| {
        let weights = at.join("adapter_model.safetensors");
        weights.metadata().expect("it was written").len()
    };
    // Whatever the first one costs besides itself is not a resident's.
    drop(bind(model, &files[0]));
    let before = resident_bytes();
    let tasks: Vec<Task> = (0..count).map(|i| bind(model, &files[i % FILES])).collect();
    let held = resident_bytes() - before;
    let on_disk: u64 = (0..count).map(|i| size(&files[i % FILES])).sum();
    println!(
        "{count} adapters of mean rank {MEAN_RANK}: files {:.1} MiB, resident {:.1} MiB, {:.3} of the files",
        on_disk as f64 / 1048576.0,
        held / 1048576.0,
        held / on_disk as f64,
    );
    tasks
}

fn bind(model: &Model, at: &std::path::Path) -> Task {
    let adapter = Adapter::read(at).expect("it was written");
    model
        .bind("resident", &adapter)
        .expect("it is this model's")
}

fn resident_bytes() -> f64 {
    support::smaps(std::process::id(), &["Private_Clean:", "Private_Dirty:"])
}

fn measure(shape: &Shape, model: &Model, tasks: &[Task], dtype: &str, check: bool) {
    let lengths = [if check { 5 } else { 32 }; ROWS];
    let threads = if check { 1 } else { 2 };
    let pool = pool(threads);
    let one = shape.batch(&lengths, |_| 0);
    let all = shape.batch(&lengths, |i| i);
    let mut ratios = Vec::new();
    for round in 0..=if check { 1 } else { ROUNDS } {
        let taken: Vec<&Task> = (0..ROWS)
            .map(|i| &tasks[(round * ROWS + i) * 37 % tasks.len()])
            .collect();
        let mut out = Vec::new();
        let mut time =
            |batch| seconds(|| out.push(pool.install(|| model.forward(batch, &taken, &mut ()))));
        let (before, mixed, after) = (time(&one), time(&all), time(&one));
        assert_eq!(out[0], out[2], "the same batch twice");
        assert_eq!(out[0].row(0), out[1].row(0), "a row of the first adapter");
        assert_ne!(
            out[0].row(lengths[0]),
            out[1].row(lengths[0]),
            "a row of another"
        );
        if round > 0 {
            ratios.push(2.0 * mixed / (before + after));
        }
    }
    println!(
        "{dtype} {threads} thread(s), 32 rows of {} tokens: 32 of {} adapters over one: {:+.1} %",
        lengths[0],
        tasks.len(),
        100.0 * (median(ratios) - 1.0)
    );
}
