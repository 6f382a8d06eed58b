//! What a configuration may say, and what is refused; families and golden checkpoints have their own files.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::weights::Source;

mod families;
mod golden;

fn parse(config: &Value) -> Result<EncoderSpec> {
    EncoderSpec::parse(config.to_string().as_bytes(), Path::new("m/config.json"))
}

fn refusal(config: &Value) -> String {
    match parse(config) {
        Ok(_) => panic!("not refused: {config}"),
        Err(e) => e.to_string(),
    }
}

/// The golden bases: name and directory.
fn golden_bases() -> Vec<(String, PathBuf)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/golden");
    let entries = std::fs::read_dir(root).unwrap().map(|e| e.unwrap());
    let mut all: Vec<_> = entries
        .map(|e| (e.file_name().into_string().unwrap(), e.path().join("base")))
        .filter(|(_, base)| base.join("config.json").exists())
        .collect();
    all.sort();
    assert!(all.len() >= 12, "{all:?}");
    all
}

fn golden_config(base: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(base.join("config.json")).unwrap()).unwrap()
}

fn bert() -> Value {
    json!({
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": false,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "transformers_version": "4.6.0.dev0",
        "type_vocab_size": 2,
        "use_cache": true,
        "vocab_size": 30522
    })
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

#[test]
fn bert_is_read_as_it_is() {
    let spec = parse(&bert()).unwrap();
    assert_eq!(
        (spec.vocab, spec.hidden, spec.heads, spec.ffn),
        (30522, 768, 12, 3072)
    );
    assert_eq!(
        (spec.layers.len(), spec.max_tokens, spec.pad_id),
        (12, 512, 0)
    );
    assert_eq!(spec.embed.positions, Positions::FromZero { rows: 512 });
    assert_eq!(spec.layers[0].order, Order::Post);
    assert_eq!(spec.layers[11].weights_of, 11);
    assert_eq!(spec.norm_eps, 1e-12);
    assert_eq!(
        (spec.own_head, spec.problem, spec.labels.len()),
        (None, None, 0)
    );
    // With nothing but its type, the defaults of the class.
    assert_eq!(parse(&json!({"model_type": "bert"})).unwrap(), spec);
}

/// All that old versions of transformers could write besides, at values that do nothing.
#[test]
fn old_and_foreign_keys_that_do_nothing_pass() {
    let mut config = bert();
    let more = json!({
        "_name_or_path": "x", "directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform",
        "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
        "add_cross_attention": false, "bad_words_ids": null, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0,
        "is_decoder": false, "is_encoder_decoder": false, "length_penalty": 1.0, "max_length": 20, "num_beams": 1,
        "pruned_heads": {}, "repetition_penalty": 1.0, "return_dict": true, "temperature": 1.0, "top_k": 50,
        "top_p": 1.0, "tie_word_embeddings": true, "torch_dtype": "float16", "dtype": "float32",
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}, "quantization_config": null,
        "use_flash_attention": false, "finetuning_task": "sst-2", "problem_type": null,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let spec = parse(&config).unwrap();
    assert_eq!(spec.labels, ["LABEL_0", "LABEL_1"]);
    let plain = parse(&bert()).unwrap();
    assert_eq!(
        EncoderSpec {
            labels: Vec::new(),
            ..spec
        },
        plain
    );
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    let cases = [
        ("position_embedding_type", json!("relative_key"), "absolute"),
        ("is_decoder", json!(true), "false"),
        ("add_cross_attention", json!(true), "false"),
        ("pruned_heads", json!({"1": [0, 2]}), "not supported"),
        ("hidden_act", json!("quick_gelu"), "one of gelu"),
        ("quantization_config", json!({"bits": 4}), "might change"),
        ("alibi_slopes", json!(2), "might change"),
        (
            "auto_map",
            json!({"AutoModel": "modeling.MyBert"}),
            "code of its own",
        ),
        ("model_type", json!("gpt2"), "modernbert"),
        ("problem_type", json!("ranking"), "regression"),
        ("architectures", json!([1]), "one class"),
        ("architectures", json!(["A", "B"]), "one class"),
    ];
    for (key, value, text) in cases {
        let why = refusal(&with(bert(), key, value));
        assert!(
            why.contains(text) && why.contains("config.json"),
            "{key}: {why}"
        );
        assert!(why.contains(key), "{key}: {why}");
    }
    let two = with(with(bert(), "alpha", json!(1)), "beta", json!("x"));
    assert!(
        refusal(&two).contains("alpha, beta"),
        "all unknown keys are named"
    );
    assert!(
        parse(&with(
            bert(),
            "auto_map",
            json!({"AutoTokenizer": ["a", null]})
        ))
        .is_ok()
    );
}

#[test]
fn absurd_numbers_are_refused_by_name() {
    let sizes = [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
    ];
    for key in sizes {
        for value in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!(1u64 << 40),
            json!(u64::MAX),
            json!("12"),
            json!([]),
        ] {
            let why = refusal(&with(bert(), key, value.clone()));
            assert!(why.contains(key), "{key} {value}: {why}");
        }
    }
    for value in [
        json!(0.0),
        json!(-1e-12),
        json!(2.0),
        json!(1e-300),
        json!("small"),
    ] {
        assert!(refusal(&with(bert(), "layer_norm_eps", value)).contains("layer_norm_eps"));
    }
    assert!(refusal(&with(bert(), "num_attention_heads", json!(5))).contains("do not divide"));
    assert!(refusal(&with(bert(), "num_hidden_layers", json!(100_000))).contains("1024"));
    assert!(refusal(&with(bert(), "pad_token_id", json!(30522))).contains("vocab_size"));
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let deep = format!("{}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let lists = "[".repeat(1 << 20);
    for text in [
        "",
        "{",
        "[]",
        "null",
        "\"bert\"",
        "{\"model_type\": 1}",
        "{}",
        &deep,
        &lists,
        "\u{0}",
    ] {
        let error = EncoderSpec::parse(text.as_bytes(), Path::new("config.json")).unwrap_err();
        assert!(error.to_string().len() < 600, "{error}");
    }
    assert!(EncoderSpec::parse(b"{\"model_type\": \"\xff\"}", Path::new("config.json")).is_err());
}

/// Every value of every golden configuration, replaced by each of some bad ones: an error or a spec, never a panic; and
/// an unknown key is refused in every family.
#[test]
fn no_value_in_any_place_panics() {
    let bad = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!([]),
        json!(["x"]),
        json!({}),
        json!({"x": {"y": []}}),
        json!([[1]]),
    ];
    for (name, base) in golden_bases() {
        let config = golden_config(&base);
        let why = refusal(&with(config.clone(), "surprise", json!(7)));
        assert!(
            why.contains("surprise") && why.contains("might change"),
            "{name}: {why}"
        );
        for key in config.as_object().unwrap().keys() {
            for value in &bad {
                let _ = parse(&with(config.clone(), key, value.clone()));
            }
            for (inner, _) in config[key].as_object().into_iter().flatten() {
                for value in &bad {
                    let mut changed = config.clone();
                    changed[key][inner] = value.clone();
                    let _ = parse(&changed);
                }
            }
        }
    }
}

#[test]
fn labels_are_by_index_and_complete() {
    let classifier = with(
        bert(),
        "architectures",
        json!(["BertForSequenceClassification"]),
    );
    let labels = |map: Value| with(classifier.clone(), "id2label", map);
    let spec = parse(&labels(json!({"1": "b", "0": "a", "2": 7}))).unwrap();
    assert_eq!(
        (spec.own_head, spec.labels),
        (
            Some(OwnHead::Sequence),
            vec!["a".into(), "b".into(), "7".into()]
        )
    );
    assert_eq!(parse(&classifier).unwrap().labels, ["LABEL_0", "LABEL_1"]);
    let one = with(
        with(classifier.clone(), "num_labels", json!(1)),
        "problem_type",
        json!("regression"),
    );
    let one = parse(&one).unwrap();
    assert_eq!(
        (one.labels.len(), one.problem),
        (1, Some(Problem::Regression))
    );
    for map in [
        json!({"0": "a", "2": "b"}),
        json!({"1": "a"}),
        json!({"0": "a", "01": "b"}),
        json!({"0": "a", "-1": "b"}),
        json!({"0": "a", "x": "b"}),
        json!({"0": "a", "1": "a"}),
        json!({"0": ["a"]}),
        json!({"99999999999999999999": "a"}),
        json!(["a"]),
    ] {
        assert!(refusal(&labels(map)).contains("id2label"));
    }
    let tags = with(
        bert(),
        "architectures",
        json!(["BertForTokenClassification"]),
    );
    assert_eq!(parse(&tags).unwrap().own_head, Some(OwnHead::Token));
}

#[test]
fn the_shared_checkpoint_is_read() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/models/all-MiniLM-L6-v2");
    if !dir.exists() {
        eprintln!("skipped: ../shared is absent");
        return;
    }
    let spec = parse(&golden_config(&dir)).unwrap();
    assert_eq!((spec.hidden, spec.layers.len(), spec.heads), (384, 6, 12));
    let sentence = SentenceSpec::read(&Source::dir(dir).unwrap()).unwrap();
    assert_eq!(
        (sentence.pooling, sentence.normalize, sentence.max_tokens),
        (Pooling::Mean, true, Some(256))
    );
}
