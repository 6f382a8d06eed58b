//! One text for several adapters: the bits of each alone, whatever is shared.

use sorank::{
    adapter::{Adapter, Targets},
    engine::{Aggregation, Answer, Engine, Request, Want},
    text::Truncate,
};

use crate::fixtures::{FAMILIES, Golden, bits, golden};

/// Adapters of the fixture that classify, and copies of one of them without its lower layers.
fn engine(golden: &Golden) -> (Engine, Vec<Option<String>>) {
    let engine = golden.engine(1 << 20);
    let mut names: Vec<Option<String>> = golden.classifiers().into_iter().map(Some).collect();
    let whole = Adapter::read(&golden.adapter_dir("mixed")).expect("it reads");
    for lowest in 1..=engine.model().depth() {
        let mut upper = whole.clone();
        upper.factors.retain(|path, _| {
            let site = engine.model().sites().find(path);
            site.is_none_or(|s| s.layer.is_some_and(|layer| layer >= lowest))
        });
        upper.targets = Targets::exactly(upper.factors.keys().cloned());
        let name = format!("from-{lowest}");
        let task = engine
            .model()
            .bind(&name, &upper)
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(engine.model().untouched_layers(&task) >= lowest);
        engine.registry().insert(&name, task);
        names.push(Some(name));
    }
    names.push(None);
    (engine, names)
}

fn numbers(answer: &Answer) -> Vec<u32> {
    match answer {
        Answer::Classes(classes) => bits(&classes.logits),
        Answer::Embedding(vector) => bits(vector),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fan_has_the_bits_of_each_adapter_alone() {
    for family in FAMILIES {
        let golden = golden(family);
        let (engine, names) = engine(&golden);
        let texts = golden.texts();
        // Only adapters from a layer up; all, so that nothing is shared; fans among single rows.
        let upper: Vec<_> = names
            .iter()
            .filter(|n| n.as_ref().is_none_or(|n| n.starts_with("from-")))
            .collect();
        let all: Vec<_> = names.iter().collect();
        for fan in [&upper, &all] {
            for want in [Want::Classes, Want::Embedding] {
                let mut requests = Vec::new();
                for (i, (text, pair)) in texts.iter().enumerate() {
                    let adapters = if i % 3 == 2 { &fan[..1] } else { &fan[..] };
                    requests.extend(adapters.iter().map(|adapter| Request {
                        text,
                        pair: pair.as_deref(),
                        adapter: adapter.as_deref(),
                        want,
                    }));
                }
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                    let together = pool
                        .expect("a pool")
                        .install(|| engine.answer(&requests, Truncate::No));
                    for (request, answer) in requests.iter().zip(together) {
                        let alone = engine.answer(std::slice::from_ref(request), Truncate::No);
                        let alone = alone.into_iter().next().expect("an answer");
                        let ((a, n), (b, m)) =
                            (answer.expect("answered"), alone.expect("answered"));
                        assert_eq!((numbers(&a), n), (numbers(&b), m), "{family} {request:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn one_unknown_name_does_not_spoil_the_others() {
    let golden = golden("bert");
    let engine = golden.engine(256);
    let adapters = ["tags", "nobody", "tags", "mixed"];
    let requests = adapters.map(|adapter| Request {
        text: "a text for several",
        pair: None,
        adapter: Some(adapter),
        want: Want::Tags(Aggregation::None),
    });
    let answers = engine.answer(&requests, Truncate::No);
    let why = |i: usize| {
        answers[i]
            .as_ref()
            .map(|_| ())
            .expect_err("refused")
            .to_string()
    };
    assert!(
        why(1).contains("nobody") && why(3).contains("tag"),
        "{} {}",
        why(1),
        why(3)
    );
    let tags = |i: usize| &answers[i].as_ref().expect("answered").0;
    assert_eq!(tags(0), tags(2));
}
