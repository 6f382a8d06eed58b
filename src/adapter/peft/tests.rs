//! PEFT LoRA files: good ones, and a table of damaged ones, each refused for its own reason.

use serde_json::{Value, json};

use super::super::{
    TaskType,
    fixture::{Tensor, file, pair, ramp, read},
};
use super::*;

pub(super) fn config() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query", "value"]})
}

pub(super) fn with(key: &str, value: Value) -> Value {
    let mut c = config();
    c[key] = value;
    c
}

pub(super) fn query() -> Vec<Tensor> {
    pair("enc.layer.0.query", 2, 3, 5).to_vec()
}

/// The message of a reading that must fail.
pub(super) fn refusal(config: &Value, tensors: &[Tensor]) -> String {
    read(config, tensors)
        .expect_err("this must be refused")
        .to_string()
}

#[test]
fn a_plain_adapter_is_read() {
    let mut tensors = query();
    tensors.extend(pair("enc.layer.1.value", 2, 3, 4));
    let a = read(&config(), &tensors).unwrap();
    assert_eq!(a.factors.len(), 2);
    let f = &a.factors["enc.layer.0.query"];
    assert_eq!((f.rank(), f.a.cols(), f.b.rows(), f.scale), (2, 3, 5, 2.0));
    assert_eq!(f.a.as_slice()[..3], [-0.75, -0.5, -0.25]);
    assert_eq!(a.parameters(), 2 * 8 + 2 * 7);
    assert!(a.targets.matches("enc.layer.7.value") && !a.targets.matches("enc.layer.7.key"));
    assert_eq!(
        (a.task_type, a.base.as_deref(), a.labels.as_deref()),
        (None, None, None)
    );
}

#[test]
fn scales_follow_the_patterns_and_the_stabilised_rule() {
    let mut tensors = query();
    tensors.extend(pair("enc.layer.0.value", 3, 3, 5));
    tensors.extend(pair("enc.layer.1.value", 3, 3, 5));
    let c = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": "all-linear",
        "rank_pattern": {"value": 3}, "alpha_pattern": {r"layer\.1\.(query|value)": 1.5},
    });
    let scales = |c: &Value| -> Vec<f32> {
        read(c, &tensors)
            .unwrap()
            .factors
            .values()
            .map(|f| f.scale)
            .collect()
    };
    assert_eq!(scales(&c), [2.0, (4.0 / 3.0) as f32, 0.5]);
    let mut rs = c.clone();
    rs["use_rslora"] = json!(true);
    let root = |alpha: f64, r: f64| (alpha / r.sqrt()) as f32;
    assert_eq!(
        scales(&rs),
        [root(4.0, 2.0), root(4.0, 3.0), root(1.5, 3.0)]
    );
}

#[test]
fn half_precision_and_names_as_in_memory_are_read() {
    let exact = query();
    let mut tensors = exact.clone();
    for (t, dtype) in tensors.iter_mut().zip(["F16", "BF16"]) {
        let values = t
            .bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b));
        t.bytes = match dtype {
            "F16" => values
                .flat_map(|v| half::f16::from_f32(v).to_le_bytes())
                .collect(),
            _ => values
                .flat_map(|v| half::bf16::from_f32(v).to_le_bytes())
                .collect(),
        };
        t.dtype = dtype;
        t.name = t.name.replace(".weight", ".default.weight");
    }
    let (a, b) = (
        read(&config(), &tensors).unwrap(),
        read(&config(), &exact).unwrap(),
    );
    assert_eq!(a.factors, b.factors);
}

#[test]
fn heads_are_kept_whole_under_one_name() {
    let c = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"],
        "task_type": "SEQ_CLS", "modules_to_save": ["pooler", "classifier", "classifier", "nothing"],
    });
    for (weight, bias) in [
        ("classifier.weight", "classifier.bias"),
        (
            "classifier.modules_to_save.default.weight",
            "classifier.modules_to_save.bias",
        ),
    ] {
        let mut tensors = query();
        tensors.extend([
            ramp(weight, &[2, 3]),
            ramp(bias, &[2]),
            ramp("bert.pooler.dense.weight", &[3, 3]),
            ramp("pre_classifier.weight", &[3, 3]), // PEFT's suffix rule knows no words
            Tensor {
                dtype: "I32",
                ..ramp("classifier.original_module.weight", &[1, 2])
            },
        ]);
        let a = read(&c, &tensors).unwrap();
        let names: Vec<_> = a.saved.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "bert.pooler.dense.weight",
                "classifier.bias",
                "classifier.weight",
                "pre_classifier.weight"
            ]
        );
        assert_eq!(a.saved["classifier.weight"].shape, [2, 3]);
        assert_eq!(a.task_type, Some(TaskType::SequenceClassification));
        assert!(!a.targets.matches("classifier"));
    }
    // The head that PEFT adds by itself to classifiers, and to nothing else.
    let mut tensors = query();
    tensors.push(ramp("score.weight", &[2, 3]));
    for task in ["SEQ_CLS", "TOKEN_CLS"] {
        assert_eq!(
            read(&with("task_type", json!(task)), &tensors)
                .unwrap()
                .saved
                .len(),
            1
        );
    }
    for task in [json!("FEATURE_EXTRACTION"), Value::Null] {
        assert!(
            refusal(&with("task_type", task), &tensors).contains("unused: base_model.model.score")
        );
    }
}

