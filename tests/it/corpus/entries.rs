//! The doors through which outside bytes come in, each as one function of bytes: what `fuzz/` runs, and what the corpus of
//! past crashes is replayed through. A door must answer or refuse: a panic, a number that is not finite behind a
//! successful load, memory or time without bound are what is looked for.
//!
//! Not here: what the refusals say (the tests of each reader).

use std::{
    cell::OnceCell,
    io::Cursor,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use sorank::{
    adapter::{Adapter, AdapterFiles, SoraImport},
    cli,
    engine::{Aggregation, Answer, Engine, Want},
    error::Result,
    kernel::panel::{PanelShape, Precision},
    model::{Batch, LoadOptions, Model, Sequence},
    spec::{EncoderSpec, SentenceSpec},
    text::{Limit, Tokenizer, Truncate},
    weights::{Cache, PackOptions, Packed, Source, Tensors, header, sidecar},
};

/// A door and its name, which is that of its fuzz target and of its folder of inputs.
pub(crate) type Door = (&'static str, fn(&[u8]));

/// Every door.
pub(crate) const DOORS: [Door; 6] = [
    ("safetensors", safetensors),
    ("adapter_config", adapter_config),
    ("model_config", model_config),
    ("tokenizer", tokenizer),
    ("unpickle", unpickle),
    ("rows", rows),
];

/// What stands between the files of one input.
const NEXT_FILE: &[u8] = b"\n%%\n";

/// The files of an input, in order; an absent one is empty.
fn files<const N: usize>(mut data: &[u8]) -> [&[u8]; N] {
    let mut out = [&[][..]; N];
    for (i, file) in out.iter_mut().enumerate() {
        let end = data.windows(NEXT_FILE.len()).position(|w| w == NEXT_FILE);
        match end.filter(|_| i + 1 < N) {
            Some(end) => (*file, data) = (&data[..end], &data[end + NEXT_FILE.len()..]),
            None => (*file, data) = (data, &[]),
        }
    }
    out
}

/// The repository, from either crate that compiles this file.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    match env!("CARGO_PKG_NAME") == "sorank-fuzz" {
        true => here.parent().expect("fuzz/ stands in the repository"),
        false => here,
    }
}

/// A BERT of a few hundred numbers, an adapter of it and a head alone, made by `fuzz/seeds.py`.
const SMALL_CONFIG: &[u8] = include_bytes!("../../corpus/small/config.json");
const SMALL_WEIGHTS: &[u8] = include_bytes!("../../corpus/small/model.safetensors");
const SMALL_LINEAR: &str = "encoder.layer.0.attention.self.query.weight";
const SMALL_ADAPTER: &[u8] = include_bytes!("../../corpus/small/adapter_config.json");
const HEAD_ALONE: &[u8] = include_bytes!("../../corpus/small/head.safetensors");

static SMALL: LazyLock<Model> = LazyLock::new(|| {
    let files = [
        ("config.json", SMALL_CONFIG),
        ("model.safetensors", SMALL_WEIGHTS),
    ];
    load(&scratch("small", &files)).expect("a whole model")
});

fn options() -> LoadOptions<'static> {
    let pack = PackOptions {
        cache: Cache::None,
        ..PackOptions::default()
    };
    LoadOptions {
        pack,
        ..LoadOptions::default()
    }
}

fn load(dir: &Path) -> Result<Model> {
    Model::load(Source::dir(dir)?, &options())
}

thread_local! {
    static SCRATCH: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// A directory of this thread's own, with these files of a door in it; an empty one is none.
fn scratch(door: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let dir = SCRATCH.with(|dir| {
        let dir = dir.get_or_init(|| tempfile::tempdir().expect("a directory"));
        dir.path().join(door)
    });
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("it is in `dir`")).expect("a directory");
        if bytes.is_empty() {
            let _ = std::fs::remove_file(path);
        } else {
            std::fs::write(path, bytes).expect("written");
        }
    }
    dir
}

/// The built-in base with its adapters.
static TINY: LazyLock<(Engine, Vec<(&str, AdapterFiles)>)> = LazyLock::new(|| {
    let dir = root().join("models/tiny/base");
    let read = |name: &str| Ok(std::fs::read(dir.join(name)).ok());
    let tokenizer = Tokenizer::load(&read, &dir).expect("the built-in tokenizer");
    let model = load(&dir).expect("the built-in model");
    let engine = Engine::new(model, tokenizer, 4096).expect("they belong together");
    let adapters = sorank::embedded::adapters();
    for (name, files) in &adapters {
        let adapter = files.adapter(Path::new(name)).expect("a built-in adapter");
        let task = engine.model().bind(name, &adapter).expect("made for it");
        engine.registry().insert(name, task);
    }
    (engine, adapters)
});

