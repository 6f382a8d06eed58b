//! Binding adapters: what fits runs, what does not is refused by name.

use std::path::Path;

use sorank::{
    adapter::{Adapter, Factors},
    engine::{Request, Want},
    error::Error,
    mat::Matrix,
    text::Truncate,
};

use crate::fixtures::{add, admit, bits, engine, golden, load, logits};

/// A copy of an adapter directory whose configuration and tensors `change` may edit.
fn changed(
    from: &Path,
    change: impl FnOnce(&mut serde_json::Value, &mut Vec<(String, Vec<usize>, Vec<f32>)>),
) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let config = std::fs::read(from.join("adapter_config.json")).expect("a configuration");
    let mut config = serde_json::from_slice(&config).expect("JSON");
    let weights = std::fs::read(from.join("adapter_model.safetensors")).expect("weights");
    let mut tensors: Vec<_> = crate::fixtures::read_tensors(&weights)
        .into_iter()
        .map(|(name, (shape, data))| (name, shape, data))
        .collect();
    change(&mut config, &mut tensors);
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).expect("written");
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape, data)| {
            (
                name,
                shape,
                data.iter().flat_map(|x| x.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name.as_str(), view.expect("a tensor"))
    });
    let file = safetensors::serialize(views, None).expect("a file");
    std::fs::write(dir.path().join("adapter_model.safetensors"), file).expect("written");
    dir
}

/// The message with which a changed copy of BERT's `mixed` is refused, at reading or at binding.
fn refusal(
    change: impl FnOnce(&mut serde_json::Value, &mut Vec<(String, Vec<usize>, Vec<f32>)>),
) -> String {
    let golden = golden("bert");
    let dir = changed(&golden.adapter_dir("mixed"), change);
    let model = load(&golden.base());
    match Adapter::read(dir.path()).and_then(|a| model.bind("changed", &a)) {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.to_string(),
    }
}

fn drop_tensors(tensors: &mut Vec<(String, Vec<usize>, Vec<f32>)>, part: &str) {
    let before = tensors.len();
    tensors.retain(|(name, ..)| !name.contains(part));
    assert!(tensors.len() < before, "no tensor is named like {part}");
}

#[test]
fn an_adapter_without_its_head_is_refused() {
    // The base's checkpoint has a classifier with as many labels, and it is not this adapter's.
    let why = refusal(|_, tensors| drop_tensors(tensors, "classifier"));
    assert!(
        why.contains("no classification head") && why.contains("classifier.weight"),
        "{why}"
    );
}

#[test]
fn a_targeted_module_without_tensors_is_refused() {
    let why = refusal(|_, tensors| drop_tensors(tensors, "layer.0.output.dense.lora_"));
    assert!(why.contains("layer.0.output.dense.lora_A"), "{why}");
}

#[test]
fn half_a_pair_is_refused() {
    let why = refusal(|_, tensors| drop_tensors(tensors, "layer.0.output.dense.lora_B"));
    assert!(why.contains("layer.0.output.dense"), "{why}");
}

#[test]
fn widths_of_another_base_are_refused() {
    let why = refusal(|_, tensors| {
        let (name, shape, data) = tensors
            .iter_mut()
            .find(|(n, ..)| n.contains("layer.0.output.dense.lora_A"))
            .expect("a tensor");
        println!("{name}");
        shape[1] += 1;
        data.extend(vec![0.5; shape[0]]);
    });
    assert!(why.contains("layer.0.output.dense"), "{why}");
}

#[test]
fn a_module_of_another_base_is_refused() {
    let why = refusal(|config, tensors| {
        let rename = |s: &str| s.replace("layer.0.output.dense", "layer.9.output.dense");
        *config = serde_json::from_str(&rename(&config.to_string())).expect("JSON");
        tensors
            .iter_mut()
            .for_each(|(name, ..)| *name = rename(name));
    });
    assert!(
        why.contains("layer.9.output.dense") && why.contains("no linear of this base"),
        "{why}"
    );
}

#[test]
fn an_unknown_tensor_is_refused() {
    let why = refusal(|_, tensors| {
        tensors.push((
            "base_model.model.bert.mystery.weight".into(),
            vec![2],
            vec![1.0, 2.0],
        ));
    });
    assert!(why.contains("mystery"), "{why}");
}

#[test]
fn nan_is_refused() {
    let why = refusal(|_, tensors| tensors[3].2[0] = f32::NAN);
    assert!(why.contains("NaN"), "{why}");
}

