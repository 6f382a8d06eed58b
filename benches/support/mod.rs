//! What the benches of the whole encoder share: bases of random weights, batches, peaks and clocks.
//!
//! Not here: what is measured and how it is shown.
#![allow(dead_code)] // each bench uses its part

use std::{collections::BTreeMap, path::Path, time::Instant};

use sorank::{
    adapter::{Adapter, RandomSite},
    kernel::panel::{Precision, peak},
    model::{Batch, LoadOptions, Model, Sequence, Task},
    simd,
    weights::{
        Cache, Dtype, PackOptions, Source,
        writer::{Content, Output, write},
    },
};

/// A shape of encoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) ffn: usize,
    pub(crate) vocab: usize,
    pub(crate) positions: usize,
}

pub(crate) const BASE: Shape = Shape {
    name: "bert-base",
    layers: 12,
    hidden: 768,
    heads: 12,
    ffn: 3072,
    vocab: 30522,
    positions: 512,
};
pub(crate) const MINILM: Shape = Shape {
    name: "minilm-l6",
    layers: 6,
    hidden: 384,
    heads: 12,
    ffn: 1536,
    ..BASE
};
/// For `--check`: odd widths, quick to run.
pub(crate) const TINY: Shape = Shape {
    name: "tiny",
    layers: 2,
    hidden: 48,
    heads: 3,
    ffn: 104,
    vocab: 100,
    positions: 130,
};

pub(crate) const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

pub(crate) fn dtype_name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
        Precision::Int8 => "int8",
    }
}

/// A stream of numbers in -1..1, the same at every run.
pub(crate) struct Noise(pub(crate) u32);

impl Noise {
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((f64::from(self.next()) + 1.0) / 2.0 * n as f64) as usize % n
    }
}

impl Shape {
    /// Multiplications and additions of the linears, a token.
    pub(crate) fn linear_ops(&self) -> f64 {
        (2 * self.layers * (4 * self.hidden * self.hidden + 2 * self.hidden * self.ffn)) as f64
    }

    /// Writes a checkpoint of random weights (normal spread 0.02 or so, norms near 1) to `dir`.
    pub(crate) fn write(&self, dir: &Path) {
        let config = serde_json::json!({
            "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu",
            "hidden_size": self.hidden, "intermediate_size": self.ffn, "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers, "max_position_embeddings": self.positions,
            "vocab_size": self.vocab, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        });
        std::fs::write(dir.join("config.json"), config.to_string()).expect("a temporary directory");
        let (h, f) = (self.hidden, self.ffn);
        let mut tensors = Vec::new();
        let mut push = |name: String, shape: Vec<usize>, center: f32, spread: f32| {
            let seed = tensors.len() as u32 + 1;
            let count = shape.iter().product::<usize>();
            let make = move || {
                let mut noise = Noise(seed);
                Ok((0..count).map(|_| center + spread * noise.next()).collect())
            };
            let content: Content<'static> = Content::Make(Box::new(make));
            let dtype = Dtype::F32;
            tensors.push(Output {
                name,
                shape,
                dtype,
                content,
            });
        };
        let norm = |push: &mut dyn FnMut(String, Vec<usize>, f32, f32), at: &str| {
            push(format!("{at}.weight"), vec![h], 1.0, 0.1);
            push(format!("{at}.bias"), vec![h], 0.0, 0.05);
        };
        let tables = [
            ("word", self.vocab),
            ("position", self.positions),
            ("token_type", 2),
        ];
        for (table, rows) in tables {
            push(
                format!("embeddings.{table}_embeddings.weight"),
                vec![rows, h],
                0.0,
                0.04,
            );
        }
        norm(&mut push, "embeddings.LayerNorm");
        for l in 0..self.layers {
            let at = format!("encoder.layer.{l}");
            let linears = [
                ("attention.self.query", h, h),
                ("attention.self.key", h, h),
                ("attention.self.value", h, h),
                ("attention.output.dense", h, h),
                ("intermediate.dense", f, h),
                ("output.dense", h, f),
            ];
            for (name, n, k) in linears {
                push(format!("{at}.{name}.weight"), vec![n, k], 0.0, 0.04);
                push(format!("{at}.{name}.bias"), vec![n], 0.0, 0.02);
            }
            norm(&mut push, &format!("{at}.attention.output.LayerNorm"));
            norm(&mut push, &format!("{at}.output.LayerNorm"));
        }
        let path = dir.join("model.safetensors");
        write(&path, &tensors, &BTreeMap::new()).expect("a temporary directory takes a checkpoint");
    }

