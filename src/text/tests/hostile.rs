//! Files that lie: each an error that names the file, or a tokenizer that works. Never a panic.

use serde_json::{Value, json};

use super::*;

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

/// One more than it is no number: the limit would wrap to 0, and every table would seem to have a row for it.
#[test]
fn a_token_whose_id_is_the_largest_number_is_refused() {
    let load = |file: &Value| Tokenizer::from_bytes(file.to_string().as_bytes(), Path::new("t"));
    let mut file = small_json();
    file["model"]["vocab"]["a"] = json!(u32::MAX);
    let why = load(&file).unwrap_err().to_string();
    assert!(why.contains("id or type 4294967295"), "{why}");
    let mut file = small_json();
    file["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([u32::MAX]);
    let why = load(&file).unwrap_err().to_string();
    assert!(why.contains("id or type 4294967295"), "{why}");
}

#[test]
fn no_ids_are_an_empty_text() {
    let tokenizer = load(&small()).unwrap();
    let specials = tokenizer.encode("", None, NO_LIMIT).unwrap();
    assert_eq!(
        tokenizer.encode_ids(&[], NO_LIMIT).unwrap().ids,
        specials.ids
    );
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

/// As above with the models of SentencePiece, which are read here and not by `tokenizers`.
#[test]
fn mutated_sentencepiece_models_never_panic() {
    for (name, good) in [
        ("spm.model", SMALL_DEBERTA),
        ("sentencepiece.bpe.model", SMALL_XLM),
    ] {
        let mut loaded = 0;
        let mut try_it = |bytes: Vec<u8>| {
            if let Ok(tokenizer) = load(&[(name, bytes)]) {
                loaded += 1;
                let _ = tokenizer.encode(
                    "Ａﬁ the word <user>\u{a0}x",
                    Some("b"),
                    limit(9, Truncate::Left),
                );
            }
        };
        for cut in (0..good.len()).step_by(41) {
            try_it(good[..cut].to_vec());
        }
        for at in (0..good.len()).step_by(11) {
            let mut bytes = good.to_vec();
            bytes[at] = [0, 0xff, 0x7f, 0x80, b'x'][at % 5];
            try_it(bytes);
        }
        assert!(
            loaded > 50,
            "the changes should not all be refused: {loaded}"
        );
    }
}

/// A model of another kind, or with another treatment of spaces, would give other ids.
#[test]
fn a_sentencepiece_model_that_would_be_misread_is_refused() {
    // Protobuf takes the last of a repeated message's fields: what is appended overrides.
    let refused = |more: &[u8]| {
        let bytes = [SMALL_DEBERTA, more].concat();
        load(&[("spm.model", bytes)]).unwrap_err().to_string()
    };
    let bpe = refused(&[0x12, 2, 3 << 3, 2]);
    assert!(
        bpe.contains("a SentencePiece model of another kind is not supported"),
        "{bpe}"
    );
    let spaces = refused(&[0x1a, 2, 4 << 3, 0]);
    assert!(
        spaces.contains("its treatment of spaces is not supported"),
        "{spaces}"
    );
    let unknown = refused(&[0x12, 4, 0xc0, 2, 0xff, 0x7f]);
    assert!(
        unknown.contains("its unknown token is 16383 of "),
        "{unknown}"
    );
    let score = refused(&[0x0a, 6, 0x15, 0, 0, 0xc0, 0x7f, 0]);
    assert!(score.contains("not a SentencePiece model"), "{score}");
}
