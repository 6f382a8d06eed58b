//! One text for many adapters: the fan-out, which computes the layers that none of them adapts once, against as many
//! separate rows in one batch.
//!
//! `cargo bench --bench fanout` prints a table; words choose among models and thread counts (`t1`, `t2`). The adapters are
//! adapted in the top third of the layers only, as adapters whose lower layers were pruned are. Every answer is checked
//! equal, bit for bit, before anything is measured; `-- --check` does that alone, on a small shape.
//!
//! Both sides start from the text: tokenising is in the time, once here and once a row there. `bound` is what counting
//! layers allows: `N L / (N above + below)`.
#![allow(clippy::print_stdout)] // a bench prints its figures

mod support;

use std::path::Path;

use sorank::{
    engine::{Answer, Engine, Request, Want},
    kernel::panel::Precision,
    text::{Tokenizer, Truncate},
    weights::Source,
};
use support::{BASE, MINILM, Shape, TINY};

const ADAPTERS: usize = 8;
const RANK: usize = 8;
const ROUNDS: usize = 9;
/// Tokens of the texts, with the two that the tokenizer adds.
const LENGTHS: [usize; 2] = [32, 128];
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

fn main() {
    let (check, words) = support::arguments();
    if check {
        let shape = Shape { layers: 6, ..TINY };
        let dir = tempfile::tempdir().expect("a temporary directory");
        let engine = engine(&shape, dir.path());
        for tokens in [3, 17, 128] {
            for threads in [1, 2, 3] {
                support::pool(threads).install(|| compare(&engine, &text(tokens)));
            }
        }
        println!("{ADAPTERS} adapters of one text and {ADAPTERS} rows, same bits");
        return;
    }
    let wanted = |name: &str, among: &[&str]| {
        let mut of_kind = words.iter().filter(|w| among.contains(&w.as_str()));
        !words.iter().any(|w| among.contains(&w.as_str())) || of_kind.any(|w| w == name)
    };
    for shape in [BASE, MINILM] {
        if wanted(shape.name, &[BASE.name, MINILM.name]) {
            measure(&shape, &|threads| {
                wanted(&format!("t{threads}"), &["t1", "t2"])
            });
        }
    }
}

/// An engine over random weights with adapters `a0`, `a1`, ... on the top third of its layers.
fn engine(shape: &Shape, dir: &Path) -> Engine {
    shape.write(dir);
    let words = (SPECIAL.len()..shape.vocab).map(|i| format!("w{i}"));
    let vocabulary: Vec<String> = SPECIAL
        .map(str::to_owned)
        .into_iter()
        .chain(words)
        .collect();
    std::fs::write(dir.join("vocab.txt"), vocabulary.join("\n")).expect("a temporary directory");
    let model = shape.load(dir, Precision::F32);
    let source = Source::dir(dir).expect("it was written");
    let tokenizer = Tokenizer::load(&|name| source.read(name), dir).expect("a vocabulary of words");
    let engine = Engine::new(model, tokenizer, 2048).expect("its ids are the model's");
    let below = below(shape);
    let layers: Vec<Option<usize>> = (engine.model().sites().all().iter())
        .map(|site| site.layer)
        .collect();
    for a in 0..ADAPTERS {
        let rank = |site: usize| match layers[site] {
            Some(layer) if layer >= below => RANK,
            _ => 0,
        };
        let task = support::task(engine.model(), rank, a as u32 + 1);
        assert_eq!(engine.model().untouched_layers(&task), below);
        engine.registry().insert(&format!("a{a}"), task);
    }
    engine
}

/// Layers that no adapter changes.
fn below(shape: &Shape) -> usize {
    shape.layers - shape.layers / 3
}

/// Words that make `tokens` tokens.
fn text(tokens: usize) -> String {
    let mut noise = support::Noise(tokens as u32);
    let words = (2..tokens).map(|_| format!("w{}", SPECIAL.len() + noise.below(90)));
    words.collect::<Vec<_>>().join(" ")
}

fn requests<'a>(text: &'a str, names: &'a [String]) -> Vec<Request<'a>> {
    let one = |name: &'a String| Request {
        text,
        pair: None,
        adapter: Some(name),
        want: Want::Embedding,
    };
    names.iter().map(one).collect()
}

fn names() -> Vec<String> {
    (0..ADAPTERS).map(|a| format!("a{a}")).collect()
}

fn fan(engine: &Engine, text: &str) -> Vec<Answer> {
    let answers = engine.answer(&requests(text, &names()), Truncate::No);
    let answer = |a: sorank::Result<(Answer, usize)>| a.expect("a text that fits").0;
    answers.into_iter().map(answer).collect()
}

fn rows(engine: &Engine, text: &str) -> Vec<Answer> {
    let names = names();
    let requests = requests(text, &names);
    let admitted: Vec<_> = (requests.iter())
        .map(|r| engine.admit(r, Truncate::No).expect("a text that fits"))
        .collect();
    engine.run(&admitted)
}

/// That the two give the same bits, and each adapter answers otherwise.
fn compare(engine: &Engine, text: &str) {
    let bits = |answers: &[Answer]| -> Vec<Vec<u32>> {
        let one = |a: &Answer| match a {
            Answer::Embedding(v) => v.iter().map(|x| x.to_bits()).collect(),
            other => panic!("an embedding was asked for: {other:?}"),
        };
        answers.iter().map(one).collect()
    };
    let (fan, rows) = (bits(&fan(engine, text)), bits(&rows(engine, text)));
    assert_eq!(fan, rows, "fan-out and separate rows");
    assert!((1..fan.len()).all(|i| fan[i] != fan[i - 1]));
}

fn measure(shape: &Shape, wanted: &dyn Fn(usize) -> bool) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let engine = engine(shape, dir.path());
    let (n, total, below) = (ADAPTERS as f64, shape.layers as f64, below(shape) as f64);
    println!(
        "\n{}, {ADAPTERS} adapters of rank {RANK} on the top {} of {} layers; bound {:.2}",
        shape.name,
        shape.layers - below as usize,
        shape.layers,
        n * total / (n * (total - below) + below)
    );
    println!("  tokens threads   fan-out ms   {ADAPTERS} rows ms   ratio (least to most)");
    for threads in [1, 2].into_iter().filter(|t| wanted(*t)) {
        let pool = support::pool(threads);
        for tokens in LENGTHS {
            let text = text(tokens);
            pool.install(|| compare(&engine, &text));
            let (mut fans, mut all, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let time = |run: &(dyn Fn() + Sync)| pool.install(|| support::seconds(run));
                let one = time(&|| drop(fan(&engine, &text)));
                let other = time(&|| drop(rows(&engine, &text)));
                fans.push(one);
                all.push(other);
                ratios.push(other / one);
            }
            println!(
                "  {tokens:6} {threads:7} {:12.2} {:11.2}   {:.2} ({:.2} to {:.2})",
                1e3 * support::median(fans),
                1e3 * support::median(all),
                support::median(ratios.clone()),
                support::least(&ratios),
                ratios.iter().copied().fold(0.0, f64::max),
            );
        }
    }
}