    /// The base in `dir`, packed into `dir` too.
    pub(crate) fn load(&self, dir: &Path, precision: Precision) -> Model {
        let options = LoadOptions {
            precision: Some(precision),
            pack: PackOptions {
                cache: Cache::Dir(dir),
                ..PackOptions::default()
            },
        };
        Model::load(Source::dir(dir).expect("it was written"), &options).expect("it loads")
    }

    /// A batch of random tokens: sequence `i` has `lengths[i]` tokens and is for task `task(i)`.
    pub(crate) fn batch(&self, lengths: &[usize], task: impl Fn(usize) -> usize) -> Batch {
        let mut noise = Noise(7);
        let rows: Vec<(Vec<u32>, Vec<u32>)> = lengths
            .iter()
            .map(|&n| {
                let ids = (0..n).map(|_| noise.below(self.vocab) as u32).collect();
                (ids, vec![0; n])
            })
            .collect();
        Batch::pack(rows.iter().enumerate().map(|(i, (ids, types))| Sequence {
            ids,
            types,
            task: task(i),
        }))
    }
}

/// `count` lengths, log-normal, clipped to 4..128, 22 on average or so.
pub(crate) fn mixed_lengths(count: usize) -> Vec<usize> {
    let mut noise = Noise(11);
    let normal = |noise: &mut Noise| (0..12).map(|_| noise.next()).sum::<f32>() / 2.0;
    (0..count)
        .map(|_| {
            (2.83 + 0.72 * normal(&mut noise))
                .exp()
                .round()
                .clamp(4.0, 128.0) as usize
        })
        .collect()
}

/// An adapter of random factors, `rank(i)` at site `i`.
pub(crate) fn adapter(model: &Model, rank: impl Fn(usize) -> usize, seed: u32) -> Adapter {
    let sites: Vec<RandomSite> = model
        .sites()
        .all()
        .iter()
        .enumerate()
        .map(|(i, site)| RandomSite {
            path: site.path.clone(),
            inputs: site.inputs,
            outputs: site.columns.len(),
            rank: rank(i),
        })
        .collect();
    Adapter::random(&sites, seed)
}

/// [`adapter`], bound.
pub(crate) fn task(model: &Model, rank: impl Fn(usize) -> usize, seed: u32) -> Task {
    model
        .bind("random", &adapter(model, rank, seed))
        .expect("its sites are this model's")
}

/// Bytes that the system says of process `id`, the sum over `keys`; 0 where it says nothing.
pub(crate) fn smaps(id: u32, keys: &[&str]) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let of = |line: &str| {
        let key = keys.iter().find(|key| line.starts_with(**key))?;
        let kib = line[key.len()..].split_whitespace().next()?;
        kib.parse::<f64>().ok()
    };
    1024.0 * text.lines().filter_map(of).sum::<f64>()
}

/// Writes a tokenizer of `vocab` made-up words (`w5`, `w6`, ...) to `dir`.
pub(crate) fn write_tokenizer(dir: &Path, vocab: usize) {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let words: serde_json::Map<_, _> = (0..vocab)
        .map(|i| {
            (
                special.get(i).map_or(format!("w{i}"), |s| s.to_string()),
                i.into(),
            )
        })
        .collect();
    let added: Vec<_> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            serde_json::json!({"id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": words},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string())
        .expect("a temporary directory");
}

pub(crate) fn pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().expect("threads")
}

/// Operations a second of the multipliers alone, on every thread of `pool` at once.
pub(crate) fn peak_rate(pool: &rayon::ThreadPool, precision: Precision) -> f64 {
    let start = Instant::now();
    let ops: u64 = pool
        .broadcast(|_| peak(simd::level(), precision, 400_000))
        .iter()
        .sum();
    ops as f64 / start.elapsed().as_secs_f64()
}

pub(crate) fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x.get(x.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn least(x: &[f64]) -> f64 {
    x.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Seconds that `run` takes.
pub(crate) fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// Arguments of this bench: `--check` or not, and words to choose cases by.
pub(crate) fn arguments() -> (bool, Vec<String>) {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let check = args.iter().any(|a| a == "--check");
    (
        check,
        args.into_iter().filter(|a| !a.starts_with("--")).collect(),
    )
}
