//! Entities against transformers' token classification pipeline: random weights on the small fixtures (every odd case of
//! grouping), and a trained adapter on real sentences.

use sorank::engine::{Aggregation, Answer, Engine, Entity, Request, Want};
use sorank::text::Truncate;

use crate::fixtures::{FAMILIES, golden, manifest_dir, shared};

const STRATEGIES: [(&str, Aggregation); 5] = [
    ("none", Aggregation::None),
    ("simple", Aggregation::Simple),
    ("first", Aggregation::First),
    ("average", Aggregation::Average),
    ("max", Aggregation::Max),
];

/// Scores are probabilities of logits that agree to about 1e-5, and are rounded to 1e-6 in the files.
const MOST: f64 = 5e-5;

fn tag(engine: &Engine, adapter: &str, texts: &[String], how: Aggregation) -> Vec<Vec<Entity>> {
    let request = |text| Request {
        text,
        pair: None,
        adapter: Some(adapter),
        want: Want::Tags(how),
    };
    let requests: Vec<Request<'_>> = texts.iter().map(|t| request(t.as_str())).collect();
    let found = |answer: sorank::Result<(Answer, usize)>| match answer {
        Ok((Answer::Tags(found), _)) => found,
        other => panic!("{other:?}"),
    };
    let answers = engine.answer(&requests, Truncate::No);
    answers.into_iter().map(found).collect()
}

/// FNV-1a, 32 bits.
fn fnv(text: &str) -> u64 {
    let step = |h: u32, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    u64::from(text.bytes().fold(0x811c_9dc5, step))
}

/// Compares one text's entities: `[label, start, end, word or its hash, score]` each.
fn same(got: &[Entity], want: &serde_json::Value) -> Result<f64, String> {
    let want = want.as_array().expect("entities");
    if got.len() != want.len() {
        return Err(format!(
            "{} entities, expected {}: {got:?}",
            got.len(),
            want.len()
        ));
    }
    let mut worst = 0.0f64;
    for (g, w) in got.iter().zip(want) {
        let word = match &w[3] {
            serde_json::Value::String(word) => *word == g.word,
            hash => hash.as_u64() == Some(fnv(&g.word)),
        };
        if w[0] != *g.label || w[1] != g.start || w[2] != g.end || !word {
            return Err(format!("{g:?}, expected {w}"));
        }
        worst = worst.max((w[4].as_f64().expect("a score") - f64::from(g.score)).abs());
    }
    if worst > MOST {
        return Err(format!("scores differ by {worst:e}"));
    }
    Ok(worst)
}

fn compare(engine: &Engine, adapter: &str, texts: &[String], golden: &serde_json::Value) {
    let mut wrong = Vec::new();
    let (mut entities, mut worst) = (0, 0.0f64);
    for (name, how) in STRATEGIES {
        let rows = golden[name].as_array().expect("rows");
        assert_eq!(rows.len(), texts.len());
        for (i, (got, want)) in tag(engine, adapter, texts, how)
            .iter()
            .zip(rows)
            .enumerate()
        {
            entities += got.len();
            match same(got, want) {
                Ok(distance) => worst = worst.max(distance),
                Err(why) => wrong.push(format!("{name} row {i}: {why}")),
            }
        }
    }
    let rows = texts.len();
    println!("{entities} entities over {rows} texts and 5 strategies; scores within {worst:e}");
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_strategy_equals_the_pipeline_on_random_weights() {
    let home = manifest_dir().join("tests/reference/tags");
    for family in FAMILIES {
        let Ok(expected) = std::fs::read(home.join(format!("{family}.json"))) else {
            continue;
        };
        let expected: serde_json::Value = serde_json::from_slice(&expected).expect("JSON");
        let texts: Vec<String> = serde_json::from_value(expected["texts"].clone()).expect("texts");
        println!("{family}");
        compare(&golden(family).engine(200), "tags", &texts, &expected);
    }
}

/// The first `count` sentences of a CoNLL file, words joined by a space.
fn sentences(text: &str, count: usize) -> Vec<String> {
    let (mut out, mut now) = (Vec::new(), Vec::new());
    for line in text.lines().chain([""]) {
        match line.split_whitespace().next() {
            None | Some("-DOCSTART-") => {
                if !now.is_empty() {
                    out.push(now.join(" "));
                }
                now.clear();
            }
            Some(word) => now.push(word),
        }
    }
    out.truncate(count);
    out
}

#[test]
fn entities_of_500_sentences_equal_the_pipeline() {
    let (Some(base), Some(data)) = (
        shared("models/all-MiniLM-L6-v2"),
        shared("data/conll2003/eng.testb"),
    ) else {
        return;
    };
    let home = manifest_dir().join("tests/reference/ner");
    let Ok(golden) = std::fs::read(home.join("golden.json")) else {
        println!(
            "skipped: tests/reference/ner/golden.json is absent (python tests/reference/ner.py golden)"
        );
        return;
    };
    let engine = crate::fixtures::engine(&base, 2048);
    crate::fixtures::add(&engine, "ner", &home.join("adapter"));
    let texts = sentences(&std::fs::read_to_string(data).expect("eng.testb"), 500);
    assert_eq!(texts.len(), 500);
    let golden = serde_json::from_slice(&golden).expect("JSON");
    compare(&engine, "ner", &texts, &golden);
}

#[test]
fn a_classifier_of_texts_does_not_tag_and_a_tagger_takes_no_pair() {
    let engine = golden("bert").engine(64);
    let ask = |adapter, pair, want| {
        let request = Request {
            text: "some text",
            pair,
            adapter,
            want,
        };
        let answer = engine.admit(&request, Truncate::No).map(|_| ());
        answer.expect_err("it is refused").to_string()
    };
    let tags = Want::Tags(Aggregation::Simple);
    let why = ask(Some("mixed"), None, tags);
    assert!(why.contains("labels texts, not tokens"), "{why}");
    let why = ask(Some("tags"), Some("another"), tags);
    assert!(why.contains("pair"), "{why}");
    let why = ask(Some("tags"), None, Want::Classes);
    assert!(why.contains("labels tokens, not texts"), "{why}");
    let why = ask(Some("embed"), None, tags);
    assert!(why.contains("no classification head"), "{why}");
}
