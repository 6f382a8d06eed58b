//! A training step (forward, backward, AdamW) on bases of random weights: LoRA, SoRA against the ranks it kept, AdaLoRA while its
//! budget falls and after.
//!
//! `cargo bench --bench train` prints a table; words choose among models, dtypes and thread counts (`t1`, `t2`); `-- --check` compares
//! the gradient with the loss along it, on one and two threads and with layers run again, on a tiny shape instead.
//!
//! A round makes a step of every case in turn and measures the peak beside it. `exact` asks closed ranks at every step
//! whether they revive, `sparse` does not. The share counts the base linears' operations alone, forward and `dx`.
#![allow(clippy::print_stdout)] // a bench prints its figures

mod support;

use sorank::{
    kernel::panel::Precision,
    mat::Matrix,
    model::{Level, Model},
    spec::Problem,
    train::{
        Example, Facts, Kind, Learner, Live, Method, Optimizer, Rates, Settings, Shares, Target,
        adalora::{Allocator, Budget},
        sora::GateInit,
    },
};
use support::{BASE, MINILM, Noise, Shape, TINY, dtype_name};

const ROUNDS: usize = 5;
const R_MAX: usize = 8;
/// The mean rank that AdaLoRA comes to: two thirds.
const ADALORA: usize = 5;

fn main() {
    let (check, words) = support::arguments();
    if check {
        return self::check(&TINY);
    }
    let wanted = |name: &str, among: &[&str]| {
        let mut of_kind = words.iter().filter(|w| among.contains(&w.as_str()));
        let first = of_kind.next();
        first.is_none_or(|w| w == name) || of_kind.any(|w| w == name)
    };
    for (shape, rows, tokens) in [(BASE, 8, 128), (MINILM, 32, 64)] {
        for precision in [Precision::F32, Precision::Bf16] {
            for threads in [1, 2] {
                let t = format!("t{threads}");
                if wanted(shape.name, &[BASE.name, MINILM.name])
                    && wanted(dtype_name(precision), &["f32", "bf16"])
                    && wanted(&t, &["t1", "t2"])
                {
                    measure(&shape, precision, threads, rows, tokens);
                }
            }
        }
    }
}

fn examples(shape: &Shape, rows: usize, tokens: usize) -> Vec<Example> {
    let mut noise = Noise(7);
    let row = |i: usize| Example {
        ids: (0..tokens)
            .map(|_| noise.below(shape.vocab) as u32)
            .collect(),
        types: vec![0; tokens],
        target: Target::Class(i % 2),
    };
    (0..rows).map(row).collect()
}

fn live(model: &Model, method: Method, kept: usize) -> Live {
    let facts = Facts {
        method,
        sites: &[],
        r_max: R_MAX,
        alpha: 16.0,
        gate_init: GateInit::Ones,
        problem: Problem::SingleLabelClassification,
        level: Level::Sequence,
        labels: vec!["no".into(), "yes".into()],
        seed: 1,
    };
    let mut live = Live::new(model, &facts).expect("a base has linears");
    let mut noise = Noise(3);
    for p in &mut live.parameters {
        let mut value = p.value.view_mut();
        for r in 0..value.rows() {
            match p.kind {
                Kind::B => value
                    .row_mut(r)
                    .iter_mut()
                    .for_each(|b| *b = 0.01 * noise.next()),
                Kind::Gate => value.row_mut(r)[0] = f32::from(u8::from(r < kept)),
                _ => {}
            }
        }
    }
    live
}

struct Case<'m> {
    name: String,
    all: bool,
    learner: Learner<'m>,
    optimizer: Optimizer,
    seconds: Vec<f64>,
}