#[test]
fn what_changes_the_answer_and_is_not_done_is_refused_by_name() {
    let a_list = json!(["x"]);
    for (key, value) in [
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("lora_only")),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", a_list.clone()),
        ("trainable_token_indices", json!([1])),
        ("trainable_token_indices", json!({"emb": [1]})),
        ("use_qalora", json!(true)),
        ("alora_invocation_tokens", json!([1])),
        ("use_bdlora", json!({"nblocks": 2})),
        ("kasa_config", json!({"beta": 1})),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!(3)),
        ("peft_type", json!("IA3")),
        ("task_type", json!("CAUSAL_LM")),
    ] {
        let message = refusal(&with(key, value), &query());
        assert!(
            message.contains(key) && message.contains("not supported"),
            "{key}: {message}"
        );
        assert!(message.starts_with("dir/adapter_config.json"), "{message}");
    }
    for (key, value) in [
        ("use_dora", json!(false)),
        ("use_qalora", Value::Null),
        ("loftq_config", json!({})),
        ("trainable_token_indices", Value::Null),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!(false)),
        ("fan_in_fan_out", json!(true)),
        ("a_key_of_next_year", json!({"x": 1})),
        ("lora_dropout", json!(0.1)),
    ] {
        read(&with(key, value), &query()).unwrap_or_else(|e| panic!("{key}: {e}"));
    }
}

#[test]
fn a_config_of_wrong_types_is_refused_with_its_key() {
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!(-8)),
        ("r", json!(2.5)),
        ("r", json!("2")),
        ("r", json!(1_000_000)),
        ("r", json!(1e300)),
        ("lora_alpha", json!("16")),
        ("lora_alpha", json!(true)),
        ("rank_pattern", json!([2])),
        ("rank_pattern", json!({"query": 0})),
        ("rank_pattern", json!({"query": [true]})),
        ("rank_pattern", json!({"(": 2})),
        ("rank_pattern", json!({"(?=q)uery": 2})),
        ("alpha_pattern", json!({"query": null})),
        ("target_modules", json!(7)),
        ("target_modules", json!([7])),
        ("target_modules", json!([""])),
        ("target_modules", json!("(?!x)query")),
        ("exclude_modules", json!({"a": 1})),
        ("layers_to_transform", json!("1")),
        ("layers_to_transform", json!([1.5])),
        ("modules_to_save", json!("classifier")),
        ("modules_to_save", json!([""])),
        ("use_rslora", json!("yes")),
        ("task_type", json!(1)),
        ("peft_type", Value::Null),
        ("bias", json!(0)),
        ("base_model_name_or_path", json!(["x"])),
    ] {
        let message = refusal(&with(key, value), &query());
        assert!(message.contains(key), "{key}: {message}");
    }
    let mut c = with("target_modules", json!(".*query"));
    c["layers_to_transform"] = json!([0]);
    assert!(refusal(&c, &query()).contains("layers_to_transform"));
}

#[test]
fn directories_say_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let read = || Adapter::read(dir.path());
    assert!(read().unwrap_err().to_string().contains(CONFIG));
    write("pytorch_model.bin", b"pickle");
    assert!(read().unwrap_err().to_string().contains("imported first"));
    write(CONFIG, config().to_string().as_bytes());
    assert!(read().unwrap_err().to_string().contains(WEIGHTS));
    write("adapter_model.bin", b"pickle");
    assert!(
        read()
            .unwrap_err()
            .to_string()
            .contains("safe_serialization")
    );
    write(WEIGHTS, &file(&query()));
    let a = read().unwrap();
    assert_eq!((a.labels, a.bytes), (None, file(&query()).len() as u64));
    write(
        "config.json",
        br#"{"id2label":{"0":"no","1":"yes"},"problem_type":"regression"}"#,
    );
    let a = read().unwrap();
    assert_eq!(a.labels.unwrap(), ["no", "yes"]);
    assert_eq!(a.problem, Some(crate::spec::Problem::Regression));
    write("labels.json", br#"["A","B"]"#);
    assert_eq!(read().unwrap().labels.unwrap(), ["A", "B"]);
    write("labels.json", br#"["A","A"]"#);
    assert!(read().unwrap_err().to_string().contains("labels.json"));
    write(
        CONFIG,
        &vec![b' '; (super::super::bounded::MAX_CONFIG + 1) as usize],
    );
    assert!(read().unwrap_err().to_string().contains("1048577 bytes"));
}
