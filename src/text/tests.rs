//! Against `transformers` (recorded ids), and as an opponent: files that lie, texts nobody writes.

use std::{collections::HashMap, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use serde_json::{Value, json};

use super::*;

const NO_LIMIT: Limit = Limit {
    max: usize::MAX,
    truncate: Truncate::No,
};

/// A directory that exists only here.
fn load(files: &[(&str, Vec<u8>)]) -> Result<Tokenizer> {
    let files: HashMap<&str, &Vec<u8>> = files.iter().map(|(name, bytes)| (*name, bytes)).collect();
    Tokenizer::load(
        &|name| Ok(files.get(name).map(|b| b.to_vec())),
        Path::new("dir"),
    )
}

/// A word-piece vocabulary small enough to check by eye.
fn small() -> Vec<(&'static str, Vec<u8>)> {
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n##a\n##b\nun\n##aff\n##able\n";
    vec![("vocab.txt", vocab.as_bytes().to_vec())]
}

fn small_json() -> Value {
    let source = files::find(
        &|name| Ok((name == "vocab.txt").then(|| small()[0].1.clone())),
        Path::new("dir"),
    )
    .unwrap();
    serde_json::from_slice(&source.tokenizer_json).unwrap()
}

fn limit(max: usize, truncate: Truncate) -> Limit {
    Limit { max, truncate }
}

/// The shared tokenizer files, where they are.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/tokenizers")
        .join(name);
    if !path.is_dir() {
        println!("skipped: ../shared is absent");
        return None;
    }
    Some(path)
}

fn load_shared(name: &str, only: &[&str], config: Option<&Value>) -> Option<Tokenizer> {
    let directory = shared(name)?;
    let read = |name: &str| -> Result<Option<Vec<u8>>> {
        if let (Some(config), "tokenizer_config.json") = (config, name) {
            return Ok(Some(config.to_string().into_bytes()));
        }
        let path = directory.join(name);
        match only.contains(&name) && path.exists() {
            true => std::fs::read(&path).map(Some).map_err(Error::io(&path)),
            false => Ok(None),
        }
    };
    Some(Tokenizer::load(&read, &directory).unwrap())
}

// -- what transformers makes of it --

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/reference/tokenizer_golden.json")).unwrap()
}