fn measure(shape: &Shape, precision: Precision, threads: usize, rows: usize, tokens: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    shape.write(dir.path());
    let model = shape.load(dir.path(), precision);
    let pool = support::pool(threads);
    let examples = examples(shape, rows, tokens);
    let rows: Vec<&Example> = examples.iter().collect();
    let mut cases = Vec::new();
    let mut push = |name: String, method, kept, all| {
        let live = live(&model, method, kept);
        let mut optimizer = Optimizer::new(Settings::default(), &live.parameters);
        if method == Method::Adalora {
            // The budget falls from the first step on, or has fallen before it.
            let last = if all { 0.0 } else { 1.0 };
            let budget = Budget {
                first: 0.0,
                last,
                ..Budget::to(kept.min(ADALORA))
            };
            optimizer = optimizer.with_budget(Allocator::new(budget, 1000, &live));
        }
        let learner = pool.install(|| Learner::new(&model, live, Shares::default(), 1));
        cases.push(Case {
            name,
            all,
            learner: learner.expect("nothing of the base is trained"),
            optimizer,
            seconds: Vec::new(),
        });
    };
    push("LoRA r = 8".into(), Method::Lora, R_MAX, true);
    for kept in [8, 4, 2, 0] {
        push(format!("SoRA {kept} of 8, exact"), Method::Sora, kept, true);
        push(
            format!("SoRA {kept} of 8, sparse"),
            Method::Sora,
            kept,
            false,
        );
    }
    push("AdaLoRA, falling".into(), Method::Adalora, R_MAX, true);
    let settled = format!("AdaLoRA {ADALORA} of 8, settled");
    push(settled, Method::Adalora, ADALORA, false);
    let mut peaks = Vec::new();
    for round in 0..=ROUNDS {
        for case in &mut cases {
            let seconds = support::seconds(|| pool.install(|| step(case, &rows, round)));
            if round > 0 {
                case.seconds.push(seconds);
            }
        }
        peaks.push(support::peak_rate(&pool, precision));
    }
    let (peak, count) = (support::median(peaks), rows.len() * tokens);
    let ops = 2.0 * shape.linear_ops() * count as f64;
    println!(
        "\n{} {} {}x{tokens} t{threads}      ms median, best     tokens/s   share of peak   over LoRA",
        shape.name,
        dtype_name(precision),
        rows.len(),
    );
    let lora = cases[0].seconds.clone();
    for case in &cases {
        let ratios = case.seconds.iter().zip(&lora).map(|(a, b)| a / b).collect();
        let middle = support::median(case.seconds.clone());
        println!(
            "  {:22} {:9.1} {:9.1} {:10.0} {:14.1} % {:10.3}",
            case.name,
            1e3 * middle,
            1e3 * support::least(&case.seconds),
            count as f64 / middle,
            100.0 * ops / middle / peak,
            support::median(ratios),
        );
    }
}

/// One step; the learning rate is 0, so that gates stay as they were set.
fn step(case: &mut Case<'_>, rows: &[&Example], number: usize) {
    let bound = case.learner.bind(case.all);
    let (_, mut gradients) = case.learner.gradients(&bound, rows, number as u64);
    let masks = case.learner.live.masks(&bound);
    let active = |p: usize| masks[p].clone();
    let parameters = &mut case.learner.live.parameters;
    case.optimizer
        .step(parameters, &mut gradients, &active, Rates::all(0.0));
}

/// Relative difference of a central difference of f32 losses, over a step that moves the loss by a hundredth or so.
const ALONG: f64 = 2e-2;
/// Sums over parts in another order.
const THREADS: f32 = 1e-4;

fn check(shape: &Shape) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    shape.write(dir.path());
    let examples = examples(shape, 6, 40);
    let rows: Vec<&Example> = examples.iter().collect();
    for precision in [Precision::F32, Precision::Bf16] {
        let model = shape.load(dir.path(), precision);
        let run = |live: Live, threads: usize, again: bool| -> (f64, Vec<Matrix>) {
            support::pool(threads).install(|| {
                let mut learner =
                    Learner::new(&model, live, Shares::default(), 1).expect("a learner");
                learner.recompute(again);
                let bound = learner.bind(true);
                learner.gradients(&bound, &rows, 0)
            })
        };
        let start = live(&model, Method::Sora, 5);
        let (_, gradients) = run(start.clone(), 1, false);
        assert_eq!(run(start.clone(), 1, true).1, gradients, "layers run again");
        for (a, b) in run(start.clone(), 2, false).1.iter().zip(&gradients) {
            let most = b.as_slice().iter().fold(1e-3f32, |m, x| m.max(x.abs()));
            let pairs = a.as_slice().iter().zip(b.as_slice());
            pairs.for_each(|(a, b)| assert!((a - b).abs() <= THREADS * most, "two threads"));
        }
        if precision == Precision::Bf16 {
            println!("bf16: the same on two threads and with layers run again");
            continue; // rounding activations to bf16 makes steps of the loss
        }
        let square: f64 = gradients
            .iter()
            .flat_map(Matrix::as_slice)
            .map(|&d| f64::from(d).powi(2))
            .sum();
        let moved = |by: f64| {
            let mut live = start.clone();
            for (p, d) in live.parameters.iter_mut().zip(&gradients) {
                let mut value = p.value.view_mut();
                for r in 0..d.rows() {
                    let to = value.row_mut(r).iter_mut();
                    to.zip(d.row(r)).for_each(|(x, d)| *x += by as f32 * d);
                }
            }
            run(live, 1, false).0
        };
        let by = 5e-3 / square.sqrt();
        let along = (moved(by) - moved(-by)) / (2.0 * by);
        assert!(
            (along - square).abs() <= ALONG * square,
            "along the gradient the loss rises by {along}, not {square}"
        );
        println!("f32: the loss rises by {along:.5} along a gradient of square {square:.5}");
    }
}
