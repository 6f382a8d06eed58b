//! Everything of the forward pass that is not a weight product, measured against one that is.
//!
//! `cargo bench --bench attention` prints, for a base-sized encoder (H 768, 12 heads, F 3072) on one core, the
//! time of each kernel over a batch and its share of the time that the linears of one layer would take at the
//! peak measured in the same round. A cell is the median over rounds; a round visits every case in turn.
//! `-- --check` runs each case once, and other arguments are substrings of the names to run.
#![allow(clippy::print_stdout)] // a bench prints its figures

use std::time::Instant;

use sorank::{
    kernel::{
        activation::Activation,
        attention::{Attention, Positions, Relative, Scratch},
        bucketed::DistanceBias,
        norm::LayerNorm,
        panel::{Precision, peak},
        relative::{Distances, PositionPanels},
        rotary::Rotary,
        softmax::softmax,
    },
    mat::Matrix,
    simd,
};

const H: usize = 768;
const HEADS: usize = 12;
const FFN: usize = 3072;
const ROUNDS: usize = 15;
/// Sequences and tokens of each.
const BATCHES: [(usize, usize); 3] = [(32, 32), (8, 128), (2, 512)];

fn noise(rows: usize, cols: usize, scale: f32) -> Matrix {
    let mut s = 1u32;
    let data = (0..rows * cols).map(|_| {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((s >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
    });
    Matrix::from_vec(data.collect(), rows, cols)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let check = args.iter().any(|a| a == "--check");
    let wanted: Vec<&String> = args.iter().filter(|a| !a.starts_with("--")).collect();
    for (sequences, tokens) in BATCHES {
        println!(
            "\n{sequences} x {tokens} tokens, level {}",
            simd::level().name()
        );
        let mut cases = cases(sequences, tokens);
        cases.retain(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(*w)));
        let rows = (sequences * tokens) as f64;
        let linears = 2.0 * rows * (H * 4 * H + 2 * H * FFN) as f64;
        let mut shares = vec![Vec::new(); cases.len()];
        let mut times = vec![Vec::new(); cases.len()];
        for _ in 0..if check { 1 } else { ROUNDS } {
            let start = Instant::now();
            let ops = peak(simd::level(), Precision::F32, 4_000_000) as f64;
            let linears = linears * start.elapsed().as_secs_f64() / ops;
            for (i, (_, run)) in cases.iter_mut().enumerate() {
                run();
                let start = Instant::now();
                let mut runs = 0;
                while runs == 0 || start.elapsed().as_secs_f64() < 0.01 {
                    run();
                    runs += 1;
                }
                let time = start.elapsed().as_secs_f64() / f64::from(runs);
                times[i].push(time);
                shares[i].push(time / linears);
            }
        }
        for (i, (name, _)) in cases.iter().enumerate() {
            let (time, share) = (median(&mut times[i]), median(&mut shares[i]));
            println!(
                "{name:24} {:9.1} us {:6.2} % of the linears",
                time * 1e6,
                share * 1e2
            );
        }
    }
}

fn median(x: &mut [f64]) -> f64 {
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

type Case = (String, Box<dyn FnMut()>);

fn cases(sequences: usize, tokens: usize) -> Vec<Case> {
    let rows = sequences * tokens;
    let mut cases: Vec<Case> = Vec::new();
    let kinds = ["plain", "window 64", "bucketed", "disentangled"];
    for (kind, precision) in [Precision::F32, Precision::Bf16]
        .into_iter()
        .flat_map(|p| kinds.map(|k| (k, p)))
    {
        let fused = noise(rows, 3 * H, 1.0);
        let mut out = Matrix::zeros(rows, H);
        let mut scratch = Scratch::default();
        let bias = DistanceBias::new(noise(32, HEADS, 1.0).view(), 128, 512);
        let distances = Distances::new(256, 512, 512);
        let table = noise(512, H, 1.0);
        let keys = PositionPanels::new(precision, table.view(), HEADS);
        let run = move || {
            for s in 0..sequences {
                let rows = s * tokens..(s + 1) * tokens;
                let all = fused.view().row_range(rows.clone());
                let relative = Relative {
                    distances: &distances,
                    keys: Some(&keys),
                    queries: Some(&keys),
                };
                let attention = Attention {
                    q: all.col_range(0..H),
                    k: all.col_range(H..2 * H),
                    v: all.col_range(2 * H..3 * H),
                    heads: HEADS,
                    scale: 0.125,
                    window: (kind == "window 64").then_some(64),
                    positions: match kind {
                        "bucketed" => Positions::Bucketed(&bias),
                        "disentangled" => Positions::Relative(relative),
                        _ => Positions::None,
                    },
                    dropout: None,
                    precision,
                };
                attention.forward(out.view_mut().row_range(rows), &mut scratch);
            }
        };
        cases.push((format!("attention {kind} {precision:?}"), Box::new(run)));
    }
    let rotary = Rotary::new(H / HEADS, 160_000.0, 1.0, 512);
    let mut fused = noise(rows, 3 * H, 1.0);
    cases.push((
        "rotary".to_owned(),
        Box::new(move || {
            for s in 0..sequences {
                let all = fused.view_mut().row_range(s * tokens..(s + 1) * tokens);
                rotary.apply(all.col_range(0..2 * H));
            }
        }),
    ));
    let mut scores = noise(rows * HEADS, tokens, 4.0);
    cases.push((
        "softmax of scores".to_owned(),
        Box::new(move || softmax(scores.view_mut())),
    ));
    let (mut x, residual) = (noise(rows, H, 1.0), noise(rows, H, 1.0));
    let (weight, bias) = (vec![1.0; H], vec![0.0; H]);
    cases.push((
        "norm, one".to_owned(),
        Box::new(move || {
            let norm = LayerNorm {
                weight: &weight,
                bias: Some(&bias),
                eps: 1e-12,
            };
            norm.in_place(x.view_mut(), Some(residual.view()));
        }),
    ));
    for f in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        let from = noise(rows, FFN, 4.0);
        let mut x = from.clone();
        cases.push((
            format!("{f:?}"),
            Box::new(move || {
                // Start from the same values: repeated application ends in zeros.
                x.view_mut().row_mut(0).copy_from_slice(from.row(0));
                for r in 0..rows {
                    f.apply(x.view_mut().row_mut(r));
                }
            }),
        ));
    }
    cases
}
