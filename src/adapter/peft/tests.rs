use serde_json::{Value, json};

use super::super::{
    TaskType,
    fixture::{Tensor, f32s, file, pair, ramp, read, with_header},
};
use super::*;

fn config() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query", "value"]})
}

fn with(key: &str, value: Value) -> Value {
    let mut c = config();
    c[key] = value;
    c
}

fn query() -> Vec<Tensor> {
    pair("enc.layer.0.query", 2, 3, 5).to_vec()
}

/// The message of a reading that must fail.
fn refusal(config: &Value, tensors: &[Tensor]) -> String {
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
fn tensors_must_agree_with_the_config_and_each_other() {
    let rename = |i: usize, to: &str| {
        let mut t = query();
        t[i].name = format!("{PREFIX}{to}");
        t
    };
    let reshape = |i: usize, shape: &[usize]| {
        let mut t = query();
        t[i] = ramp(t[i].name.clone().strip_prefix(PREFIX).unwrap(), shape);
        t
    };
    let extra = |t: Tensor| [query(), vec![t]].concat();
    let q = "enc.layer.0.query";
    let cases: Vec<(&str, Vec<Tensor>)> = vec![
        (
            "1 tensor(s) missing: base_model.model.enc.layer.0.query.lora_B.weight",
            query()[..1].to_vec(),
        ),
        (
            "1 tensor(s) missing: base_model.model.enc.layer.0.query.lora_A.weight",
            query()[1..].to_vec(),
        ),
        (
            "does not target: enc.layer.0.key",
            pair("enc.layer.0.key", 2, 3, 5).to_vec(),
        ),
        (
            "unused: base_model.model.enc.layer.0.query.lora_C.weight",
            extra(ramp(&format!("{q}.lora_C.weight"), &[1])),
        ),
        (
            "unused: base_model.model.enc.layer.0.query.lora_A.other.weight",
            extra(ramp(&format!("{q}.lora_A.other.weight"), &[2, 3])),
        ),
        (
            "unused: base_model.model.enc.layer.0.query.lora_E",
            extra(ramp(&format!("{q}.lora_E"), &[2, 1])),
        ),
        (
            "unused: base_model.model.classifier.weight",
            extra(ramp("classifier.weight", &[2, 3])),
        ),
        (
            "unused: base_model.model.lora_A.weight",
            extra(ramp("lora_A.weight", &[2, 3])),
        ),
        (
            "two spellings",
            extra(ramp(&format!("{q}.lora_A.default.weight"), &[2, 3])),
        ),
        (
            "DoRA",
            extra(ramp(&format!("{q}.lora_magnitude_vector"), &[5])),
        ),
        ("lora_bias", extra(ramp(&format!("{q}.lora_B.bias"), &[5]))),
        (
            "embedding",
            extra(ramp("word_embeddings.lora_embedding_A", &[2, 9])),
        ),
        (
            "trainable_token_indices",
            extra(ramp("emb.token_adapter.trainable_tokens_delta", &[2, 9])),
        ),
        (
            "base weight",
            extra(ramp(&format!("{q}.base_layer.weight"), &[5, 3])),
        ),
        (
            "rank 2, and base_model.model.enc.layer.0.query.lora_A.weight has rank 3",
            pair(q, 3, 3, 5).to_vec(),
        ),
        ("expected [out, 2]", reshape(1, &[5, 4])),
        ("has shape [2, 3, 1]", reshape(0, &[2, 3, 1])),
        ("has shape [10]", reshape(1, &[10])),
        ("at most 4096", reshape(0, &[5000, 3])),
        (
            "r says that enc.layer.0.query has rank 2",
            vec![
                ramp(&format!("{q}.lora_A.weight"), &[0, 3]),
                ramp(&format!("{q}.lora_B.weight"), &[5, 0]),
            ],
        ),
        ("has shape [2, 0]", reshape(0, &[2, 0])),
        ("tensor name", rename(0, "enc..query.lora_A.weight")),
        ("tensor name", rename(0, "enc.\n.query.lora_A.weight")),
        ("tensor name", rename(0, &"x".repeat(600))),
        ("without a tensor", Vec::new()),
    ];
    let mut wrong = Vec::new();
    for (why, tensors) in cases {
        let message = refusal(&config(), &tensors);
        if !message.contains(why) {
            wrong.push(format!("{why}: {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut no_prefix = query();
    no_prefix[0].name = format!("{q}.lora_A.weight");
    assert!(refusal(&config(), &no_prefix).contains("unused: enc.layer.0.query.lora_A.weight"));
}

#[test]
fn rank_conflicts_name_the_key_that_claims() {
    let c = with("rank_pattern", json!({"layer.0.query": 3}));
    let message = refusal(&c, &query());
    assert!(
        message.contains("rank_pattern.layer.0.query says that"),
        "{message}"
    );
    let c = with("exclude_modules", json!(["layer.0.query"]));
    assert!(refusal(&c, &query()).contains("does not target"));
    let c = with("layers_to_transform", json!([1]));
    assert!(refusal(&c, &query()).contains("does not target"));
    let c = with("target_modules", Value::Null);
    read(&c, &query()).unwrap(); // PEFT's default for the encoders it knows
    let c = with("lora_alpha", json!(1e308));
    assert!(refusal(&c, &query()).contains("scale"));
}

#[test]
fn values_are_finite_and_of_a_type_that_is_read() {
    for (value, shown) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        let mut t = query();
        t[1] = f32s("enc.layer.0.query.lora_B.weight", &[5, 2], &[0.0; 10]);
        t[1].bytes[7 * 4..8 * 4].copy_from_slice(&value.to_le_bytes());
        let message = refusal(&config(), &t);
        let want = format!("enc.layer.0.query.lora_B.weight holds {shown} at element 7 of 10");
        assert!(message.contains(&want), "{message}");
    }
    for (dtype, size) in [
        ("F64", 8),
        ("I64", 8),
        ("I8", 1),
        ("BOOL", 1),
        ("F8_E4M3", 1),
    ] {
        let mut t = query();
        t[0].dtype = dtype;
        t[0].bytes = vec![0; 6 * size];
        assert!(
            refusal(&config(), &t).contains("lora_A.weight of type"),
            "{dtype}"
        );
        let c = with("task_type", json!("SEQ_CLS"));
        let head = Tensor {
            dtype,
            bytes: vec![0; size],
            ..ramp("classifier.weight", &[1])
        };
        let message = refusal(&c, &[query(), vec![head]].concat());
        assert!(
            message.contains("classifier.weight of type"),
            "{dtype}: {message}"
        );
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let good = file(&query());
    let json = config().to_string();
    let read = |weights: &[u8]| Adapter::from_bytes(json.as_bytes(), weights, None, Path::new("d"));
    read(&good).unwrap();
    for cut in 0..good.len() {
        assert!(read(&good[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [good.as_slice(), &[0]].concat();
    let a = r#""base_model.model.query.lora_A.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}"#;
    let b = r#""base_model.model.query.lora_B.weight":{"dtype":"F32","shape":[3,2],"data_offsets":[24,48]}"#;
    let header = |text: String| with_header(&text, &[0; 48]);
    read(&header(format!("{{{a},{b}}}"))).unwrap();
    for (what, bytes) in [
        ("a byte more than the header covers", longer),
        ("one name twice", header(format!("{{{a},{a},{b}}}"))),
        (
            "one name twice, shaped otherwise",
            header(format!("{{{a},{},{b}}}", a.replace("[2,3]", "[3,2]"))),
        ),
        (
            "overlap",
            header(format!("{{{a},{}}}", b.replace("[24,48]", "[16,40]"))),
        ),
        (
            "beyond the end",
            header(format!("{{{a},{}}}", b.replace("[24,48]", "[24,148]"))),
        ),
        (
            "shape and size disagree",
            header(format!("{{{a},{}}}", b.replace("[3,2]", "[3,3]"))),
        ),
        (
            "a shape that overflows",
            header(format!(
                "{{{a},{}}}",
                b.replace("[3,2]", "[4294967296,4294967296]")
            )),
        ),
        (
            "an unknown type",
            header(format!("{{{a},{}}}", b.replace("F32", "F33"))),
        ),
        ("not an object", header("[]".into())),
        ("not JSON", header("{".into())),
        ("deep", header("[".repeat(10_000))),
        (
            "a giant header",
            [(1_u64 << 40).to_le_bytes().as_slice(), &[b'{'; 64]].concat(),
        ),
        (
            "the largest header",
            [u64::MAX.to_le_bytes().as_slice(), &[b'{'; 64]].concat(),
        ),
        ("nothing", Vec::new()),
    ] {
        assert!(read(&bytes).is_err(), "{what}");
    }
}

#[test]
fn configs_that_are_not_json_are_refused() {
    let weights = file(&query());
    for (text, why) in [
        (&b"\xff\xfe{}"[..], "not UTF-8"),
        (b"", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"{\"peft_type\":\"LORA\",\"r\":2,\"r\":3}", "stands twice"),
        (b"{\"rank_pattern\":{\"a\":1,\"a\":2}}", "stands twice"),
        (b"{\"lora_alpha\":NaN}", "not JSON"),
        (b"{\"lora_alpha\":1e999}", "not JSON"),
    ] {
        let e = Adapter::from_bytes(text, &weights, None, Path::new("d"))
            .unwrap_err()
            .to_string();
        assert!(e.contains(why), "{e}");
    }
}

#[test]
fn directories_say_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let read = || Adapter::read(dir.path());
    assert!(read().unwrap_err().to_string().contains(CONFIG));
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