/// The hash of tests/reference/tokenizer_golden.py.
fn fnv(values: impl Iterator<Item = i64>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in values.flat_map(i64::to_le_bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

fn hash(e: &Encoded) -> String {
    fnv((0..e.len()).flat_map(|i| {
        [
            i64::from(e.types[i]),
            e.offsets[i].0 as i64,
            e.offsets[i].1 as i64,
            i64::from(e.special[i]),
            e.word_ids[i].map_or(-1, i64::from),
            e.sequence[i].map_or(-1, i64::from),
        ]
    }))
}

/// Encodes all golden rows of `entry` and reports every one that differs, ids first.
fn compare(entry: &str, tokenizer: &Tokenizer) {
    let golden = golden();
    let texts: Vec<&str> = (golden["texts"].as_array().unwrap().iter())
        .map(|t| t.as_str().unwrap())
        .collect();
    let entry_rows = &golden["tokenizers"][entry];
    let mut wrong = Vec::new();
    let mut check = |what: String, encoded: Encoded, row: &Value| {
        let ids: Vec<u32> = serde_json::from_value(row[0].clone()).unwrap();
        if encoded.ids != ids {
            wrong.push(format!("{what}\n  ids {:?}\n  not {ids:?}", encoded.ids));
        } else if hash(&encoded) != row[1].as_str().unwrap() {
            wrong.push(format!("{what}\n  same ids, other {encoded:?}"));
        }
    };
    for (text, row) in texts.iter().zip(entry_rows["single"].as_array().unwrap()) {
        check(
            format!("{text:?}"),
            tokenizer.encode(text, None, NO_LIMIT).unwrap(),
            row,
        );
    }
    let rows = |key: &str| entry_rows[key].as_array().cloned().unwrap_or_default();
    for (pair, row) in golden["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&rows("pairs"))
    {
        let text = |i: usize| texts[pair[i].as_u64().unwrap() as usize];
        let encoded = tokenizer.encode(text(0), Some(text(1)), NO_LIMIT).unwrap();
        check(format!("{:?} + {:?}", text(0), text(1)), encoded, row);
    }
    for (cut, row) in golden["cuts"].as_array().unwrap().iter().zip(&rows("cuts")) {
        let text = |i: usize| cut[i].as_u64().map(|i| texts[i as usize]);
        let truncate = match cut[3].as_str().unwrap() {
            "left" => Truncate::Left,
            _ => Truncate::Right,
        };
        let limit = limit(cut[2].as_u64().unwrap() as usize, truncate);
        let encoded = tokenizer.encode(text(0).unwrap(), text(1), limit).unwrap();
        check(
            format!("{:?} + {:?} {limit:?}", text(0), text(1)),
            encoded,
            row,
        );
    }
    assert!(
        wrong.is_empty(),
        "{entry}: {} rows differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn config_of(entry: &str) -> Value {
    golden()["tokenizers"][entry]["config"].clone()
}

#[test]
fn tokenizer_json_gives_the_ids_of_transformers() {
    for (entry, directory) in [("bert", "bert-base-uncased"), ("roberta", "roberta-base")] {
        let only = [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ];
        let Some(tokenizer) = load_shared(directory, &only, None) else {
            return;
        };
        compare(entry, &tokenizer);
    }
}

#[test]
fn vocab_txt_gives_the_ids_of_transformers() {
    for entry in ["bert", "bert-cased", "bert-accents", "bert-unsplit"] {
        let config = config_of(entry);
        let config = (!config.is_null()).then_some(&config);
        let Some(tokenizer) = load_shared("bert-base-uncased", &["vocab.txt"], config) else {
            return;
        };
        compare(entry, &tokenizer);
    }
}

#[test]
fn the_configuration_overrides_tokenizer_json_as_in_transformers() {
    for entry in ["bert-cased", "bert-accents", "bert-unsplit"] {
        let only = ["tokenizer.json"];
        let config = config_of(entry);
        let Some(tokenizer) = load_shared("bert-base-uncased", &only, Some(&config)) else {
            return;
        };
        compare(entry, &tokenizer);
    }
    let config = config_of("roberta-prefix");
    let Some(tokenizer) = load_shared("roberta-base", &["tokenizer.json"], Some(&config)) else {
        return;
    };
    compare("roberta-prefix", &tokenizer);
}

#[test]
fn vocab_json_and_merges_give_the_ids_of_transformers() {
    let only = ["vocab.json", "merges.txt", "special_tokens_map.json"];
    let Some(tokenizer) = load_shared("roberta-base", &only, None) else {
        return;
    };
    compare("roberta", &tokenizer);
    let config = config_of("roberta-prefix");
    let Some(tokenizer) = load_shared("roberta-base", &only, Some(&config)) else {
        return;
    };
    compare("roberta-prefix", &tokenizer);
}

#[test]
fn truncation_and_padding_in_the_file_are_dropped() {
    let mut file = small_json();
    file["truncation"] = json!({"max_length": 3, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({
        "strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    });
    let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes(), Path::new("t")).unwrap();
    let encoded = tokenizer.encode("a b c a b", None, NO_LIMIT).unwrap();
    assert_eq!(encoded.ids, [2, 5, 6, 7, 5, 6, 3]);
}

// -- the request --

#[test]
fn a_pair_says_whose_tokens_are_whose() {
    let tokenizer = load(&small()).unwrap();
    let encoded = tokenizer
        .encode("é unaffable", Some("b"), NO_LIMIT)
        .unwrap();
    let expected = Encoded {
        ids: vec![2, 1, 10, 11, 12, 3, 6, 3],
        types: vec![0, 0, 0, 0, 0, 0, 1, 1],
        offsets: vec![
            (0, 0),
            (0, 1),
            (2, 4),
            (4, 7),
            (7, 11),
            (0, 0),
            (0, 1),
            (0, 0),
        ],
        special: vec![true, false, false, false, false, true, false, true],
        word_ids: vec![
            None,
            Some(0),
            Some(1),
            Some(1),
            Some(1),
            None,
            Some(0),
            None,
        ],
        sequence: vec![
            None,
            Some(0),
            Some(0),
            Some(0),
            Some(0),
            None,
            Some(1),
            None,
        ],
    };
    assert_eq!(encoded, expected);
}

#[test]
fn too_long_is_refused_unless_truncation_is_asked_for() {
    let tokenizer = load(&small()).unwrap();
    let too_long = |text, pair, limit| match tokenizer.encode(text, pair, limit) {
        Err(Error::TooLong { tokens, max }) => (tokens, max),
        other => panic!("{other:?}"),
    };
    assert_eq!(too_long("a b c", None, limit(4, Truncate::No)), (5, 4));
    assert_eq!(too_long("a b", Some("c"), limit(5, Truncate::No)), (6, 5));
    // Not even the special tokens fit: truncation cannot help.
    assert_eq!(too_long("a", None, limit(1, Truncate::Right)), (2, 1));
    let ids = |truncate| {
        tokenizer
            .encode("a b c", None, limit(4, truncate))
            .unwrap()
            .ids
    };
    assert_eq!(ids(Truncate::Right), [2, 5, 6, 3]);
    assert_eq!(ids(Truncate::Left), [2, 6, 7, 3]);
    let exact = tokenizer
        .encode("a b c", None, limit(5, Truncate::No))
        .unwrap();
    assert_eq!(exact.len(), 5);
}

#[test]
fn longest_first_takes_from_the_longer() {
    for (n1, n2, room, expected) in [
        (10, 2, 8, (6, 2)),
        (2, 10, 8, (2, 6)),
        (10, 10, 8, (4, 4)),
        (10, 10, 9, (4, 5)),
        (11, 10, 9, (5, 4)),
        (0, 10, 4, (0, 4)),
        (10, 10, 1, (0, 1)),
        (10, 10, 0, (0, 0)),
    ] {
        assert_eq!(longest_first(n1, n2, room), expected, "{n1} {n2} {room}");
    }
}

#[test]
fn an_empty_text_is_its_special_tokens_and_nothing_at_all_is_an_error() {
    let tokenizer = load(&small()).unwrap();
    for text in ["", " \n\t", "\u{0}"] {
        assert_eq!(
            tokenizer.encode(text, None, NO_LIMIT).unwrap().ids,
            [2, 3],
            "{text:?}"
        );
    }
    assert_eq!(
        tokenizer.encode("", Some(""), NO_LIMIT).unwrap().ids,
        [2, 3, 3]
    );
    let mut file = small_json();
    file["post_processor"] = Value::Null;
    let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes(), Path::new("t")).unwrap();
    assert!(matches!(
        tokenizer.encode("", None, NO_LIMIT),
        Err(Error::EmptyInput)
    ));
    let pair = tokenizer.encode("a", Some("b c"), NO_LIMIT).unwrap();
    assert_eq!((pair.ids, pair.types), (vec![5, 6, 7], vec![0, 1, 1]));
    assert_eq!(pair.sequence, [Some(0), Some(1), Some(1)]);
}

#[test]
fn a_batch_is_its_rows_in_order_each_with_its_own_error() {
    let tokenizer = load(&small()).unwrap();
    let tokens = AtomicUsize::new(0);
    let texts: Vec<String> = (0..200).map(|i| "a ".repeat(i % 7)).collect();
    let rows: Vec<_> = texts.iter().map(|t| (t.as_str(), None)).collect();
    let limit = limit(7, Truncate::No);
    let batch = tokenizer.encode_batch(&rows, limit, &|n| {
        tokens.fetch_add(n, Ordering::Relaxed);
    });
    let mut sum = 0;
    for (i, row) in batch.iter().enumerate() {
        match tokenizer.encode(&texts[i], None, limit) {
            Ok(alone) => {
                sum += alone.len();
                assert_eq!(row.as_ref().unwrap(), &alone);
            }
            Err(_) => assert!(matches!(row, Err(Error::TooLong { tokens: 8, max: 7 }))),
        }
    }
    assert_eq!(tokens.into_inner(), sum);
}

#[test]
fn ids_and_tokens() {
    let tokenizer = load(&small()).unwrap();
    assert_eq!(tokenizer.token_to_id("##aff"), Some(11));
    assert_eq!(tokenizer.id_to_token(11).as_deref(), Some("##aff"));
    assert_eq!(tokenizer.id_to_token(13), None);
    assert_eq!(
        (tokenizer.vocabulary_size(), tokenizer.id_limit()),
        (13, 13)
    );
    assert_eq!(tokenizer.type_limit(), 2);
    assert_eq!(
        tokenizer.decode(&[2, 10, 11, 12, 3], true).unwrap(),
        "unaffable"
    );
    assert_eq!(
        tokenizer.decode(&[2, 5, 3], false).unwrap(),
        "[CLS] a [SEP]"
    );
    let error = tokenizer.decode(&[5, 99], true).unwrap_err().to_string();
    assert!(error.ends_with("no token has id 99"), "{error}");
    let specials = tokenizer.specials();
    let expected = (Some(2), Some(3), Some(0), Some(4), Some(1));
    let found = (
        specials.cls,
        specials.sep,
        specials.pad,
        specials.mask,
        specials.unk,
    );
    assert_eq!(found, expected);
}

// -- files that lie --

/// What loading `files` says is wrong.
fn refusal(files: &[(&str, &str)]) -> String {
    let files: Vec<_> = files
        .iter()
        .map(|(n, s)| (*n, s.as_bytes().to_vec()))
        .collect();
    load(&files).expect_err("should be refused").to_string()
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let vocab = std::str::from_utf8(&small()[0].1).unwrap().to_owned();
    for (files, expected) in [
        (
            vec![],
            "dir: no tokenizer: looked for tokenizer.json, vocab.txt",
        ),
        (
            vec![("tokenizer.json", "{")],
            "dir/tokenizer.json: not a usable tokenizer: EOF",
        ),
        (
            vec![("tokenizer.json", "{}")],
            "dir/tokenizer.json: not a usable tokenizer: ",
        ),
        (
            vec![("tokenizer.json", "[]")],
            "dir/tokenizer.json: not a usable tokenizer: ",
        ),
        (
            vec![("vocab.json", "{}")],
            "dir/vocab.json: there is no merges.txt beside it",
        ),
        (
            vec![("vocab.json", "{}"), ("merges.txt", "")],
            "dir/vocab.json: the vocabulary has no \"<s>\"",
        ),
        (
            vec![("vocab.json", r#"{"a": -1}"#), ("merges.txt", "")],
            "dir/vocab.json: a: expected an id, found -1",
        ),
        (
            vec![
                ("vocab.json", r#"{"a": 1}"#),
                ("merges.txt", "#version: 0.2\nx y\nx\n"),
            ],
            "dir/merges.txt: line 3: expected two tokens, found \"x\"",
        ),
        (
            vec![("vocab.txt", "a\nb\n")],
            "dir/vocab.txt: the vocabulary has no \"[CLS]\"",
        ),
        (
            vec![("vocab.txt", &vocab), ("tokenizer_config.json", "nope")],
            "dir/tokenizer_config.json: ",
        ),
        (
            vec![
                ("vocab.txt", &vocab),
                ("tokenizer_config.json", r#"{"do_lower_case": "yes"}"#),
            ],
            "dir/tokenizer_config.json: do_lower_case: expected true or false, found \"yes\"",
        ),
        (
            vec![
                ("vocab.txt", &vocab),
                ("tokenizer_config.json", r#"{"cls_token": "<cls>"}"#),
            ],
            "dir/vocab.txt: the vocabulary has no \"<cls>\"",
        ),
        (
            vec![
                ("vocab.txt", &vocab),
                ("tokenizer_config.json", r#"{"do_basic_tokenize": false}"#),
            ],
            "dir/tokenizer_config.json: do_basic_tokenize: false is not supported",
        ),
        (
            vec![
                ("vocab.txt", &vocab),
                ("added_tokens.json", r#"{"[NEW]": 20}"#),
            ],
            "dir/vocab.txt: not a usable tokenizer: its configuration gives \"[NEW]\" id 20, and the vocabulary 13",
        ),
    ] {
        let found = refusal(&files);
        assert!(
            found.starts_with(expected),
            "{files:?}\n  says {found}\n  not  {expected}"
        );
    }
}

#[test]
fn later_tokens_are_added_at_the_ids_they_say() {
    let mut files = small();
    files.push((
        "added_tokens.json",
        br#"{"<two>": 14, "<one>": 13}"#.to_vec(),
    ));
    let tokenizer = load(&files).unwrap();
    let encoded = tokenizer.encode("a<two>b <one>", None, NO_LIMIT).unwrap();
    assert_eq!(encoded.ids, [2, 5, 14, 6, 13, 3]);
    assert_eq!(tokenizer.id_limit(), 15);
}

#[test]
fn an_added_token_with_another_id_is_refused() {
    let mut file = small_json();
    file["added_tokens"][0]["id"] = json!(7);
    let bytes = file.to_string().into_bytes();
    let error = Tokenizer::from_bytes(&bytes, Path::new("t"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"[PAD]\" should have id 7, and the vocabulary gives it 0"),
        "{error}"
    );
}

/// Templates that `tokenizers` accepts and then fails on, or whose ids are not the vocabulary's.
#[test]
fn a_template_that_names_what_is_not_there_is_refused_at_load() {
    let piece = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let mut file = small_json();
    file["post_processor"]["single"] = json!([piece("B")]);
    let load = |file: &Value| Tokenizer::from_bytes(file.to_string().as_bytes(), Path::new("t"));
    assert!(load(&file).unwrap_err().to_string().contains("it panicked"));
    let mut file = small_json();
    file["post_processor"]["special_tokens"] = json!({});
    assert!(load(&file).is_err());
    let mut file = small_json();
    file["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([4_000_000_000_u32]);
    assert_eq!(load(&file).unwrap().id_limit(), 4_000_000_001);
}

/// Every cut and many single-byte changes of a real file: an error or a tokenizer that works, never a panic.
#[test]
fn mutated_files_never_panic() {
    let good = small_json().to_string().into_bytes();
    let texts = ["", "a b unaffable", "é漢😀 [SEP] x"];
    let try_it = |bytes: &[u8]| {
        if let Ok(tokenizer) = Tokenizer::from_bytes(bytes, Path::new("t")) {
            for text in texts {
                let _ = tokenizer.encode(text, Some("b"), limit(6, Truncate::Right));
            }
        }
    };
    for cut in (0..good.len()).step_by(7) {
        try_it(&good[..cut]);
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] = [b'0', b'"', b'9', b'}', 0xff, b'B'][at % 6];
        try_it(&bytes);
    }
}

#[test]
fn long_texts_of_one_kind_end_soon() {
    let Some(tokenizer) = load_shared("roberta-base", &["tokenizer.json"], None) else {
        return;
    };
    const N: usize = 100_000;
    for unit in [
        "a", " ", "é", "漢", "😀", "a ", " \n", "'s", "1", ".", "\u{301}",
    ] {
        let text = unit.repeat(N / unit.len());
        let encoded = tokenizer
            .encode(&text, None, limit(512, Truncate::Right))
            .unwrap();
        assert!(
            encoded.len() <= 512 && encoded.len() > 2,
            "{unit:?}: {}",
            encoded.len()
        );
        let characters = text.chars().count();
        assert!(
            encoded
                .offsets
                .iter()
                .all(|&(s, e)| s <= e && e <= characters)
        );
    }
}
