//! The golden fixtures, a base and adapters loaded from them, and how nearness is judged.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use sorank::{
    adapter::Adapter,
    engine::{Admitted, Answer, Engine, Request, Want},
    kernel::panel::Precision,
    model::{LoadOptions, Model},
    text::{Tokenizer, Truncate},
    weights::Source,
};

/// Largest difference to torch, relative to the largest value of the tensor. The fixtures' own f32 noise (their
/// `f32_noise`, against f64) is up to 3e-6 of values around 2; ours comes on top.
pub(crate) const PARITY: f32 = 1e-5;

/// The families whose fixtures must pass.
pub(crate) const FAMILIES: &[&str] = &[
    "bert",
    "roberta",
    "electra",
    "distilbert",
    "xlm-roberta",
    "camembert",
    "mpnet",
    "deberta-v2",
    "deberta-v2-own",
    "deberta-v2-nobuckets",
    "modernbert",
    "modernbert-bias",
    "albert",
    "nomic_bert",
    "gte",
    "gte-ntk",
    "jina_embeddings_v3",
];

/// One family's fixture.
pub(crate) struct Golden {
    pub(crate) dir: PathBuf,
    pub(crate) index: serde_json::Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

pub(crate) fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The real model and data, where they are; says so where not.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = manifest_dir().join("../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    println!("skipped: ../shared/{path} is absent");
    None
}

pub(crate) fn golden(family: &str) -> Golden {
    let dir = manifest_dir().join("models/golden").join(family);
    let index = std::fs::read(dir.join("golden.json")).expect("golden.json");
    let bytes = std::fs::read(dir.join("golden.safetensors")).expect("golden.safetensors");
    Golden {
        dir,
        index: serde_json::from_slice(&index).expect("golden.json is JSON"),
        tensors: read_tensors(&bytes),
    }
}

/// All F32 tensors of a safetensors file.
pub(crate) fn read_tensors(bytes: &[u8]) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let file = safetensors::SafeTensors::deserialize(bytes).expect("a safetensors file");
    let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
        let data = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        (name, (view.shape().to_vec(), data.collect()))
    };
    file.tensors().into_iter().map(read).collect()
}

/// A base packed in memory: tests leave nothing in the user's cache.
pub(crate) fn load(dir: &Path) -> Model {
    load_at(dir, Precision::F32)
}

/// As [`load`], its linears at `precision`.
pub(crate) fn load_at(dir: &Path, precision: Precision) -> Model {
    let source = Source::dir(dir).expect("the base's directory");
    let options = LoadOptions {
        precision: Some(precision),
        ..LoadOptions::default()
    };
    Model::load(source, &options).expect("the base loads")
}

/// An engine over the base in `dir`.
pub(crate) fn engine(dir: &Path, max_batch_tokens: usize) -> Engine {
    engine_at(dir, max_batch_tokens, Precision::F32)
}

/// As [`engine`], the base's linears at `precision`.
pub(crate) fn engine_at(dir: &Path, max_batch_tokens: usize, precision: Precision) -> Engine {
    let model = load_at(dir, precision);
    let source = model.source().clone();
    let tokenizer = Tokenizer::load(&|name| source.read(name), dir).expect("the tokenizer loads");
    Engine::new(model, tokenizer, max_batch_tokens).expect("the engine starts")
}

/// Binds the adapter in `dir` under `name`.
pub(crate) fn add(engine: &Engine, name: &str, dir: &Path) {
    let adapter = Adapter::read(dir).unwrap_or_else(|e| panic!("{e}"));
    let task = engine
        .model()
        .bind(name, &adapter)
        .unwrap_or_else(|e| panic!("{e}"));
    engine.registry().insert(name, task);
}

impl Golden {
    pub(crate) fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    pub(crate) fn adapter_dir(&self, name: &str) -> PathBuf {
        self.dir.join("adapters").join(name)
    }

