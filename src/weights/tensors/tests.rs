//! Checkpoints: good ones, and every way a file can lie.

use std::{fs::File, path::PathBuf};

use half::bf16;
use tempfile::TempDir;

use super::*;

/// A safetensors file of this header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn info(shape: &[usize], from: usize, to: usize) -> String {
    format!(r#"{{"dtype":"F32","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// One tensor `name` of `values`.
fn one(name: &str, values: &[f32]) -> Vec<u8> {
    let info = info(&[values.len()], 0, values.len() * 4);
    file(&format!(r#"{{"{name}":{info}}}"#), &floats(values))
}

fn directory(files: &[(&str, &[u8])]) -> (TempDir, Source) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let source = Source::dir(dir.path()).unwrap();
    (dir, source)
}

fn open(files: &[(&str, &[u8])]) -> Result<Tensors> {
    let (_dir, source) = directory(files);
    Tensors::open(&source)
}

fn refused(bytes: &[u8]) -> String {
    open(&[(WHOLE, bytes)]).unwrap_err().to_string()
}

#[test]
fn every_float_type_comes_out_as_f32_from_any_offset() {
    // An odd header length puts every element at an odd address.
    let n = 700; // more than two blocks of the F16 conversion
    let numbers: Vec<f32> = (0..n).map(|i| (i as f32 - 350.0) / 16.0).collect();
    let mut data = floats(&numbers);
    data.extend(numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()));
    data.extend(
        numbers
            .iter()
            .flat_map(|&x| bf16::from_f32(x).to_le_bytes()),
    );
    for pad in 0..4 {
        let header = format!(
            r#"{{"w":{{"dtype":"F32","shape":[{n}],"data_offsets":[0,{}]}},"h":{{"dtype":"F16","shape":[7,100],"data_offsets":[{},{}]}},"b":{{"dtype":"BF16","shape":[7,100],"data_offsets":[{},{}]}}}}{}"#,
            4 * n,
            4 * n,
            6 * n,
            6 * n,
            8 * n,
            " ".repeat(pad)
        );
        let tensors = open(&[(WHOLE, &file(&header, &data))]).unwrap();
        let get = |name| tensors.get(name).unwrap();
        assert_eq!(get("w").values(&[n]).unwrap(), numbers);
        assert_eq!(get("h").values(&[7, 100]).unwrap(), numbers);
        let rounded: Vec<f32> = numbers
            .iter()
            .map(|&x| bf16::from_f32(x).to_f32())
            .collect();
        assert_eq!(get("b").values(&[7, 100]).unwrap(), rounded);
        let mut row = vec![0.0; 100];
        get("h").row_f32(3, &mut row).unwrap();
        assert_eq!(row, numbers[300..400]);
        let table = get("b").table().unwrap();
        assert_eq!((table.rows(), table.cols()), (7, 100));
        table.row(6, &mut row);
        assert_eq!(row, rounded[600..]);
        assert_eq!(tensors.names().collect::<Vec<_>>(), ["b", "h", "w"]);
        assert_eq!(tensors.bytes(), 8 * n as u64);
    }
}

#[test]
fn broken_files_are_refused_with_the_reason() {
    let good = one("w", &[1.0, 2.0]);
    let ask = |text: &str, bytes: &[u8]| {
        let message = refused(bytes);
        assert!(
            message.contains(text) && message.contains(WHOLE),
            "{text}: {message}"
        );
    };
    ask("only 0 bytes", &[]);
    ask("only 5 bytes", &good[..5]);
    ask("cut short", &good[..20]);
    ask(
        "describes 8 bytes of tensors and the file has 7",
        &good[..good.len() - 1],
    );
    ask("has 9 after the header", &[&good[..], &[0]].concat());
    ask("claims", &u64::MAX.to_le_bytes());
    ask(
        "git lfs pull",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    );
    ask(
        "claims",
        &[&(LIMIT_PLUS_ONE).to_le_bytes()[..], &[b' '; 64]].concat(),
    );
    let bad = |header: &str| file(header, &[0; 8]);
    ask("expected", &bad("no json"));
    ask("expected", &bad("[]"));
    ask("EOF", &bad(r#"{"w":"#));
    let (whole, half, other) = (info(&[2], 0, 8), info(&[1], 0, 4), info(&[1], 4, 8));
    ask(
        "\"w\" stands twice",
        &bad(&format!(r#"{{"w":{half},"w":{other}}}"#)),
    );
    ask(
        "does not begin where",
        &bad(&format!(r#"{{"a":{half},"b":{whole}}}"#)),
    ); // overlap
    ask("does not begin where", &bad(&format!(r#"{{"b":{other}}}"#))); // hole
    ask(
        "length of a tensor",
        &bad(&format!(r#"{{"w":{}}}"#, info(&[3], 0, 8))),
    );
    ask(
        "does not begin where",
        &bad(&format!(r#"{{"w":{}}}"#, info(&[2], 8, 0))),
    );
    let giant = format!(r#"{{"w":{}}}"#, info(&[usize::MAX, usize::MAX], 0, 8));
    ask("overflow", &bad(&giant));
    ask("unknown variant", &bad(&whole_of_type("F31")));
    ask(
        "expected",
        &bad(r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#),
    );
    let deep = format!(r#"{{"w":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let message = refused(&bad(&deep));
    assert!(message.len() < 500, "{message}");
    let mut text = good.clone();
    text[10] = 0xff; // in the name
    ask("unicode", &text);
}

const LIMIT_PLUS_ONE: u64 = header::LIMIT + 1;

fn whole_of_type(dtype: &str) -> String {
    format!(r#"{{"w":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,8]}}}}"#)
}

/// Any cut of a good file is an error, and no single changed byte of its header makes it panic.
#[test]
fn cuts_and_flips_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let good = one("w", &[1.0, 2.0, 3.0]);
    for len in 0..good.len() {
        assert!(header::read(&good[..len], &path).is_err(), "{len} bytes");
    }
    for at in 0..good.len() - 12 {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let _ = header::read(&bad, &path);
        }
    }
}

#[test]
fn a_tensor_that_is_not_what_it_should_be_is_named() {
    let mut bytes = file(&whole_of_type("I32"), &[0; 8]);
    let tensors = open(&[(WHOLE, &bytes)]).unwrap();
    let error = tensors.get("w").unwrap().to_f32().unwrap_err().to_string();
    assert!(error.contains("tensor w is stored as I32"), "{error}");
    assert!(tensors.get("w").unwrap().table().is_err());

    bytes = one("w", &[1.0, f32::NAN, f32::INFINITY]);
    let tensors = open(&[(WHOLE, &bytes)]).unwrap();
    let w = tensors.get("w").unwrap();
    let error = w.values(&[3]).unwrap_err().to_string();
    assert!(error.contains("tensor w holds NaN at element 1"), "{error}");
    let error = w.values(&[3, 1]).unwrap_err().to_string();
    assert!(
        error.contains("tensor w has shape [3], expected [3, 1]"),
        "{error}"
    );
    assert!(w.table().is_err(), "a vector is no table");

    let mut long = vec![0.0; 10_000];
    assert_eq!(first_not_finite(&long), None);
    long[9_999] = f32::NEG_INFINITY;
    assert_eq!(first_not_finite(&long), Some(9_999));
}

#[test]
fn shards_are_read_as_one_checkpoint() {
    let index = br#"{"metadata":{"total_size":12},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    let (a, b) = (one("a", &[1.0]), one("b", &[2.0, 3.0]));
    let shards: [(&str, &[u8]); 3] = [
        (INDEX, index),
        ("model-1.safetensors", &a),
        ("model-2.safetensors", &b),
    ];
    let (_dir, source) = directory(&shards);
    for tensors in [Tensors::open(&source), Tensors::open_in_memory(&source)] {
        let tensors = tensors.unwrap();
        assert_eq!(tensors.get("b").unwrap().values(&[2]).unwrap(), [2.0, 3.0]);
        assert_eq!(tensors.files().unwrap().len(), 2);
        // The same tensors in one file have the same content hash.
        let header = format!(r#"{{"a":{},"b":{}}}"#, info(&[1], 0, 4), info(&[2], 4, 12));
        let whole = file(&header, &floats(&[1.0, 2.0, 3.0]));
        let whole = open(&[(WHOLE, &whole)]).unwrap();
        assert_eq!(tensors.fingerprint(), whole.fingerprint());
        assert_eq!(whole.fingerprint().len(), 64);
    }
    // model.safetensors comes first where both are there.
    let both = open(&[shards[0], shards[1], shards[2], (WHOLE, &a)]).unwrap();
    assert!(!both.contains("b"));
}

#[test]
fn the_fingerprint_is_of_names_types_shapes_and_bytes() {
    let print = |bytes: &[u8]| open(&[(WHOLE, bytes)]).unwrap().fingerprint().to_owned();
    let all = [
        print(&one("w", &[1.0, 2.0])),
        print(&one("v", &[1.0, 2.0])),
        print(&one("w", &[1.0, 2.5])),
        print(&file(
            &format!(r#"{{"w":{}}}"#, info(&[2, 1], 0, 8)),
            &floats(&[1.0, 2.0]),
        )),
        print(&file(&whole_of_type("I32"), &floats(&[1.0, 2.0]))),
    ];
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
    // Metadata and the order of tensors in the file do not enter.
    let spaced = file(
        &format!(
            r#"{{"__metadata__":{{"format":"pt"}}, "w":{}}}"#,
            info(&[2], 0, 8)
        ),
        &floats(&[1.0, 2.0]),
    );
    assert_eq!(print(&spaced), all[0]);
}

#[test]
fn an_index_that_lies_is_refused() {
    let (a, b) = (one("a", &[1.0]), one("b", &[2.0]));
    let ask = |index: &str, text: &str| {
        let files: [(&str, &[u8]); 3] = [
            (INDEX, index.as_bytes()),
            ("a.safetensors", &a),
            ("b.safetensors", &b),
        ];
        let message = open(&files).unwrap_err().to_string();
        assert!(message.contains(text), "{text}: {message}");
    };
    for name in [
        "../a.safetensors",
        "/etc/a.safetensors",
        "sub/a.safetensors",
        "..",
        "",
        "c:a.safetensors",
        "..\\\\a.safetensors",
        "a.bin",
    ] {
        let index = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
        ask(&index, "expected names of .safetensors files");
    }
    ask(r#"{"weight_map":{"a":"b.safetensors"}}"#, "lacks tensor a");
    ask(r#"{"weight_map":{"c":"a.safetensors"}}"#, "lacks tensor c");
    ask(
        r#"{"weight_map":{"a":"c.safetensors"}}"#,
        "c.safetensors, which is not there",
    );
    ask(
        r#"{"weight_map":{"a":"a.safetensors","a":"b.safetensors"}}"#,
        "stands twice",
    );
    ask(r#"{"weight_map":{}}"#, "names no tensor");
    ask(r#"{"weight_map":{"a":1}}"#, "not an index of shards");
    ask("{}", "weight_map");
    ask("[", "not an index of shards");

    let index = r#"{"weight_map":{"a":"a.safetensors","b":"b.safetensors"}}"#;
    let twice = file(
        &format!(r#"{{"a":{},"b":{}}}"#, info(&[1], 0, 4), info(&[1], 4, 8)),
        &[0; 8],
    );
    let files: [(&str, &[u8]); 3] = [
        (INDEX, index.as_bytes()),
        ("a.safetensors", &a),
        ("b.safetensors", &twice),
    ];
    let message = open(&files).unwrap_err().to_string();
    assert!(
        message.contains("tensor a is also in a.safetensors"),
        "{message}"
    );
}

#[test]
fn a_directory_without_safetensors_says_what_to_do() {
    let message = open(&[("pytorch_model.bin", b"x")])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("pytorch_model.bin") && message.contains("save_pretrained"),
        "{message}"
    );
    let message = open(&[]).unwrap_err().to_string();
    assert!(
        message.contains(WHOLE) && message.contains(INDEX),
        "{message}"
    );
    let embedded = Source::Embedded(&[("config.json", b"{}")]);
    assert!(Tensors::open(&embedded).is_err());
    let (_dir, source) = directory(&[]);
    assert!(
        Tensors::open_file(&source, "adapter_model.safetensors")
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_sparse_giant_costs_nothing() {
    let (dir, source) = directory(&[]);
    let giant = File::create(dir.path().join(WHOLE)).unwrap();
    giant.set_len(1 << 35).unwrap();
    for opened in [Tensors::open(&source), Tensors::open_in_memory(&source)] {
        assert!(opened.is_err());
    }
    // With an honest header, of a tensor that no encoder has.
    let elements = 1 << 38;
    let entry = info(&[elements], 0, 4 * elements);
    let bytes = file(&format!(r#"{{"w":{entry}}}"#), &[]);
    std::fs::write(dir.path().join(WHOLE), &bytes).unwrap();
    let giant = File::options().write(true).open(dir.path().join(WHOLE));
    let length = (bytes.len() + 4 * elements) as u64;
    giant.unwrap().set_len(length).unwrap();
    for opened in [Tensors::open(&source), Tensors::open_in_memory(&source)] {
        let error = opened.unwrap_err().to_string();
        assert!(error.contains("expected at most 68719476736"), "{error}");
    }
}

#[test]
fn a_real_checkpoint_reads() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/models/all-MiniLM-L6-v2");
    if !dir.exists() {
        eprintln!("skipped: ../shared is absent");
        return;
    }
    let tensors = Tensors::open(&Source::dir(dir).unwrap()).unwrap();
    let word = tensors.get("embeddings.word_embeddings.weight").unwrap();
    assert_eq!(word.shape, [30522, 384]);
    word.values(&[30522, 384]).unwrap();
}