#[test]
fn factors_that_overflow_are_refused_by_tensor_and_value() {
    let why = refusal(|config, tensors| {
        (config["lora_alpha"], config["alpha_pattern"]) = (3e38.into(), serde_json::json!({}));
        let factors = tensors.iter_mut().filter(|t| t.0.contains("lora_B"));
        factors.for_each(|t| t.2.fill(100.0));
    });
    assert!(why.contains("lora_B") && why.contains("inf"), "{why}");
    let why = refusal(|_, tensors| {
        let factors = tensors.iter_mut().filter(|t| t.0.contains("lora_"));
        factors.for_each(|t| t.2.fill(1e25));
    });
    assert!(
        why.contains("lora_A") && why.contains("lora_B") && why.contains("norm"),
        "{why}"
    );
    assert!(why.contains("adapter_model.safetensors"), "{why}");
}

#[test]
fn a_head_that_overflows_when_factors_are_folded_in_is_refused() {
    let golden = golden("bert");
    let model = load(&golden.base());
    let mut adapter = Adapter::read(&golden.adapter_dir("mixed")).expect("an adapter");
    let huge = |rows, cols| Matrix::from_vec(vec![1e30; 32], rows, cols);
    let factors = Factors {
        a: huge(1, 32),
        b: huge(32, 1),
        scale: 1.0,
    };
    adapter
        .factors
        .insert("bert.pooler.dense".to_owned(), factors);
    let why = model
        .bind("huge", &adapter)
        .expect_err("it overflows")
        .to_string();
    assert!(
        why.contains("pooler.dense.weight") && why.contains("inf"),
        "{why}"
    );
}

/// Weights may be finite, and the answer not: then it is an error that names the adapter, beside rows that are answered.
#[test]
fn an_answer_that_is_not_finite_is_an_error_of_its_row() {
    let golden = golden("bert");
    let dir = changed(&golden.adapter_dir("mixed"), |_, tensors| {
        let heads = tensors.iter_mut().filter(|t| t.0.contains("classifier"));
        heads.for_each(|t| t.2.fill(3e38));
    });
    let engine = engine(&golden.base(), 512);
    add(&engine, "huge", dir.path());
    add(&engine, "mixed", &golden.adapter_dir("mixed"));
    let ask = |adapter| Request {
        text: "a text",
        pair: None,
        adapter: Some(adapter),
        want: Want::Classes,
    };
    let requests = ["mixed", "huge", "mixed"].map(ask);
    let answers = engine.answer(&requests, Truncate::No);
    let why = answers[1].as_ref().expect_err("it overflows").to_string();
    assert!(why.contains("huge") && why.contains("overflow"), "{why}");
    let [first, _, last] = &answers[..] else {
        panic!("three answers")
    };
    let [first, last] = [first, last].map(|a| a.as_ref().expect("an answer"));
    assert_eq!(first, last);
}

#[test]
fn dora_is_refused_by_name() {
    let why = refusal(|config, _| config["use_dora"] = true.into());
    assert!(why.contains("use_dora") || why.contains("DoRA"), "{why}");
}

#[test]
fn an_adapter_of_another_family_is_refused() {
    let (bert, roberta) = (golden("bert"), golden("roberta"));
    let adapter = Adapter::read(&roberta.adapter_dir("mixed")).expect("it reads");
    let error = load(&bert.base())
        .bind("foreign", &adapter)
        .expect_err("it does not fit");
    assert!(
        matches!(
            error,
            Error::BaseMismatch { .. } | Error::Shape { .. } | Error::Tensors { .. }
        ),
        "{error}"
    );
}

#[test]
fn one_row_one_adapter_is_what_a_person_gets_with_peft_one_by_one() {
    // Replacing a name while another row holds the old task: the old answer stays.
    let golden = golden("bert");
    let engine = engine(&golden.base(), 1 << 20);
    crate::fixtures::add(&engine, "a", &golden.adapter_dir("mixed"));
    let held = admit(&engine, Some("a"), Want::Classes, &golden.texts());
    let before = engine.run(&held);
    crate::fixtures::add(&engine, "a", &golden.adapter_dir("many/03"));
    let after = engine.run(&held);
    for (a, b) in before.iter().zip(&after) {
        assert_eq!(bits(logits(a)), bits(logits(b)));
    }
    let fresh = engine.run(&admit(&engine, Some("a"), Want::Classes, &golden.texts()));
    assert_ne!(logits(&fresh[0]).len(), logits(&before[0]).len());
}
