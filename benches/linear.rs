//! What adapters cost: the bare base beside 1, 4 and 16 adapters in one batch, at mean rank 4 and at full ranks.
//!
//! `cargo bench --bench linear` prints, for a base of random weights, the time over the bare base's in percent: the
//! median over rounds of the ratio to the bare base beside it. Words choose dtypes, thread counts (`t1`, `t2`), cases (`8x128`)
//! and kinds of adapters (`pruned`, `full`); `-- --check` compares adapted rows in a mixed batch with a batch of one adapter
//! on a tiny shape instead.
#![allow(clippy::print_stdout)] // a bench prints its figures

mod support;

use sorank::{
    adapter::pruned_ranks,
    model::{Model, Task},
};
use support::{BASE, PRECISIONS, TINY, dtype_name};

const ROUNDS: usize = 9;
/// `32xmixed`: lengths as texts have them, so that groups end anywhere in a tile.
const CASES: [&str; 4] = ["8x128", "32x32", "32xmixed", "1x16"];
/// Log-normal (mean 19.9), drawn once.
const MIXED: [usize; 32] = [
    14, 24, 14, 14, 9, 15, 38, 23, 36, 20, 23, 19, 5, 31, 24, 24, 5, 5, 9, 12, 21, 16, 25, 11, 21,
    23, 11, 58, 25, 40, 11, 10,
];
/// Adapters with ranks as pruning leaves them, or one of a full rank.
const KINDS: [&str; 2] = ["pruned", "full"];
/// Full ranks that are measured, on every site.
const RANKS: [usize; 5] = [0, 1, 8, 16, 32];

fn main() {
    let (check, words) = support::arguments();
    if check {
        return self::check();
    }
    let wanted = |name: &str, among: &[&str]| {
        let mut of_kind = words
            .iter()
            .filter(|w| among.contains(&w.as_str()))
            .peekable();
        of_kind.peek().is_none() || of_kind.any(|w| w == name)
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    BASE.write(dir.path());
    for precision in PRECISIONS {
        if !wanted(dtype_name(precision), &["f32", "bf16", "int8"]) {
            continue;
        }
        let model = BASE.load(dir.path(), precision);
        for threads in [1, 2] {
            if wanted(&format!("t{threads}"), &["t1", "t2"]) {
                println!(
                    "\n{} {threads} thread(s): over the bare base",
                    dtype_name(precision)
                );
                let of = |name: &str| {
                    let among: &[&str] = if CASES.contains(&name) {
                        &CASES
                    } else {
                        &KINDS
                    };
                    wanted(name, among)
                };
                measure(&model, threads, of);
            }
        }
    }
}

/// Tasks whose ranks are as pruning leaves them.
fn pruned(model: &Model, count: usize) -> Vec<Task> {
    let sites = model.sites().all().len();
    (0..count as u32)
        .map(|seed| {
            let ranks = pruned_ranks(sites, 4, seed);
            support::task(model, |i| ranks[i], seed)
        })
        .collect()
}

fn measure(model: &Model, threads: usize, wanted: impl Fn(&str) -> bool) {
    let pool = support::pool(threads);
    let sixteen = pruned(model, 16);
    let full: Vec<Task> = RANKS
        .iter()
        .map(|&r| support::task(model, |_| r, 99))
        .collect();
    let base = model.base_task().expect("a base is a task");
    for name in CASES.into_iter().filter(|case| wanted(case)) {
        let lengths = match name {
            "8x128" => vec![128; 8],
            "32x32" => vec![32; 32],
            "32xmixed" => MIXED.to_vec(),
            _ => vec![16],
        };
        let rows = lengths.len();
        let mut variants: Vec<(String, Vec<&Task>)> = vec![("bare".into(), vec![&base])];
        for count in [1, 4, 16] {
            if count <= rows && wanted("pruned") {
                let tasks = sixteen[..count].iter().collect();
                variants.push((format!("{count} of mean rank 4"), tasks));
            }
        }
        for (task, rank) in full.iter().zip(RANKS).filter(|_| wanted("full")) {
            variants.push((format!("1 of rank {rank}"), vec![task]));
        }
        let mut ratios = vec![Vec::new(); variants.len()];
        let repeat = if lengths.iter().sum::<usize>() < 200 {
            9
        } else {
            1
        };
        for round in 0..=ROUNDS {
            let time = |tasks: &[&Task]| {
                let batch = BASE.batch(&lengths, |i| i * tasks.len() / rows);
                let run = || support::seconds(|| drop(model.forward(&batch, tasks, &mut ())));
                support::median((0..repeat).map(|_| pool.install(run)).collect())
            };
            // The bare base before and after each variant: drift of the machine cancels.
            let mut before = time(&variants[0].1);
            for (v, (_, tasks)) in variants.iter().enumerate() {
                let (this, after) = (time(tasks), time(&variants[0].1));
                if round > 0 {
                    ratios[v].push(2.0 * this / (before + after));
                }
                before = after;
            }
        }
        let cells = variants.iter().zip(ratios).map(|((name, _), ratios)| {
            format!("{name} {:+.1} %", 100.0 * (support::median(ratios) - 1.0))
        });
        println!("  {name:6} {}", cells.collect::<Vec<_>>().join(", "));
    }
}

/// Rows of several adapters in one batch equal each adapter's rows in a batch of their own.
fn check() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    TINY.write(dir.path());
    for precision in PRECISIONS {
        let model = TINY.load(dir.path(), precision);
        let tasks = pruned(&model, 3);
        let tasks: Vec<&Task> = tasks.iter().collect();
        let batch = TINY.batch(&[9, 20, 4, 70, 1, 33], |i| i / 2);
        let together = model.forward(&batch, &tasks, &mut ());
        let bare = model.base_task().expect("a base is a task");
        for group in batch.groups() {
            let own = batch.slice(group.sequences.clone());
            let alone = model.forward(&own, &tasks, &mut ());
            let plain = model.forward(&own, &[&bare; 3], &mut ());
            assert_ne!(alone, plain, "the adapter does nothing");
            for r in 0..alone.rows() {
                let row = together.row(group.rows.start + r);
                assert_eq!(
                    alone.row(r),
                    row,
                    "{precision:?} row {r} of task {}",
                    group.task
                );
            }
        }
        println!("{precision:?}: mixed equals alone");
    }
}
