//! Files that contradict themselves or their configuration, or are not what they say: each must be refused by name.

use serde_json::{Value, json};

use super::{
    tests::{config, query, refusal, with},
    *,
};
use crate::adapter::fixture::{Tensor, f32s, file, pair, ramp, read, with_header};

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

/// A file at every ceiling at once must be read, or refused, in the time of a coffee sip.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

#[test]
fn the_ceilings_bound_the_time() {
    let modules: Vec<Tensor> = (0..12_000)
        .flat_map(|i| pair(&format!("encoder.layer.{i}.query"), 1, 1, 1))
        .collect();
    let plain: serde_json::Map<String, Value> = (0..8_000)
        .map(|i| (format!("layer.{i}0000.query"), json!(1)))
        .collect();
    let bombs: serde_json::Map<String, Value> = (0..250)
        .map(|i| (format!("(a*)*(a|b|.)*{i}(.*.*.*)x"), json!(1)))
        .collect();
    // 20 ms a path of 500 characters, each.
    let slow: serde_json::Map<String, Value> = (0..250)
        .map(|i| (format!("(?:a?b?){{300}}[cd]{i}"), json!(1)))
        .collect();
    for (patterns, refused) in [(plain, false), (bombs, true), (slow, true)] {
        let mut c = with("rank_pattern", Value::Object(patterns));
        c["r"] = json!(1);
        c["target_modules"] = json!("(.*)*(.*)*(q|u|e|r|y|.)*");
        let start = std::time::Instant::now();
        match read(&c, &modules) {
            Ok(adapter) => assert!(!refused && adapter.factors.len() == 12_000),
            Err(e) => assert!(refused && e.to_string().contains("rank_pattern"), "{e}"),
        }
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    }
}

/// Few enough expressions to be compiled, and so many names that matching them would take hours.
#[test]
fn slow_expressions_against_many_names_are_refused_before_they_are_matched() {
    let modules: Vec<Tensor> = (0..3_000)
        .flat_map(|i| pair(&format!("{}{i}.query", "ab".repeat(200)), 1, 1, 1))
        .collect();
    let slow: serde_json::Map<String, Value> = (0..8)
        .map(|i| (format!("(?:a?b?){{700}}[cd]{i}"), json!(1)))
        .collect();
    let mut c = with("rank_pattern", Value::Object(slow));
    c["r"] = json!(1);
    let start = std::time::Instant::now();
    let why = read(&c, &modules).unwrap_err().to_string();
    assert!(
        why.contains("rank_pattern") && why.contains("too much to match"),
        "{why}"
    );
    let mut c = with("target_modules", json!("(?:a?b?){700}[cd]|.*query"));
    c["r"] = json!(1);
    let why = read(&c, &modules).unwrap_err().to_string();
    assert!(why.contains("target_modules"), "{why}");
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn no_change_of_a_few_bytes_panics() {
    let (config, weights) = (
        with("task_type", json!("SEQ_CLS")).to_string(),
        file(&query()),
    );
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % n
    };
    let mut read = 0;
    for _ in 0..20_000 {
        let (mut c, mut w) = (config.clone().into_bytes(), weights.clone());
        for _ in 0..=random(3) {
            let target = if random(3) == 0 { &mut c } else { &mut w };
            // Mostly where the text is: the values behind it are any bytes anyway.
            let at = random(target.len().min(320));
            target[at] = [random(256) as u8, b'"', b'0', b'9', b'[', b'{', 0x20][random(7)];
        }
        read += usize::from(Adapter::from_bytes(&c, &w, None, Path::new("d")).is_ok());
    }
    assert!(read > 10, "{read} of the changed files were still adapters");
}
