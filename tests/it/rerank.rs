//! `rerank`, and the options of `embed`: prompts, dimensions, last-token pooling, fan-out rows.

use std::path::Path;

use serde_json::json;
use sorank::{
    engine::Want,
    model::{Batch, Sequence},
};

use crate::{
    cli::{fails, lines, numbers},
    fixtures::{PARITY, admit, embedding, golden},
};

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn texts_come_sorted_by_the_one_logit_of_a_pair() {
    let golden = golden("bert");
    let base = golden.base();
    let adapter = format!("score={}", golden.adapter_dir("reg").display());
    let texts = golden.texts();
    let pairs: Vec<(usize, &String, &String)> = texts
        .iter()
        .enumerate()
        .filter_map(|(r, (a, b))| Some((r, a, b.as_ref()?)))
        .collect();
    assert!(!pairs.is_empty());
    let args = [
        "rerank",
        "--model",
        utf8(&base),
        "--adapter",
        &adapter,
        "--use",
        "score",
        "--input",
        "-",
    ];
    for raw in [false, true] {
        let mut args = args.to_vec();
        args.extend(raw.then_some("--raw-scores"));
        // Each golden pair, with other texts beside it.
        let others = [
            "one more text",
            "another, longer text that says nothing",
            "one more text",
        ];
        let input: String = pairs
            .iter()
            .map(|(_, query, text)| {
                let texts = [others[0], text.as_str(), others[1], others[2]];
                format!("{}\n", json!({"query": query, "texts": texts}))
            })
            .collect();
        let rows = lines(&args, &input);
        assert_eq!(rows.len(), pairs.len());
        for (i, (row, (r, ..))) in rows.iter().zip(&pairs).enumerate() {
            assert_eq!(
                (&row["index"], &row["adapter"]),
                (&json!(i), &json!("score"))
            );
            let results = row["results"].as_array().expect("results");
            let score = |r: &serde_json::Value| r["score"].as_f64().expect("a number") as f32;
            assert!(
                results.windows(2).all(|w| score(&w[0]) >= score(&w[1])),
                "{row}"
            );
            let at = |n: usize| results.iter().position(|r| r["index"] == n).expect("there");
            assert_eq!(
                score(&results[at(0)]),
                score(&results[at(3)]),
                "the same text twice"
            );
            assert!(at(0) < at(3), "of equals the first");
            let got = score(&results[at(1)]);
            match raw {
                true => assert!(golden.distance("logits.reg", *r, &[got]) <= PARITY, "{row}"),
                false => {
                    let logit = golden.row("logits.reg", *r)[0];
                    let want = 1.0 / (1.0 + (-logit).exp());
                    assert!((got - want).abs() < 1e-5, "{got} {want}");
                }
            }
        }
    }
    let one = [
        "rerank",
        "--model",
        utf8(&base),
        "--adapter",
        &adapter,
        "--use",
        "score",
    ];
    let mut asked = one.to_vec();
    asked.extend(["--query", pairs[0].1, pairs[0].2, "something else"]);
    assert_eq!(
        lines(&asked, "")[0]["results"]
            .as_array()
            .expect("results")
            .len(),
        2
    );
    fails(2, &one, "");
    let why = fails(1, &args, "{\"query\": \"q\", \"texts\": [\"a\", \"\"]}\n");
    assert!(why.contains("-:1") && why.contains("texts[1]"), "{why}");
    let several = format!("m={}", golden.adapter_dir("mixed").display());
    let args = [
        "rerank",
        "--model",
        utf8(&base),
        "--adapter",
        &several,
        "--use",
        "m",
        "--query",
        "q",
        "t",
    ];
    let why = fails(1, &args, "");
    assert!(why.contains("3 outputs"), "{why}");
}

/// A copy of BERT's base as sentence-transformers keeps it.
fn sentence_model(pooling: &str, prompts: serde_json::Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(golden("bert").base().join(name), dir.path().join(name)).expect("copied");
    }
    std::fs::create_dir(dir.path().join("1_Pooling")).expect("made");
    let module = |i: usize, path: &str, kind: &str| json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")});
    let files = [
        (
            "modules.json",
            json!([
                module(0, "", "Transformer"),
                module(1, "1_Pooling", "Pooling"),
                module(2, "2_Normalize", "Normalize")
            ]),
        ),
        (
            "1_Pooling/config.json",
            json!({(format!("pooling_mode_{pooling}")): true}),
        ),
        ("config_sentence_transformers.json", prompts),
    ];
    for (name, value) in files {
        std::fs::write(dir.path().join(name), value.to_string()).expect("written");
    }
    dir
}

