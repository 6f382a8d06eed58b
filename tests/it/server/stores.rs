//! Adapters from an object store, here a directory by `file://`: loads, the resolver, replicas, hostile names.

use std::path::Path;

use serde_json::json;
use sorank::server::{Options, State};

use super::{Server, copy, runtime, tiny};

fn url(dir: &Path) -> String {
    format!("file://{}", dir.canonicalize().unwrap().display())
}

fn replica(store: &Path) -> Server {
    let options = Options {
        adapter_root: None,
        adapter_stores: vec![url(store)],
        max_adapter_file_bytes: 1 << 20,
        ..runtime(store)
    };
    Server::with(State::new(tiny(), options), &[])
}

fn load(server: &Server, path: &str) -> super::Got {
    let body = json!({"lora_name": "x", "lora_path": path, "load_inplace": true});
    server.post("/v1/load_lora_adapter", body)
}

fn code(got: &super::Got) -> (u16, String) {
    let code = got.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    (got.status, code)
}

#[test]
fn two_replicas_of_one_store_answer_alike_and_say_the_same_generation() {
    let store = tempfile::tempdir().unwrap();
    copy("intent", store.path(), "intent/7");
    copy("sentiment", store.path(), "intent/8");
    let replicas = [replica(store.path()), replica(store.path())];
    let ask = json!({"inputs": "book a table", "adapter": "x"});
    for version in ["intent/7", "intent/8"] {
        let place = format!("{}/{version}", url(store.path()));
        let [a, b] = [0, 1].map(|i| {
            let loaded = load(&replicas[i], &place);
            assert_eq!(loaded.status, 200, "{}", loaded.text);
            let answer = replicas[i].post("/predict", ask.clone());
            (loaded.json()["generation"].clone(), answer.text)
        });
        assert_eq!(a, b);
    }
}

#[test]
fn only_what_stands_below_the_store_is_read_and_only_whole_adapters() {
    let outside = tempfile::tempdir().unwrap();
    copy("intent", outside.path(), "secret");
    let store = tempfile::tempdir().unwrap();
    copy("intent", store.path(), "good");
    copy("intent", store.path(), "cut");
    copy("intent", store.path(), "empty");
    copy("intent", store.path(), "large");
    let weights = |dir: &str| store.path().join(dir).join("adapter_model.safetensors");
    let bytes = std::fs::read(weights("cut")).unwrap();
    std::fs::write(weights("cut"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::remove_file(weights("empty")).unwrap();
    std::fs::write(weights("large"), vec![0; (1 << 20) + 1]).unwrap();
    let server = replica(store.path());
    let store = url(store.path());
    let forbidden = (403, "adapter_path_forbidden".to_owned());
    for place in [
        format!("{}/secret", url(outside.path())),
        format!("{store}/../{}/secret", outside.path().display()),
        format!("{store}/%2e%2e/secret"),
        format!("{store}-of-others/good"),
        format!("{store}/good?versionId=1"),
        store.clone(),
        "s3://bucket/good".to_owned(),
        "memory:///good".to_owned(),
        "http://127.0.0.1:1/good".to_owned(),
        "file:///etc".to_owned(),
    ] {
        let got = load(&server, &place);
        assert_eq!(code(&got), forbidden, "{place}");
        assert!(!got.text.contains("/tmp"), "{}", got.text);
    }
    for (place, want) in [
        ("nothing", (404, "lora_adapter_not_found")),
        ("a b", (404, "lora_adapter_not_found")),
        ("..//", (403, "adapter_path_forbidden")),
        ("cut", (422, "invalid_lora_adapter")),
        ("empty", (422, "invalid_lora_adapter")),
        ("large", (413, "lora_adapter_file_too_large")),
        ("good", (200, "")),
    ] {
        let got = load(&server, &format!("{store}/{place}"));
        assert_eq!(
            code(&got),
            (want.0, want.1.to_owned()),
            "{place}: {}",
            got.text
        );
        assert!(!got.text.contains("/tmp"), "{}", got.text);
    }
}

#[test]
fn a_name_below_the_resolvers_store_loads_on_first_use() {
    let store = tempfile::tempdir().unwrap();
    copy("intent", store.path(), "intent");
    let options = Options {
        adapter_dir: Some(url(store.path()).into()),
        ..Options::default()
    };
    let server = Server::with(State::new(tiny(), options), &[]);
    let ask = |name: &str| server.post("/predict", json!({"inputs": "x", "adapter": name}));
    assert_eq!(ask("intent").json().as_array().unwrap().len(), 150);
    for name in ["nobody", "..", "intent/../intent", "%2e%2e", "a b", ""] {
        assert_eq!(ask(name).status, 404, "{name}");
    }
}