    /// Names of the adapters, `many/03` style for nested ones.
    pub(crate) fn adapters(&self) -> Vec<String> {
        fn walk(dir: &Path, prefix: &str, out: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).expect("adapters/") {
                let path = entry.expect("adapters/").path();
                let name = format!(
                    "{prefix}{}",
                    path.file_name().expect("a name").to_string_lossy()
                );
                if path.join("adapter_config.json").exists() {
                    out.push(name);
                } else if path.is_dir() {
                    walk(&path, &format!("{name}/"), out);
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.dir.join("adapters"), "", &mut out);
        out.sort();
        out
    }

    /// Those that classify whole texts.
    pub(crate) fn classifiers(&self) -> Vec<String> {
        let classifies = |name: &String| {
            let config = std::fs::read(self.adapter_dir(name).join("adapter_config.json"));
            let config: serde_json::Value =
                serde_json::from_slice(&config.expect("a configuration")).expect("JSON");
            config["task_type"] == "SEQ_CLS"
        };
        self.adapters().into_iter().filter(classifies).collect()
    }

    /// The engine with every adapter of the fixture.
    pub(crate) fn engine(&self, max_batch_tokens: usize) -> Engine {
        self.engine_at(max_batch_tokens, Precision::F32)
    }

    /// As [`Golden::engine`], the base's linears at `precision`.
    pub(crate) fn engine_at(&self, max_batch_tokens: usize, precision: Precision) -> Engine {
        let engine = engine_at(&self.base(), max_batch_tokens, precision);
        for name in self.adapters() {
            add(&engine, &name, &self.adapter_dir(&name));
        }
        engine
    }

    /// The texts: one or two strings a row.
    pub(crate) fn texts(&self) -> Vec<(String, Option<String>)> {
        let rows = self.index["texts"].as_array().expect("texts");
        let part = |row: &serde_json::Value, i: usize| row[i].as_str().map(str::to_owned);
        rows.iter()
            .map(|r| (part(r, 0).expect("a text"), part(r, 1)))
            .collect()
    }

    pub(crate) fn numbers(&self, key: &str) -> Vec<Vec<u32>> {
        serde_json::from_value(self.index[key].clone()).expect("rows of numbers")
    }

    pub(crate) fn tensor(&self, name: &str) -> &(Vec<usize>, Vec<f32>) {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("golden tensor {name}"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Largest difference of `got` to row `r` of a golden matrix, over the largest value of the whole matrix: a
    /// single logit may be near zero where its terms are not.
    pub(crate) fn distance(&self, name: &str, r: usize, got: &[f32]) -> f32 {
        let largest = |x: &[f32]| x.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
        let want = self.row(name, r);
        distance(got, want) * largest(want) / largest(&self.tensor(name).1)
    }

    /// Row `r` of a golden matrix.
    pub(crate) fn row(&self, name: &str, r: usize) -> &[f32] {
        let (shape, data) = self.tensor(name);
        &data[r * shape[1]..][..shape[1]]
    }
}

/// Admits every row for `adapter`.
pub(crate) fn admit(
    engine: &Engine,
    adapter: Option<&str>,
    want: Want,
    rows: &[(String, Option<String>)],
) -> Vec<Admitted> {
    let row = |(text, pair): &(String, Option<String>)| {
        let request = Request {
            text,
            pair: pair.as_deref(),
            adapter,
            want,
        };
        engine
            .admit(&request, Truncate::No)
            .unwrap_or_else(|e| panic!("{e}"))
    };
    rows.iter().map(row).collect()
}

/// The logits of an answer.
pub(crate) fn logits(answer: &Answer) -> &[f32] {
    match answer {
        Answer::Classes(classes) => &classes.logits,
        _ => panic!("classes were asked for"),
    }
}

/// The vector of an answer.
pub(crate) fn embedding(answer: &Answer) -> &[f32] {
    match answer {
        Answer::Embedding(vector) => vector,
        _ => panic!("an embedding was asked for"),
    }
}

/// Largest difference over the largest value of `want`.
pub(crate) fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(want).map(|(a, b)| {
        if a.is_finite() {
            (a - b).abs()
        } else {
            f32::INFINITY
        }
    });
    worst.fold(0.0, f32::max) / largest
}

/// Bits, for comparisons that allow no difference.
pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
