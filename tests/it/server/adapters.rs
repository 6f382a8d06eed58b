//! The life of an adapter: loaded, replaced, rolled back, tried, evicted, found on first use, kept over a restart.

use std::path::Path;

use serde_json::{Value, json};
use sorank::{
    engine::registry::Limits,
    server::{Options, StartAdapter, State},
};

use super::{Server, copy, runtime, tiny};

fn load(server: &Server, name: &str, path: &str, more: Value) -> super::Got {
    let mut body = json!({"lora_name": name, "lora_path": path});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    server.post("/v1/load_lora_adapter", body)
}

fn labels(server: &Server, name: &str) -> usize {
    let got = server.post("/predict", json!({"inputs": "x", "adapter": name}));
    assert_eq!(got.status, 200, "{}", got.text);
    got.json().as_array().unwrap().len()
}

fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (from, to) in [("sentiment", "a"), ("intent", "b"), ("question", "c")] {
        copy(from, root.path(), to);
    }
    root
}

fn bare(options: Options) -> Server {
    Server::with(State::new(tiny(), options), &[])
}

fn code(got: &super::Got) -> String {
    got.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_name_is_replaced_by_who_knows_its_generation_and_rolled_back() {
    let root = root();
    let server = bare(runtime(root.path()));
    let first = load(&server, "t", "a", json!({})).json();
    assert_eq!(
        (labels(&server, "t"), &first["replaced"]),
        (2, &Value::Null)
    );
    assert_eq!(
        code(&load(&server, "t", "b", json!({}))),
        "lora_adapter_already_loaded"
    );
    let stale = load(&server, "t", "b", json!({"expected_generation": "00"}));
    assert_eq!(
        (stale.status, code(&stale).as_str()),
        (409, "lora_generation_mismatch")
    );
    assert_eq!(labels(&server, "t"), 2, "a refused change changes nothing");
    let expected = json!({"expected_generation": first["generation"]});
    assert_eq!(
        load(&server, "t", "b", expected).json()["replaced"],
        first["generation"]
    );
    assert_eq!(labels(&server, "t"), 150);
    let back = server.post("/v1/rollback_lora_adapter", json!({"lora_name": "t"}));
    assert_eq!(back.json()["generation"], first["generation"]);
    assert_eq!(labels(&server, "t"), 2);
    let gone = server.post("/v1/unload_lora_adapter", json!({"lora_name": "t"}));
    assert_eq!(gone.status, 200);
    let again = server.post("/v1/unload_lora_adapter", json!({"lora_name": "t"}));
    assert_eq!(
        (again.status, code(&again).as_str()),
        (404, "lora_adapter_not_found")
    );
}

#[test]
fn a_load_that_fails_leaves_the_old_one_serving() {
    let root = root();
    let server = bare(runtime(root.path()));
    load(&server, "t", "a", json!({}));
    let weights = root.path().join("b/adapter_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let cut = load(&server, "t", "b", json!({"load_inplace": true}));
    assert_eq!(
        (cut.status, code(&cut).as_str()),
        (422, "invalid_lora_adapter")
    );
    assert!(
        !cut.text.contains(root.path().to_str().unwrap()),
        "{}",
        cut.text
    );
    let wrong = json!({"rows": [{"text": "x", "logits": [1.0, 2.0, 3.0]}]}).to_string();
    std::fs::write(root.path().join("c/selftest.json"), wrong).unwrap();
    let untrue = load(&server, "t", "c", json!({"load_inplace": true}));
    assert!(
        untrue.status == 422 && untrue.text.contains("selftest.json"),
        "{}",
        untrue.text
    );
    assert_eq!(labels(&server, "t"), 2);
}

#[test]
fn identical_files_are_one_generation() {
    let root = root();
    copy("sentiment", root.path(), "same");
    let server = bare(runtime(root.path()));
    let [a, b] = [("x", "a"), ("y", "same")].map(|(n, p)| load(&server, n, p, json!({})).json());
    assert_eq!(a["generation"], b["generation"]);
    let list = server.get("/v1/lora_adapters").json();
    assert_eq!(list["resident_generations"], 1);
    assert_eq!(list["resident_bytes"], a["bytes"]);
    assert_eq!(list["generations"][0]["aliases"], json!(["x", "y"]));
}

#[test]
fn a_canary_gets_its_share_and_is_promoted() {
    let root = root();
    let server = bare(runtime(root.path()));
    load(&server, "t", "a", json!({}));
    let canary = |body: Value| server.post("/v1/canary_lora_adapter", body);
    let none = canary(json!({"lora_name": "t", "percent": 50}));
    assert_eq!(none.status, 404, "there is none on trial");
    let on = canary(json!({"lora_name": "t", "lora_path": "b", "percent": 25}));
    assert_eq!(on.status, 200, "{}", on.text);
    let tried = (0..40).filter(|_| labels(&server, "t") == 150).count();
    assert_eq!(tried, 10, "a quarter, exactly");
    assert_eq!(
        canary(json!({"lora_name": "t", "percent": 100})).status,
        200
    );
    assert_eq!(labels(&server, "t"), 150);
    canary(json!({"lora_name": "t", "lora_path": "c", "percent": 50}));
    canary(json!({"lora_name": "t", "percent": 0}));
    assert!((0..10).all(|_| labels(&server, "t") == 150));
}

#[test]
fn the_longest_unused_goes_and_comes_back_when_asked_for() {
    let root = root();
    let limits = Limits {
        adapters: 2,
        ..Limits::default()
    };
    let server = bare(Options {
        limits,
        ..runtime(root.path())
    });
    load(&server, "x", "a", json!({"pinned": true}));
    load(&server, "y", "b", json!({}));
    let third = load(&server, "z", "c", json!({})).json();
    assert_eq!(third["evicted"], json!(["y"]), "x is older and pinned");
    assert_eq!(labels(&server, "y"), 150, "known, so loaded again");
    let pin = json!({"lora_name": "y", "pinned": true});
    assert_eq!(server.post("/v1/pin_lora_adapter", pin).status, 200);
    let full = load(&server, "w", "c", json!({}));
    assert_eq!(
        (full.status, code(&full).as_str()),
        (409, "lora_adapter_limit_exceeded")
    );
    server.state.engine().registry().limit(Limits {
        rank: 1,
        ..Limits::default()
    });
    let high = load(&server, "w", "c", json!({}));
    assert_eq!(code(&high), "lora_rank_limit_exceeded");
}

#[test]
fn a_subdirectory_of_the_resolver_loads_on_first_use() {
    let root = root();
    let server = bare(Options {
        adapter_dir: Some(root.path().to_owned()),
        ..Options::default()
    });
    assert_eq!(labels(&server, "b"), 150);
    assert_eq!(server.get("/v1/lora_adapters").json()["data"][0]["id"], "b");
    for name in ["nobody", "..", "../b", "a/../b", ""] {
        let got = server.post("/embed", json!({"inputs": "x", "adapter": name}));
        assert_eq!(got.status, 404, "{name}: {}", got.text);
    }
}

#[test]
fn the_state_file_brings_back_names_pins_and_canaries() {
    let root = root();
    let state = tempfile::tempdir().unwrap();
    let options = || Options {
        state_file: Some(state.path().join("state.json")),
        ..runtime(root.path())
    };
    let list = |server: &Server| {
        let mut list = server.get("/v1/lora_adapters").json()["data"].clone();
        let keep = ["id", "generation", "pinned", "canary"];
        for adapter in list.as_array_mut().unwrap() {
            (adapter.as_object_mut().unwrap()).retain(|key, _| keep.contains(&key.as_str()));
        }
        list
    };
    let server = bare(options());
    load(&server, "t", "a", json!({"pinned": true}));
    load(&server, "u", "c", json!({}));
    let canary = json!({"lora_name": "t", "lora_path": "b", "percent": 10});
    server.post("/v1/canary_lora_adapter", canary);
    server.post("/v1/unload_lora_adapter", json!({"lora_name": "u"}));
    let before = list(&server);
    drop(server);
    assert_eq!(list(&bare(options())), before);
    std::fs::write(state.path().join("state.json"), "{").unwrap();
    let failed = sorank::server::start(&State::new(tiny(), options()), &[]);
    assert!(failed.unwrap_err().message.contains("state.json"));
}

#[test]
fn requests_under_way_keep_the_generation_they_began_with() {
    let root = root();
    let server = bare(runtime(root.path()));
    load(&server, "t", "a", json!({}));
    let held = server.state.engine().registry().get(Some("t")).unwrap();
    load(&server, "t", "b", json!({"load_inplace": true}));
    server.post("/v1/unload_lora_adapter", json!({"lora_name": "t"}));
    let list = server.get("/v1/lora_adapters").json();
    assert_eq!(list["retired_generations"], 1);
    assert_eq!(list["generations"][0]["active_leases"], 1);
    assert_eq!(held.classifier.as_ref().unwrap().labels.len(), 2);
    drop(held);
    assert_eq!(
        server.get("/v1/lora_adapters").json()["retired_generations"],
        0
    );
}

#[test]
fn kserve_loads_and_unloads_by_name() {
    let root = root();
    let server = bare(runtime(root.path()));
    assert_eq!(
        server
            .post("/v2/repository/models/b/load", json!({}))
            .status,
        200
    );
    assert_eq!(server.get("/v2/models/b/ready").status, 200);
    let index = server.post("/v2/repository/index", json!({})).json();
    assert_eq!(index[1]["name"], "b");
    assert_eq!(
        server
            .post("/v2/repository/models/b/unload", json!({}))
            .status,
        200
    );
    assert_eq!(server.get("/v2/models/b").status, 404);
}

#[test]
fn a_directory_given_at_start_is_read_where_it_is() {
    let adapters = [(
        "mine".to_owned(),
        StartAdapter::Dir(super::adapters_dir().join("intent")),
    )];
    let server = Server::with(State::new(tiny(), Options::default()), &adapters);
    assert_eq!(labels(&server, "mine"), 150);
    let missing = [(
        "x".to_owned(),
        StartAdapter::Dir(Path::new("no-such").to_owned()),
    )];
    let state = State::new(tiny(), Options::default());
    assert!(sorank::server::start(&state, &missing).is_err());
}
