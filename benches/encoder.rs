//! Whole forward passes: tokens a second and the share of the multipliers' peak, on bases of random weights.
//!
//! `cargo bench --bench encoder` prints a table; words choose among models, dtypes, thread counts (`t1`, `t2`) and batches;
//! `-- --check` compares bits alone, batched and split over threads on a tiny shape instead.
//!
//! A round visits every case in turn and measures the peak beside it; a cell is the median over rounds, and the best
//! round behind it: on a shared machine the two differ. The share counts the linears' operations alone.
#![allow(clippy::print_stdout)] // a bench prints its figures

mod support;

use sorank::model::{Batch, Model, Task};
use support::{BASE, MINILM, PRECISIONS, Shape, TINY, dtype_name};

const ROUNDS: usize = 7;
const THREADS: [usize; 2] = [1, 2];

fn main() {
    let (check, words) = support::arguments();
    if check {
        return PRECISIONS.into_iter().for_each(|p| self::check(&TINY, p));
    }
    let wanted = |name: &str, among: &[&str]| {
        let mut of_kind = words
            .iter()
            .filter(|w| among.contains(&w.as_str()))
            .peekable();
        of_kind.peek().is_none() || of_kind.any(|w| w == name)
    };
    for shape in [BASE, MINILM] {
        if wanted(shape.name, &[BASE.name, MINILM.name]) {
            measure(&shape, &wanted);
        }
    }
}

/// Names of batches and the lengths of their sequences.
fn batches() -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("8x128", vec![128; 8]),
        ("32x32", vec![32; 32]),
        ("1x16", vec![16]),
        ("1x128", vec![128]),
        ("mixed64", support::mixed_lengths(64)),
    ]
}

struct Case {
    name: String,
    precision: usize,
    threads: usize,
    batch: Batch,
    seconds: Vec<f64>,
    shares: Vec<f64>,
}

fn measure(shape: &Shape, wanted: &dyn Fn(&str, &[&str]) -> bool) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    shape.write(dir.path());
    let precisions: Vec<_> = PRECISIONS
        .into_iter()
        .filter(|p| wanted(dtype_name(*p), &["f32", "bf16", "int8"]))
        .collect();
    let models: Vec<(Model, Task)> = precisions
        .iter()
        .map(|&p| {
            let model = shape.load(dir.path(), p);
            let task = model.base_task().expect("a base is a task");
            (model, task)
        })
        .collect();
    let pools: Vec<_> = THREADS.iter().map(|&n| support::pool(n)).collect();
    let mut cases = Vec::new();
    for precision in 0..precisions.len() {
        for threads in 0..THREADS.len() {
            for (name, lengths) in batches() {
                let all = ["8x128", "32x32", "1x16", "1x128", "mixed64"];
                let t = format!("t{}", THREADS[threads]);
                if wanted(name, &all) && wanted(&t, &["t1", "t2"]) {
                    cases.push(Case {
                        name: format!("{:5} {t} {name}", dtype_name(precisions[precision])),
                        precision,
                        threads,
                        batch: shape.batch(&lengths, |_| 0),
                        seconds: Vec::new(),
                        shares: Vec::new(),
                    });
                }
            }
        }
    }
    for round in 0..=ROUNDS {
        for case in &mut cases {
            let (model, task) = &models[case.precision];
            let pool = &pools[case.threads];
            let times = if case.batch.tokens() < 200 { 5 } else { 1 };
            let seconds: Vec<f64> = (0..times)
                .map(|_| {
                    pool.install(|| {
                        support::seconds(|| drop(model.forward(&case.batch, &[task], &mut ())))
                    })
                })
                .collect();
            let peak = support::peak_rate(pool, precisions[case.precision]);
            if round > 0 {
                let seconds = support::median(seconds);
                let ops = shape.linear_ops() * case.batch.tokens() as f64;
                case.seconds.push(seconds);
                case.shares.push(ops / seconds / peak);
            }
        }
    }
    println!(
        "\n{}      ms median, best     tokens/s   share of peak: median, best",
        shape.name
    );
    for case in &cases {
        let middle = support::median(case.seconds.clone());
        let share = |f: &dyn Fn(Vec<f64>) -> f64| 100.0 * f(case.shares.clone());
        println!(
            "  {:18} {:9.2} {:9.2} {:10.0}       {:5.1} % {:5.1} %",
            case.name,
            1e3 * middle,
            1e3 * support::least(&case.seconds),
            case.batch.tokens() as f64 / middle,
            share(&support::median),
            share(&|v| v.into_iter().fold(0.0, f64::max)),
        );
    }
}

/// Every sequence of a mixed batch alone, and all of them on one to three threads: the same bits.
fn check(shape: &Shape, precision: sorank::kernel::panel::Precision) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    shape.write(dir.path());
    let model = shape.load(dir.path(), precision);
    let base = model.base_task().expect("a base is a task");
    let adapted = support::task(&model, |i| i % 5, 3);
    let mut lengths = vec![1, 128, 3, 17, 64, 65, 2, 130];
    lengths.extend(support::mixed_lengths(9));
    let tasks = [&base, &adapted];
    let of = |i: usize| i / 3 % 2;
    let batch = shape.batch(&lengths, of);
    let run = |threads: usize, batch: &Batch| {
        support::pool(threads).install(|| model.forward(batch, &tasks, &mut ()))
    };
    let whole = run(1, &batch);
    assert!(whole.as_slice().iter().all(|x| x.is_finite()));
    for threads in [2, 3] {
        assert_eq!(run(threads, &batch), whole, "{threads} threads");
    }
    for s in 0..batch.sequences() {
        let alone = batch.slice(s..s + 1);
        for threads in THREADS {
            let got = run(threads, &alone);
            let rows = batch.rows(s);
            let want = whole.view().row_range(rows);
            for r in 0..got.rows() {
                assert_eq!(
                    got.row(r),
                    want.row(r),
                    "{precision:?} sequence {s} alone, {threads} threads"
                );
            }
        }
    }
    println!(
        "{precision:?}: {} sequences alone and together, same bits",
        batch.sequences()
    );
}