#[test]
fn prompts_stand_before_the_text() {
    let prompts =
        json!({"prompts": {"query": "query: ", "doc": "passage: "}, "default_prompt_name": "doc"});
    let dir = sentence_model("mean_tokens", prompts);
    let embed = |args: &[&str]| {
        let mut all = vec!["embed", "--model", utf8(dir.path())];
        all.extend(args);
        numbers(&lines(&all, "")[0]["embedding"])
    };
    let plain = |text: &str| embed(&[text, "--prompt", ""]);
    assert_eq!(
        embed(&["a river", "--prompt-name", "query"]),
        plain("query: a river")
    );
    assert_eq!(
        embed(&["a river"]),
        plain("passage: a river"),
        "the default prompt"
    );
    assert_eq!(embed(&["a river", "--prompt", "of "]), plain("of a river"));
    assert_ne!(embed(&["a river"]), plain("a river"));
    let args = [
        "embed",
        "--model",
        utf8(dir.path()),
        "x",
        "--prompt-name",
        "none",
    ];
    let why = fails(2, &args, "");
    assert!(why.contains("doc, query"), "{why}");
    let why = fails(1, &["embed", "--model", utf8(dir.path()), ""], "");
    assert!(why.contains("empty"), "a prompt alone is no text: {why}");
}

#[test]
fn dimensions_are_cut_and_normalised_again() {
    let dir = sentence_model("mean_tokens", json!({}));
    let args = ["embed", "--model", utf8(dir.path()), "a text about rivers"];
    let whole = numbers(&lines(&args, "")[0]["embedding"]);
    let mut cut = args.to_vec();
    cut.extend(["--dimensions", "5"]);
    let short = numbers(&lines(&cut, "")[0]["embedding"]);
    assert_eq!(short.len(), 5);
    let norm = whole[..5].iter().map(|x| x * x).sum::<f32>().sqrt();
    for (s, w) in short.iter().zip(&whole) {
        assert!((s - w / norm).abs() < 1e-6);
    }
    for (n, code) in [("0", 2), ("100000", 2)] {
        let mut wrong = args.to_vec();
        wrong.extend(["--dimensions", n]);
        fails(code, &wrong, "");
    }
}

#[test]
fn the_last_token_pools() {
    let dir = sentence_model("lasttoken", json!({}));
    let engine = crate::fixtures::engine(dir.path(), 64);
    let texts = golden("bert").texts();
    let rows = admit(&engine, None, Want::Embedding, &texts);
    let task = engine.model().base_task().expect("the base");
    for (row, answer) in rows.iter().zip(engine.run(&rows)) {
        let (ids, types) = (&row.encoded.ids[..], &row.encoded.types[..]);
        let batch = Batch::pack([Sequence {
            ids,
            types,
            task: 0,
        }]);
        let hidden = engine.model().forward(&batch, &[&task], &mut ());
        let last = hidden.row(hidden.rows() - 1);
        let norm = last.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (got, x) in embedding(&answer).iter().zip(last) {
            assert!((got - x / norm).abs() < 1e-6);
        }
    }
}

#[test]
fn a_row_for_several_adapters_is_a_line_for_each() {
    let golden = golden("bert");
    let base = golden.base();
    let named = |n: &str| format!("{n}={}", golden.adapter_dir(n).display());
    let (a, b) = (named("mixed"), named("qv2"));
    let args = [
        "classify",
        "--model",
        utf8(&base),
        "--adapter",
        &a,
        "--adapter",
        &b,
        "--input",
        "-",
    ];
    let text = "the soup was cold";
    let fan = json!({"text": text, "adapters": ["qv2", null, "mixed"]});
    let after = json!({"text": text, "adapter": "mixed"});
    let rows = lines(&args, &format!("{fan}\n{after}\n"));
    let who: Vec<_> = rows
        .iter()
        .map(|r| (r["index"].clone(), r["adapter"].clone()))
        .collect();
    let expected = [
        (0, json!("qv2")),
        (0, json!(null)),
        (0, json!("mixed")),
        (1, json!("mixed")),
    ];
    assert_eq!(who, expected.map(|(i, a)| (json!(i), a)));
    assert_eq!(rows[2]["logits"], rows[3]["logits"]);
    for (row, name) in rows.iter().zip(["qv2", "", "mixed"]) {
        let mut one = json!({"text": text, "adapter": name});
        if name.is_empty() {
            one["adapter"] = json!(null);
        }
        assert_eq!(
            lines(&args, &format!("{one}\n"))[0]["logits"],
            row["logits"]
        );
    }
    let mut going = args.to_vec();
    going.push("--keep-going");
    let fan = json!({"text": text, "adapters": ["qv2", "nobody", "mixed"]});
    let rows = lines(&going, &format!("{fan}\n"));
    assert!(
        rows[1]["error"]
            .as_str()
            .is_some_and(|e| e.contains("nobody")),
        "{rows:?}"
    );
    assert_eq!((rows.len(), &rows[2]["adapter"]), (3, &json!("mixed")));
}
