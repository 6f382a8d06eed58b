//! Against `transformers`: ids, types, offsets, masks, word ids and sequences as tests/reference recorded them.

use serde_json::Value;

use super::*;

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

fn golden() -> Value {
    serde_json::from_str(include_str!(
        "../../../tests/reference/tokenizer_golden.json"
    ))
    .unwrap()
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
    let first = wrong
        .iter()
        .take(8)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        wrong.is_empty(),
        "{entry}: {} rows differ, first:\n{first}",
        wrong.len()
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
    // Its tokenizer.json has BERT's vocabulary, truncates and pads to 128: neither happens here.
    let minilm = "../models/all-MiniLM-L6-v2";
    let Some(tokenizer) = load_shared(minilm, &["tokenizer.json"], None) else {
        return;
    };
    compare("bert", &tokenizer);
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
fn two_separators_between_two_texts() {
    let config = config_of("mpnet");
    let Some(tokenizer) = load_shared("bert-base-uncased", &["vocab.txt"], Some(&config)) else {
        return;
    };
    compare("mpnet", &tokenizer);
}

#[test]
fn a_sentencepiece_model_gives_the_ids_of_transformers() {
    for (entry, name, model) in [
        ("small-deberta", "spm.model", SMALL_DEBERTA),
        ("small-xlm", "sentencepiece.bpe.model", SMALL_XLM),
    ] {
        compare(entry, &load(&[(name, model.to_vec())]).unwrap());
    }
    let Some(tokenizer) = load_shared("deberta-v3", &["spm.model"], None) else {
        return;
    };
    compare("deberta", &tokenizer);
    assert_eq!(
        (tokenizer.specials().mask, tokenizer.id_limit()),
        (Some(128_000), 128_001)
    );
}

#[test]
fn long_texts_of_one_kind_end_soon() {
    let long = |tokenizer: &Tokenizer| {
        const N: usize = 40_000;
        for unit in [
            "a", " ", "é", "漢", "😀", "a ", " \n", "'s", "1", ".", "\u{301}",
        ] {
            let text = unit.repeat(N / unit.len());
            let encoded = tokenizer
                .encode(&text, None, limit(512, Truncate::Right))
                .unwrap();
            assert!(encoded.len() <= 512, "{unit:?}: {}", encoded.len());
            let characters = text.chars().count();
            assert!(
                encoded
                    .offsets
                    .iter()
                    .all(|&(s, e)| s <= e && e <= characters)
            );
        }
    };
    for (directory, file) in [
        ("roberta-base", "tokenizer.json"),
        ("bert-base-uncased", "vocab.txt"),
        ("deberta-v3", "spm.model"),
    ] {
        let Some(tokenizer) = load_shared(directory, &[file], None) else {
            return;
        };
        long(&tokenizer);
    }
}
