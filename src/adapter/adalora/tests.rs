//! AdaLoRA files as PEFT writes them, and damaged ones.

use serde_json::{Value, json};

use crate::adapter::fixture::{Tensor, f32s, ramp, read};

const M: &str = "enc.layer.0.query";

fn config() -> Value {
    json!({
        "peft_type": "ADALORA", "init_r": 4, "target_r": 2, "r": 99, "lora_alpha": 6, "use_rslora": true,
        "alpha_pattern": {"query": 100}, "target_modules": ["query", "key"],
        "rank_pattern": {
            "enc.layer.0.query.lora_E": [true, false, true, true],
            "enc.layer.0.key.lora_E": [false, false, false, false],
        },
    })
}

fn tensors() -> Vec<Tensor> {
    vec![
        ramp("enc.layer.0.query.lora_A", &[3, 2]),
        f32s("enc.layer.0.query.lora_E", &[3, 1], &[-2.0, -0.0, 0.5]),
        ramp("enc.layer.0.query.lora_B", &[2, 3]),
        ramp("enc.layer.0.key.lora_A", &[0, 2]),
        ramp("enc.layer.0.key.lora_E", &[0, 1]),
        ramp("enc.layer.0.key.lora_B", &[2, 0]),
    ]
}

#[test]
fn singular_values_fold_and_the_scale_is_that_of_the_first_rank() {
    let a = read(&config(), &tensors()).unwrap();
    let f = &a.factors[M];
    // Rank 1 was kept by the mask but stands at zero; neither `r`, nor what is left, nor a pattern sets the scale.
    assert_eq!((a.factors.len(), f.rank(), f.scale), (1, 2, 1.0));
    let scale = (6.0 / (4.0 + 1e-5)) as f32;
    let b = [-0.75, -0.25, 0.0, 0.5]; // columns 0 and 2 of the ramp
    let e = [-2.0, 0.5, -2.0, 0.5];
    let want: Vec<f32> = b.iter().zip(e).map(|(b, e)| b * (e * scale)).collect();
    assert_eq!(f.b.as_slice(), want);
    assert_eq!(f.a.as_slice(), [-0.75, -0.5, 0.25, 0.5]);
    assert!(a.targets.matches(M) && !a.targets.matches("enc.layer.0.key"));
    assert!(
        a.targets.matches("enc.layer.1.key"),
        "that one should have had tensors"
    );
}

#[test]
fn names_as_in_memory_and_unallocated_modules_are_read() {
    let mut c = config();
    c["rank_pattern"] = json!({"enc.layer.0.query.lora_E.default": [true, false, true, true]});
    let mut t = tensors()[..3].to_vec();
    for t in &mut t {
        t.name.push_str(".default");
    }
    assert_eq!(read(&c, &t).unwrap().factors[M].rank(), 2);
    // Never allocated: no pattern, all of init_r.
    c["rank_pattern"] = Value::Null;
    c["init_r"] = json!(3);
    assert_eq!(read(&c, &t).unwrap().factors[M].rank(), 2);
}

#[test]
fn contradictions_are_refused_by_name() {
    let with = |key: &str, value: Value| {
        let mut c = config();
        c[key] = value;
        c
    };
    let replaced = |i: usize, t: Tensor| {
        let mut all = tensors();
        all[i] = t;
        all
    };
    let masks = |v: Value| {
        with(
            "rank_pattern",
            json!({"enc.layer.0.query.lora_E": v, "enc.layer.0.key.lora_E": [false, false, false, false]}),
        )
    };
    for (why, config, tensors) in [
        (
            "missing: base_model.model.enc.layer.0.query.lora_E",
            config(),
            [&tensors()[..1], &tensors()[2..]].concat(),
        ),
        (
            "rank 2, and",
            masks(json!([true, false, true, false])),
            tensors(),
        ),
        (
            "4 (init_r) times",
            masks(json!([true, true, true])),
            tensors(),
        ),
        ("a list of true and false", masks(json!(3)), tensors()),
        (
            "a list of true and false",
            with("rank_pattern", json!({"query": [true]})),
            tensors(),
        ),
        (
            "init_r says that enc.layer.0.query has rank 4",
            with("rank_pattern", json!({})),
            tensors()[..3].to_vec(),
        ),
        (
            "expected [3, 1]",
            config(),
            replaced(1, ramp("enc.layer.0.query.lora_E", &[3])),
        ),
        (
            "expected [3, 1]",
            config(),
            replaced(1, ramp("enc.layer.0.query.lora_E", &[4, 1])),
        ),
        (
            "lora_E holds NaN",
            config(),
            replaced(
                1,
                f32s("enc.layer.0.query.lora_E", &[3, 1], &[0.0, f32::NAN, 0.0]),
            ),
        ),
        (
            "unused: base_model.model.enc.layer.0.query.ranknum",
            config(),
            [tensors(), vec![ramp("enc.layer.0.query.ranknum", &[1])]].concat(),
        ),
        ("lora_alpha", with("lora_alpha", json!(0)), tensors()),
        ("init_r", with("init_r", json!(0)), tensors()),
        ("use_dora", with("use_dora", json!(true)), tensors()),
        (
            "missing: base_model.model.enc.layer.0.query.lora_A.weight",
            with("peft_type", json!("LORA")),
            tensors(),
        ),
    ] {
        let message = read(&config, &tensors).expect_err(why).to_string();
        // As plain LoRA the same names mean nothing, which is another refusal.
        let as_lora = config["peft_type"] == "LORA" && message.contains("rank_pattern");
        assert!(message.contains(why) || as_lora, "{why}: {message}");
    }
}