/// Runs a few tokens through a model, the longest sequence it takes among them where that is short.
fn run(model: &Model) {
    let vocab = u32::try_from(model.spec().vocab).expect("bounded");
    let Ok(task) = model.base_task() else { return };
    for n in [1, 3, model.max_tokens().min(200)] {
        let ids: Vec<u32> = (0..n as u32).map(|i| (i * 7) % vocab).collect();
        let sequence = Sequence {
            ids: &ids,
            types: &vec![0; n],
            task: 0,
        };
        let hidden = model.forward(&Batch::pack([sequence]), &[&task], &mut ());
        assert_eq!((hidden.rows(), hidden.cols()), (n, model.spec().hidden));
    }
}

fn assert_finite(adapter: &Adapter) {
    for (path, f) in &adapter.factors {
        let mut all = f.a.as_slice().iter().chain(f.b.as_slice());
        assert!(f.scale.is_finite(), "{path}: {}", f.scale);
        assert!(all.all(|x| x.is_finite()), "{path}");
    }
    for (name, tensor) in &adapter.saved {
        assert!(tensor.data.iter().all(|x| x.is_finite()), "{name}");
    }
}

/// `model.safetensors` of a small BERT; a packed file of the cache; an adapter's weights.
fn safetensors(data: &[u8]) {
    let shown = Path::new("fuzzed");
    let header = header::read(data, shown);
    let dir = scratch(
        "safetensors",
        &[("config.json", SMALL_CONFIG), ("model.safetensors", data)],
    );
    let source = Source::dir(&dir).expect("a directory");
    let opened = Tensors::open(&source);
    assert_eq!(opened.is_ok(), Tensors::open_in_memory(&source).is_ok());
    if !data.is_empty() {
        assert_eq!(opened.is_ok(), header.is_ok());
    }
    if let Ok(tensors) = opened {
        tensors.fingerprint();
        let mut slots = Vec::new();
        for t in tensors.iter() {
            let decoded = t.to_f32();
            assert!(decoded.as_ref().map_or(0, Vec::len) <= data.len());
            if let Ok(table) = t.table() {
                let mut row = vec![0.0; table.cols()];
                (0..table.rows().min(1000)).for_each(|i| table.row(i, &mut row));
                let shape = PanelShape {
                    n: table.rows(),
                    k: table.cols(),
                    precision: Precision::F32,
                    tight: false,
                };
                if shape.n > 0 && shape.k > 0 && shape.bytes() < 1 << 22 {
                    slots.push((t.name.to_owned(), shape));
                }
            }
        }
        let fill = |slot: usize| {
            let (name, shape) = &slots[slot];
            let tensor = tensors.get(name).expect("a name of its own");
            tensor.matrix(shape.n, shape.k)
        };
        let packed = Packed::open_or_build(&tensors, &slots, &fill, &options().pack);
        if let Ok(packed) = packed {
            (0..packed.slots()).for_each(|s| _ = packed.panels(s));
        }
    }
    if let Ok(model) = load(&dir) {
        run(&model);
    }
    packed_file(data);
    if let Ok(adapter) = Adapter::from_bytes(SMALL_ADAPTER, data, None, shown) {
        assert_finite(&adapter);
        _ = SMALL.bind("fuzzed", &adapter);
    }
}

/// A packed file as the cache would hold it. Its header bears a checksum, so little else is ever reached by chance.
fn packed_file(data: &[u8]) {
    let shown = Path::new("fuzzed");
    if sidecar::check(data, shown).is_err() {
        return;
    }
    let dir = scratch("packed_file", &[("model.safetensors", SMALL_WEIGHTS)]);
    let source = Source::dir(&dir).expect("a directory");
    let tensors = Tensors::open(&source).expect("a whole file");
    let t = tensors.get(SMALL_LINEAR).expect("it is there");
    let (n, k) = (t.shape[0], t.shape[1]);
    let shape = PanelShape {
        n,
        k,
        precision: Precision::F32,
        tight: false,
    };
    let open = || {
        let pack = PackOptions {
            cache: Cache::Dir(&dir),
            ..PackOptions::default()
        };
        let fill = |_| t.matrix(n, k);
        Packed::open_or_build(&tensors, &[("x".to_owned(), shape)], &fill, &pack)
    };
    let path = open().expect("packed").path().map(Path::to_owned);
    std::fs::write(path.expect("in the cache"), data).expect("written");
    open().expect("read, or packed anew").panels(0);
}

/// `adapter_config.json`, `labels.json`: against the built-in base, with the weights of one of its adapters, and with
/// weights that are a head alone, so that every site is asked whether it is targeted.
fn adapter_config(data: &[u8]) {
    let [config, labels] = files(data);
    let labels = (!labels.is_empty()).then_some(labels);
    let (engine, adapters) = &*TINY;
    let (_, one) = &adapters[data.len() % adapters.len()];
    for weights in [one.weights.as_slice(), HEAD_ALONE] {
        let shown = Path::new("fuzzed");
        if let Ok(adapter) = Adapter::from_bytes(config, weights, labels, shown) {
            assert_finite(&adapter);
            _ = engine.model().bind("fuzzed", &adapter);
        }
    }
}

