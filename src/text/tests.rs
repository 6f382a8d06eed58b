//! The request: limits, pairs, batches. `golden` compares with `transformers`, `hostile` brings files that lie.

mod golden;
mod hostile;

use std::{collections::HashMap, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use serde_json::{Value, json};

use super::*;

const NO_LIMIT: Limit = Limit {
    max: usize::MAX,
    truncate: Truncate::No,
};

/// Models of some hundred pieces, made by tests/reference/tokenizer_golden.py.
const SMALL_DEBERTA: &[u8] = include_bytes!("../../tests/reference/small-deberta.spm.model");
const SMALL_XLM: &[u8] = include_bytes!("../../tests/reference/small-xlm.spm.model");

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
