//! The base's linears in bf16 and int8: near the f32 answers, useful on real text, and as indifferent to neighbours.

use sorank::{
    engine::{Admitted, Want},
    kernel::panel::Precision,
};

use crate::{
    fixtures::{FAMILIES, admit, bits, embedding, golden, logits},
    minilm::{golden_spearman, spearman_on_stsb_dev},
};

/// Largest difference of a logit to the golden f32 one, relative to the largest logit of the adapter. A rounding to bf16
/// is 2^-9 of an operand; some tens of products in a row, of random weights, add up to a few of them.
const BF16: f32 = 0.05;
/// As [`BF16`]: 1/254 of the largest weight of a column and of the spread of a row's activations.
const INT8: f32 = 0.15;
/// Points of Spearman's correlation on STS-B dev that a precision may cost.
const BF16_POINTS: f64 = 0.1;
const INT8_POINTS: f64 = 0.3;

fn near(precision: Precision, most: f32) {
    for family in FAMILIES {
        let golden = golden(family);
        let engine = golden.engine_at(1 << 20, precision);
        let (texts, mut worst, mut same) = (golden.texts(), 0.0f32, true);
        let mut names = golden.classifiers();
        names.push("base".to_owned());
        for name in &names {
            let adapter = (name != "base").then_some(name.as_str());
            let answers = engine.run(&admit(&engine, adapter, Want::Classes, &texts));
            for (r, answer) in answers.iter().enumerate() {
                let got = logits(answer);
                let wanted = format!("logits.{name}");
                let error = golden.distance(&wanted, r, got);
                assert!(
                    error <= most,
                    "{family} {precision:?} {name} row {r}: {error:e}"
                );
                worst = worst.max(error);
                same &= got == golden.row(&wanted, r);
            }
        }
        assert!(!same, "{family}: the precision was not used");
        println!("{family} {precision:?}: {worst:.4} of the largest logit at most");
    }
}

#[test]
fn bf16_is_near_the_golden_answers() {
    near(Precision::Bf16, BF16);
}

#[test]
fn int8_is_near_the_golden_answers() {
    near(Precision::Int8, INT8);
}

#[test]
fn alone_equals_batched_at_every_precision() {
    for (precision, family) in [Precision::Bf16, Precision::Int8]
        .into_iter()
        .flat_map(|p| FAMILIES.iter().map(move |f| (p, f)))
    {
        let golden = golden(family);
        let engine = golden.engine_at(512, precision);
        let texts = golden.texts();
        let mut rows: Vec<Admitted> = admit(&engine, None, Want::Embedding, &texts);
        for adapter in golden.adapters() {
            rows.extend(admit(&engine, Some(&adapter), Want::Embedding, &texts));
        }
        let run = |threads: usize, rows: &[Admitted]| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let answers = pool.build().expect("a pool").install(|| engine.run(rows));
            answers
                .iter()
                .map(|a| bits(embedding(a)))
                .collect::<Vec<_>>()
        };
        let alone: Vec<_> = rows
            .iter()
            .flat_map(|row| run(1, std::slice::from_ref(row)))
            .collect();
        for threads in [1, 2, 3] {
            assert_eq!(run(threads, &rows), alone, "{family} {precision:?}");
        }
        let one_row = run(2, &rows[..1]);
        assert_eq!(one_row, alone[..1], "{family} {precision:?}");
        rows.reverse();
        let mut reversed = run(2, &rows);
        reversed.reverse();
        assert_eq!(reversed, alone, "{family} {precision:?}");
    }
}

#[test]
fn real_text_loses_next_to_nothing() {
    let full = golden_spearman();
    for (precision, most) in [
        (Precision::Bf16, BF16_POINTS),
        (Precision::Int8, INT8_POINTS),
    ] {
        let Some(got) = spearman_on_stsb_dev(precision) else {
            return;
        };
        let drop = 100.0 * (full - got);
        println!("{precision:?}: Spearman {got:.5}, f32 {full:.5}, {drop:.3} points lost");
        assert!(drop <= most, "{precision:?}: {drop:.3} points lost");
    }
}
