//! Adapters whose numbers overflow: refused at load; where one got in, its rows are refused and no others.

use std::path::Path;

use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use serde_json::json;
use sorank::{
    adapter::AdapterFiles,
    engine::{Answer, Request, Want},
    error::Error,
    server::State,
    text::Truncate,
};

use super::{Server, copy, runtime, tiny};

/// Makes the classifier of the adapter in `dir` so large that its sums overflow: each number alone is finite, and so is each
/// factor, so that nothing is seen when the files are read.
fn blow_up(dir: &Path) {
    let path = dir.join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let huge: Vec<(String, Vec<usize>, Dtype, Vec<u8>)> = (tensors.iter())
        .map(|(name, tensor)| {
            let count = tensor.shape().iter().product::<usize>();
            let (dtype, bytes) = match name.contains("classifier") {
                true => (Dtype::F32, 3e38f32.to_le_bytes().repeat(count)),
                false => (tensor.dtype(), tensor.data().to_vec()),
            };
            (name.to_owned(), tensor.shape().to_vec(), dtype, bytes)
        })
        .collect();
    let views = huge.iter().map(|(name, shape, dtype, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name, view)
    });
    std::fs::write(&path, serialize(views, None).unwrap()).unwrap();
}

/// It was loaded, and every request for it was answered 500.
#[test]
fn an_adapter_that_overflows_is_refused_at_load() {
    let root = tempfile::tempdir().unwrap();
    copy("sentiment", root.path(), "huge");
    blow_up(&root.path().join("huge"));
    let server = Server::with(State::new(tiny(), runtime(root.path())), &[]);
    let body = json!({"lora_name": "x", "lora_path": "huge"});
    let got = server.post("/v1/load_lora_adapter", body);
    let error = &got.json()["error"];
    assert_eq!(
        (got.status, &error["code"]),
        (422, &json!("invalid_lora_adapter"))
    );
    assert!(
        error["message"].as_str().unwrap().contains("overflow"),
        "{error}"
    );
    let absent = server.post("/predict", json!({"inputs": "x", "adapter": "x"}));
    assert_eq!(absent.status, 404);
}

#[test]
fn a_row_that_overflows_is_refused_by_name_and_its_neighbours_are_answered() {
    let root = tempfile::tempdir().unwrap();
    copy("sentiment", root.path(), "huge");
    blow_up(&root.path().join("huge"));
    let engine = tiny();
    let files = AdapterFiles::read(&root.path().join("huge")).unwrap();
    let adapter = files.adapter(Path::new("huge")).unwrap();
    // Bound past the check at load, as weights that overflow on some texts only would be.
    let task = engine.model().bind("huge", &adapter).unwrap();
    engine.registry().insert("huge", task);
    let request = |adapter: Option<&'static str>, want| Request {
        text: "a small boat",
        pair: None,
        adapter,
        want,
    };
    let admit = |r| engine.admit(&r, Truncate::No).unwrap();
    let alone = engine.run(&[admit(request(None, Want::Embedding))]);
    let mixed = [
        request(Some("huge"), Want::Classes),
        request(None, Want::Embedding),
        request(Some("huge"), Want::Classes),
    ];
    let answers = engine.run(&mixed.map(admit));
    assert_eq!(answers[0], Answer::Overflow);
    assert_eq!(answers[1], alone[0]);
    assert_eq!(answers[2], Answer::Overflow);
    let answered = engine.answer(&[request(Some("huge"), Want::Classes)], Truncate::No);
    assert!(matches!(&answered[0], Err(Error::Overflow { task }) if task.contains("huge")));

    let state = State::new(engine, runtime(root.path()));
    let server = Server::with(state, &[]);
    let got = server.post("/predict", json!({"inputs": ["a", "b"], "adapter": "huge"}));
    assert_eq!(
        (got.status, got.header("x-error-code")),
        (422, "adapter_overflow")
    );
    assert!(
        got.text.contains("inputs[0]: huge has no answer"),
        "{}",
        got.text
    );
    let fine = server.post("/embed", json!({"inputs": "a small boat"}));
    assert_eq!(fine.status, 200, "{}", fine.text);
}
