//! A real encoder on real text: all-MiniLM-L6-v2 against transformers, where ../shared exists.

use std::path::Path;

use sorank::{
    engine::{Engine, Request, Want},
    kernel::panel::Precision,
    text::Truncate,
};

use crate::fixtures::{embedding, engine, engine_at, manifest_dir, shared};

/// Largest difference of an L2-normed embedding to transformers'. Entries are around 0.05, f32 sums over 384 terms.
const MOST: f32 = 2e-6;

fn column(path: &Path, row: usize, name: &str) -> String {
    let text = std::fs::read_to_string(path).expect("a GLUE file");
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("a header").split('\t').collect();
    let at = header.iter().position(|h| *h == name).expect("the column");
    lines
        .nth(row)
        .expect("the row")
        .split('\t')
        .nth(at)
        .expect("the field")
        .to_owned()
}

fn embed(engine: &Engine, texts: &[String]) -> Vec<Vec<f32>> {
    let request = |text| Request {
        text,
        pair: None,
        adapter: None,
        want: Want::Embedding,
    };
    let requests: Vec<Request<'_>> = texts.iter().map(|t| request(t.as_str())).collect();
    // One golden text is longer than the model takes.
    let answers = engine.answer(&requests, Truncate::Right).into_iter();
    answers
        .map(|a| embedding(&a.unwrap_or_else(|e| panic!("{e}")).0).to_vec())
        .collect()
}

fn golden() -> serde_json::Value {
    let path = manifest_dir().join("models/golden/minilm/golden.json");
    serde_json::from_slice(&std::fs::read(path).expect("golden.json")).expect("JSON")
}

#[test]
fn embeddings_equal_transformers() {
    let (Some(model), Some(data)) = (shared("models/all-MiniLM-L6-v2"), shared("")) else {
        return;
    };
    let engine = engine(&model, 2048);
    let golden = golden();
    let rows = golden["rows"].as_array().expect("rows");
    let texts: Vec<String> = rows
        .iter()
        .map(|r| {
            let file = data.join(r["file"].as_str().expect("a file"));
            let (row, join) = (
                r["row"].as_u64().expect("a row"),
                r["join"].as_u64().expect("how many"),
            );
            let name = r["column"].as_str().expect("a column");
            let texts = (row..row + join).map(|row| column(&file, row as usize, name));
            texts.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let mut worst = 0.0f32;
    for (row, got) in rows.iter().zip(embed(&engine, &texts)) {
        let want: Vec<f32> = serde_json::from_value(row["embedding"].clone()).expect("numbers");
        assert_eq!(got.len(), want.len());
        worst = got
            .iter()
            .zip(&want)
            .fold(worst, |m, (a, b)| m.max((a - b).abs()));
    }
    println!(
        "largest difference to transformers over {} texts: {worst:e}",
        texts.len()
    );
    assert!(worst < MOST, "{worst:e}");
}

/// Ranks with ties averaged.
fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
    let mut out = vec![0.0; x.len()];
    let mut i = 0;
    while i < order.len() {
        let mut j = i;
        while j + 1 < order.len() && x[order[j + 1]] == x[order[i]] {
            j += 1;
        }
        for &k in &order[i..=j] {
            out[k] = (i + j) as f64 / 2.0;
        }
        i = j + 1;
    }
    out
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let dot = |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
    };
    dot(a, ma, b, mb) / (dot(a, ma, a, ma) * dot(b, mb, b, mb)).sqrt()
}

/// Spearman's correlation of cosines with the scores of STS-B dev; `None` where the data is not there.
pub(crate) fn spearman_on_stsb_dev(precision: Precision) -> Option<f64> {
    let model = shared("models/all-MiniLM-L6-v2")?;
    let dev = shared("data/glue/STS-B/dev.tsv")?;
    let text = std::fs::read_to_string(dev).expect("dev.tsv");
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("a header").split('\t').collect();
    let at = |name: &str| header.iter().position(|h| *h == name).expect("the column");
    let (first, second, score) = (at("sentence1"), at("sentence2"), at("score"));
    let (mut texts, mut scores) = (Vec::new(), Vec::new());
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        texts.extend([fields[first].to_owned(), fields[second].to_owned()]);
        scores.push(fields[score].parse::<f64>().expect("a score"));
    }
    assert_eq!(scores.len(), 1500);
    let vectors = embed(&engine_at(&model, 2048, precision), &texts);
    let cosines: Vec<f64> = vectors
        .chunks_exact(2)
        .map(|p| p[0].iter().zip(&p[1]).map(|(a, b)| f64::from(a * b)).sum())
        .collect();
    Some(pearson(&ranks(&cosines), &ranks(&scores)))
}

/// What transformers reaches in f32.
pub(crate) fn golden_spearman() -> f64 {
    golden()["spearman"].as_f64().expect("a number")
}

#[test]
fn spearman_on_stsb_dev_equals_transformers() {
    let Some(got) = spearman_on_stsb_dev(Precision::F32) else {
        return;
    };
    let want = golden_spearman();
    println!("Spearman on STS-B dev: {got:.6}, transformers {want:.6}");
    assert!((got - want).abs() < 0.001, "{got} against {want}");
}
