//! The same row gives the same bits alone, in any batch, order, token budget and number of threads.

use proptest::prelude::*;
use sorank::engine::{Admitted, Answer, Engine, Want};

use crate::fixtures::{FAMILIES, admit, bits, golden, logits};

fn in_threads<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a pool");
    pool.install(run)
}

/// Every text for every classifier, and the bits of each row run alone on one thread.
fn rows_and_bits(
    engine: &Engine,
    adapters: &[String],
    texts: &[(String, Option<String>)],
) -> (Vec<Admitted>, Vec<Vec<u32>>) {
    let mut rows = admit(engine, None, Want::Classes, texts);
    for adapter in adapters {
        rows.extend(admit(engine, Some(adapter), Want::Classes, texts));
    }
    let alone = |row: &Admitted| {
        let answers = in_threads(1, || engine.run(std::slice::from_ref(row)));
        bits(logits(&answers[0]))
    };
    let alone = rows.iter().map(alone).collect();
    (rows, alone)
}

#[test]
fn alone_equals_any_batch_order_budget_and_thread_count() {
    for family in FAMILIES {
        let golden = golden(family);
        let adapters = golden.classifiers();
        for budget in [1, 60, 1 << 20] {
            let engine = golden.engine(budget);
            let (mut rows, mut alone) = rows_and_bits(&engine, &adapters, &golden.texts());
            for turn in 0..3 {
                // Another order each turn.
                let by = rows.len() / 3 + 1;
                rows.rotate_left(by);
                alone.rotate_left(by);
                if turn == 2 {
                    rows.reverse();
                    alone.reverse();
                }
                for threads in [1, 2, 3, 8] {
                    let answers = in_threads(threads, || engine.run(&rows));
                    for (i, (answer, alone)) in answers.iter().zip(&alone).enumerate() {
                        assert_eq!(
                            &bits(logits(answer)),
                            alone,
                            "{family}, budget {budget}, turn {turn}, {threads} threads, row {i}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn sixteen_adapters_in_one_batch_equal_sixteen_runs_of_one() {
    let golden = golden("bert");
    let names: Vec<String> = (0..16).map(|i| format!("many/{i:02}")).collect();
    let all = golden.engine(1 << 20);
    let mixed: Vec<Admitted> = golden
        .texts()
        .iter()
        .flat_map(|text| {
            names
                .iter()
                .flat_map(|n| admit(&all, Some(n), Want::Classes, std::slice::from_ref(text)))
                .collect::<Vec<_>>()
        })
        .collect();
    let mixed = all.run(&mixed);
    for (i, name) in names.iter().enumerate() {
        // An engine that knows this one adapter only.
        let one = crate::fixtures::engine(&golden.base(), 1 << 20);
        crate::fixtures::add(&one, name, &golden.adapter_dir(name));
        let answers = one.run(&admit(&one, Some(name), Want::Classes, &golden.texts()));
        for (r, answer) in answers.iter().enumerate() {
            assert_eq!(
                bits(logits(answer)),
                bits(logits(&mixed[r * 16 + i])),
                "{name} row {r}"
            );
        }
    }
}

#[test]
fn embeddings_and_classes_share_a_batch() {
    let golden = golden("bert");
    let engine = golden.engine(1 << 20);
    let texts = golden.texts();
    let mut rows = admit(&engine, Some("mixed"), Want::Classes, &texts);
    rows.extend(admit(&engine, Some("mixed"), Want::Embedding, &texts));
    rows.extend(admit(&engine, None, Want::Embedding, &texts));
    let together = engine.run(&rows);
    for (row, answer) in rows.iter().zip(&together) {
        let alone: Vec<Answer> = engine.run(std::slice::from_ref(row));
        assert_eq!(&alone[0], answer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_choice_of_rows_gives_the_same_bits(picks in proptest::collection::vec((0usize..8, 0usize..20), 1..24), threads in 1usize..4) {
        thread_local! {
            static SETUP: (Engine, Vec<Admitted>, Vec<Vec<u32>>) = {
                let golden = golden("bert");
                let engine = golden.engine(96);
                let (rows, alone) = rows_and_bits(&engine, &golden.classifiers(), &golden.texts());
                (engine, rows, alone)
            };
        }
        SETUP.with(|(engine, rows, alone)| {
            let picks: Vec<usize> = picks.iter().map(|(text, adapter)| (adapter * 8 + text) % rows.len()).collect();
            let chosen: Vec<Admitted> = picks.iter().map(|&i| rows[i].clone()).collect();
            let answers = in_threads(threads, || engine.run(&chosen));
            for (answer, &i) in answers.iter().zip(&picks) {
                prop_assert_eq!(&bits(logits(answer)), &alone[i]);
            }
            Ok(())
        })?;
    }
}
