//! The files of sentence-transformers, as several versions of it write them, and what is refused.

use super::*;

fn read(files: &[(&str, &str)]) -> Result<SentenceSpec> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    SentenceSpec::read(&Source::dir(dir.path()).unwrap())
}

fn modules(kinds: &[&str]) -> String {
    let one = |(i, kind): (usize, &&str)| {
        let path = if i == 0 {
            String::new()
        } else {
            format!("{i}_{kind}")
        };
        serde_json::json!({
            "idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}"),
        })
    };
    Value::Array(kinds.iter().enumerate().map(one).collect()).to_string()
}

const POOLING: &str = "1_Pooling/config.json";
const MEAN: &str = r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false,
    "pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": false, "pooling_mode_mean_sqrt_len_tokens": false}"#;

#[test]
fn a_bare_encoder_is_pooled_by_the_mean() {
    assert_eq!(read(&[]).unwrap(), SentenceSpec::default());
}

#[test]
fn all_files_together() {
    let spec = read(&[
        (MODULES, &modules(&["Transformer", "Pooling", "Normalize"])),
        (POOLING, r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false, "include_prompt": true}"#),
        ("sentence_bert_config.json", r#"{"max_seq_length": 256, "do_lower_case": false}"#),
        (PROMPTS, r#"{"__version__": {}, "prompts": {"query": "query: ", "passage": ""}, "default_prompt_name": "query",
            "similarity_fn_name": "cosine"}"#),
    ])
    .unwrap();
    assert_eq!(
        (spec.pooling, spec.normalize, spec.max_tokens),
        (Pooling::Cls, true, Some(256))
    );
    assert_eq!(spec.prompts["query"], "query: ");
    assert_eq!(spec.default_prompt.as_deref(), Some("query"));
}

#[test]
fn every_way_of_pooling_in_both_spellings() {
    let modules = modules(&["Transformer", "Pooling"]);
    for (text, pooling) in [
        (r#"{"pooling_mode_max_tokens": true}"#, Pooling::Max),
        (
            r#"{"pooling_mode_lasttoken": true, "pooling_mode_weightedmean_tokens": false}"#,
            Pooling::Last,
        ),
        (
            r#"{"pooling_mode": "mean", "embedding_dimension": 8}"#,
            Pooling::Mean,
        ),
        (r#"{"pooling_mode": ["cls"]}"#, Pooling::Cls),
    ] {
        let spec = read(&[(MODULES, &modules), (POOLING, text)]).unwrap();
        assert_eq!((spec.pooling, spec.normalize), (pooling, false), "{text}");
    }
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let refuse = |files: &[(&str, &str)], text: &str| {
        let why = read(files).unwrap_err().to_string();
        assert!(why.contains(text), "{text}: {why}");
    };
    let two = modules(&["Transformer", "Pooling"]);
    refuse(
        &[
            (MODULES, &modules(&["Transformer", "Pooling", "Dense"])),
            (POOLING, MEAN),
        ],
        "models.Dense",
    );
    refuse(&[(MODULES, &modules(&["Pooling"]))], "models.Pooling");
    refuse(&[(MODULES, &modules(&["Transformer"]))], "Pooling");
    refuse(
        &[(MODULES, &modules(&["Transformer", "Normalize"]))],
        "models.Normalize",
    );
    refuse(
        &[(MODULES, &modules(&["StaticEmbedding"]))],
        "StaticEmbedding",
    );
    refuse(&[(MODULES, "[]")], "Pooling");
    refuse(&[(MODULES, "{}")], "list of modules");
    refuse(&[(MODULES, "[1]")], "list of modules");
    refuse(&[(MODULES, &two)], "1_Pooling");
    refuse(
        &[(MODULES, r#"[{"type": "a.Transformer", "path": "0_T"}]"#)],
        "in the directory itself",
    );
    refuse(
        &[(
            MODULES,
            r#"[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../x"}]"#,
        )],
        "inside the directory",
    );
    for (config, text) in [
        ("{", "not a JSON object"),
        ("{}", "found none"),
        (
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#,
            "exactly one",
        ),
        (
            r#"{"pooling_mode_mean_sqrt_len_tokens": true}"#,
            "mean_sqrt_len",
        ),
        (
            r#"{"pooling_mode_weightedmean_tokens": true}"#,
            "weightedmean",
        ),
        (r#"{"pooling_mode": "sum"}"#, "sum"),
        (
            r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#,
            "include_prompt",
        ),
    ] {
        refuse(&[(MODULES, &two), (POOLING, config)], text);
    }
    for limit in ["0", "-1", "\"many\"", "1.5"] {
        let text = format!(r#"{{"max_seq_length": {limit}}}"#);
        refuse(
            &[
                (MODULES, &two),
                (POOLING, MEAN),
                ("sentence_bert_config.json", &text),
            ],
            "max_seq_length",
        );
    }
    refuse(&[(PROMPTS, r#"{"prompts": {"query": 1}}"#)], "prompts");
    refuse(
        &[(PROMPTS, r#"{"prompts": [], "default_prompt_name": null}"#)],
        "prompts",
    );
    refuse(
        &[(
            PROMPTS,
            r#"{"prompts": {}, "default_prompt_name": "query"}"#,
        )],
        "default_prompt_name",
    );
}