/// `config.json`, `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`,
/// `config_sentence_transformers.json`: read, then loaded with the weights of the family's fixture.
fn model_config(data: &[u8]) {
    let [config, modules, pooling, limit, prompts] = files(data);
    let shown = Path::new("fuzzed");
    let family = match EncoderSpec::parse(config, shown) {
        Ok(spec) if spec.family == "new" => "gte".to_owned(),
        Ok(spec) => spec.family,
        Err(_) => "bert".to_owned(), // the sentence files are read in any case
    };
    let weights = root().join(format!("models/golden/{family}/base/model.safetensors"));
    let dir = scratch(
        &format!("model_config/{family}"),
        &[
            ("config.json", config),
            ("modules.json", modules),
            ("1_Pooling/config.json", pooling),
            ("sentence_bert_config.json", limit),
            ("config_sentence_transformers.json", prompts),
        ],
    );
    let beside = dir.join("model.safetensors");
    if !beside.exists() {
        std::fs::copy(&weights, &beside).expect("every family has a fixture");
    }
    let source = Source::dir(&dir).expect("a directory");
    _ = SentenceSpec::read(&source);
    if let Ok(model) = load(&dir) {
        run(&model);
    }
}

/// The first byte says which files follow, with `tokenizer_config.json` behind them and `special_tokens_map.json` and
/// `added_tokens.json` behind that.
fn tokenizer(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let [main, config, special, added, merges] = files(data);
    let name = match kind {
        b'w' => "vocab.txt",
        b'b' => "vocab.json",
        b's' => "spm.model",
        b'x' => "sentencepiece.bpe.model",
        _ => "tokenizer.json",
    };
    let there = [
        (name, main),
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", special),
        ("added_tokens.json", added),
        ("merges.txt", merges),
    ];
    let read = |name: &str| {
        let found = there.iter().find(|f| f.0 == name && !f.1.is_empty());
        Ok(found.map(|f| f.1.to_vec()))
    };
    let Ok(tokenizer) = Tokenizer::load(&read, Path::new("fuzzed")) else {
        return;
    };
    let long = "naïve façade, 漢字 e\u{301} \u{1f469}\u{200d}\u{1f680} don't  stop\n".repeat(3);
    for (text, pair) in [
        ("", None),
        ("a b", Some("[MASK] <mask> 1")),
        (&long, Some(long.as_str())),
    ] {
        for truncate in [Truncate::No, Truncate::Left, Truncate::Right] {
            let Ok(row) = tokenizer.encode(text, pair, Limit { max: 12, truncate }) else {
                continue;
            };
            assert!(row.len() <= 12);
            assert!(row.ids.iter().all(|&id| id < tokenizer.id_limit()));
            assert!(row.types.iter().all(|&t| t < tokenizer.type_limit()));
            let texts = [text, pair.unwrap_or_default()].map(|t| t.chars().count());
            for (i, &(start, end)) in row.offsets.iter().enumerate() {
                let of = texts[usize::from(row.sequence[i].unwrap_or(0))];
                assert!(
                    start <= end && end <= of,
                    "{start}..{end} of {of} characters"
                );
            }
            let limit = Limit { max: 12, truncate };
            for ids in [&row.ids[..], &row.ids[..row.len() / 2], &[]] {
                if let Ok(laid) = tokenizer.encode_ids(ids, limit) {
                    assert!(!laid.is_empty() && laid.len() <= 12);
                }
            }
            _ = tokenizer.decode(&row.ids, truncate == Truncate::Left);
            let tokens = row.ids.iter().filter_map(|&id| tokenizer.id_to_token(id));
            tokenizer.join(&tokens.collect::<Vec<_>>());
        }
    }
}

/// A checkpoint of `torch.save`, or a bare pickle, as `sorank import` reads it.
fn unpickle(data: &[u8]) {
    let dir = scratch("unpickle", &[("pytorch_model.bin", data)]);
    let from = dir.join("pytorch_model.bin");
    if let Ok((adapter, report)) = Adapter::import_sora(&from, &SoraImport::default()) {
        assert_finite(&adapter);
        assert_eq!(adapter.saved.len(), report.head.len());
        assert!(adapter.parameters() <= data.len());
    }
}

/// Rows as JSON lines, as stdin, as a table; and queries for `rerank`. Answered by the built-in model where they are few.
fn rows(data: &[u8]) {
    let engine = &TINY.0;
    let wants = [
        Want::Classes,
        Want::Embedding,
        Want::Tags(Aggregation::Simple),
    ];
    let want = wants[data.len() % wants.len()];
    for ending in ["jsonl", "-", "csv", "tsv"] {
        let reader = Box::new(Cursor::new(data.to_vec()));
        for answers in cli::answer_input(engine, want, ending, reader, FEW) {
            assert!(!answers.is_empty(), "a row without an answer or an error");
            for answer in answers.into_iter().flatten() {
                assert_ne!(
                    answer,
                    Answer::Overflow,
                    "the built-in model answers numbers"
                );
            }
        }
    }
    let reader = Box::new(Cursor::new(data.to_vec()));
    cli::answer_queries(engine, reader, FEW);
}

/// The most answers of an input that are computed; the rest is only read.
const FEW: usize = 8;
