//! One of a stack, a single one, a table, and damaged ones.

use super::*;
use crate::adapter::fixture;

const QKV: &str = "roberta.encoder.layers.0.mixer.Wqkv";
const WORDS: &str = "roberta.embeddings.word_embeddings";

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Two tasks of rank 2 on a linear 3 -> 4, and zero ones on a table of 5 rows.
fn stack() -> Tensors {
    let count = |n: usize, from: f32| (0..n).map(|i| from + i as f32).collect::<Vec<f32>>();
    let part = |module: &str, part: &str| format!("{module}{MARK}{part}");
    vec![
        (part(QKV, "original"), vec![4, 3], count(12, 0.0)),
        (part(QKV, "0.lora_A"), vec![2, 2, 3], count(12, 1.0)),
        (part(QKV, "0.lora_B"), vec![2, 4, 2], count(16, -3.0)),
        (part(WORDS, "original"), vec![5, 3], count(15, 0.0)),
        (part(WORDS, "0.lora_A"), vec![2, 5, 2], vec![0.0; 20]),
        (part(WORDS, "0.lora_B"), vec![2, 2, 3], count(12, 0.0)),
        ("roberta.emb_ln.weight".into(), vec![3], count(3, 1.0)),
    ]
}

fn import(
    tensors: &Tensors,
    config: &str,
    options: &EmbeddedImport,
) -> Result<(Adapter, ImportReport)> {
    let dir = tempfile::tempdir().unwrap();
    let tensor = |(name, shape, data): &(String, Vec<usize>, Vec<f32>)| fixture::Tensor {
        name: name.clone(),
        dtype: "F32",
        shape: shape.clone(),
        bytes: data.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let file = fixture::file(&tensors.iter().map(tensor).collect::<Vec<_>>());
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    if !config.is_empty() {
        std::fs::write(dir.path().join("config.json"), config).unwrap();
    }
    assert!(Adapter::is_embedded(dir.path()).unwrap());
    Adapter::import_embedded(dir.path(), options)
}

const CONFIG: &str =
    r#"{"lora_alpha": 1, "lora_rank": 2, "lora_adaptations": ["query", "passage"]}"#;

fn which(which: &str) -> EmbeddedImport {
    EmbeddedImport {
        which: Some(which.into()),
        alpha: None,
    }
}

#[test]
fn one_of_a_stack_is_taken_by_name_or_number() {
    for name in ["passage", "1"] {
        let (adapter, report) = import(&stack(), CONFIG, &which(name)).unwrap();
        assert_eq!(adapter.factors.len(), 1);
        let f = &adapter.factors[QKV];
        assert_eq!(f.a.as_slice(), [7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
        assert_eq!(f.b.as_slice(), [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
        assert_eq!(f.scale, 0.5);
        let zero = report.modules.iter().find(|m| m.module == WORDS).unwrap();
        assert!(zero.kept.is_empty(), "an untrained table changes nothing");
    }
}

#[test]
fn a_single_parametrisation_needs_no_choice_but_its_alpha() {
    let mut single = stack();
    single.truncate(3);
    for (tensor, shape) in single.iter_mut().skip(1).zip([vec![2, 3], vec![4, 2]]) {
        tensor.2.truncate(shape.iter().product());
        tensor.1 = shape;
    }
    let alpha = EmbeddedImport {
        alpha: Some(4.0),
        which: None,
    };
    let (adapter, _) = import(&single, "", &alpha).unwrap();
    assert_eq!(adapter.factors[QKV].scale, 2.0);
    let why = import(&single, "", &EmbeddedImport::default())
        .unwrap_err()
        .to_string();
    assert!(why.contains("alpha"), "{why}");
}

#[test]
fn an_adapted_table_is_refused_by_name() {
    let mut tensors = stack();
    tensors[4].2[13] = 0.5; // of the second task
    assert!(import(&tensors, CONFIG, &which("query")).is_ok());
    let why = import(&tensors, CONFIG, &which("passage"))
        .unwrap_err()
        .to_string();
    assert!(why.contains(WORDS) && why.contains("table"), "{why}");
}

#[test]
fn what_is_not_there_is_named() {
    let why = |tensors: &Tensors, options: &EmbeddedImport| {
        import(tensors, CONFIG, options).unwrap_err().to_string()
    };
    assert!(why(&stack(), &EmbeddedImport::default()).contains("query, passage"));
    for wrong in ["2", "-1", "nobody"] {
        assert!(why(&stack(), &which(wrong)).contains(wrong));
    }
    let mut half = stack();
    half.remove(2);
    assert!(why(&half, &which("0")).contains("0.lora_B"));
    let mut other = stack();
    other.push((format!("{QKV}{MARK}0.magnitude"), vec![4], vec![1.0; 4]));
    assert!(why(&other, &which("0")).contains("magnitude"));
    let mut shape = stack();
    (shape[2].1, shape[2].2) = (vec![2, 4, 3], vec![1.0; 24]);
    assert!(why(&shape, &which("0")).contains(QKV));
    (shape[2].1, shape[2].2) = (vec![1, 4, 2], vec![1.0; 8]);
    assert!(why(&shape, &which("1")).contains(QKV));
}
