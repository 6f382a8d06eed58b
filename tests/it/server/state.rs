//! What is kept over a restart, and what happens where it cannot be kept.

use std::path::Path;

use serde_json::{Value, json};
use sorank::{
    engine::registry::Limits,
    server::{Options, State},
};

use super::{Got, Server, copy, runtime, tiny};

/// A root with the built-in adapters a, b and c, and a directory of the state file.
struct Places {
    root: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for (from, to) in [("sentiment", "a"), ("intent", "b"), ("question", "c")] {
            copy(from, root.path(), to);
        }
        let state = tempfile::tempdir().unwrap();
        Self { root, state }
    }

    fn options(&self) -> Options {
        Options {
            state_file: Some(self.state.path().join("state.json")),
            ..runtime(self.root.path())
        }
    }

    fn server(&self, options: Options) -> Server {
        Server::with(State::new(tiny(), options), &[])
    }
}

fn load(server: &Server, name: &str, path: &str) -> Got {
    let body = json!({"lora_name": name, "lora_path": path, "load_inplace": true});
    server.post("/v1/load_lora_adapter", body)
}

fn change(server: &Server, what: &str, more: Value) -> Got {
    let mut body = json!({"lora_name": "t"});
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    server.post(&format!("/v1/{what}_lora_adapter"), body)
}

fn labels(server: &Server, name: &str) -> usize {
    let got = server.post("/predict", json!({"inputs": "x", "adapter": name}));
    assert_eq!(got.status, 200, "{}", got.text);
    got.json().as_array().unwrap().len()
}

/// What the list says of `name`.
fn listed(server: &Server, name: &str) -> Value {
    let list = server.get("/v1/lora_adapters").json()["data"].clone();
    let mut all = list.as_array().unwrap().iter();
    all.find(|a| a["id"] == name).cloned().unwrap_or_default()
}

/// The client was told 200 and a restart forgot the change.
#[test]
fn a_change_whose_state_cannot_be_written_is_taken_back_and_not_acknowledged() {
    let places = Places::new();
    let limits = Limits {
        adapters: 2,
        ..Limits::default()
    };
    let server = places.server(Options {
        limits,
        ..places.options()
    });
    assert_eq!(load(&server, "t", "a").status, 200);
    assert_eq!(load(&server, "u", "c").status, 200);
    let before = server.get("/v1/lora_adapters").json()["data"].clone();
    std::fs::remove_dir_all(places.state.path()).unwrap();
    let refused = |got: Got| {
        let code = got.json()["error"]["code"].clone();
        assert_eq!(
            (got.status, code),
            (507, json!("state_not_saved")),
            "{}",
            got.text
        );
        assert!(!got.text.contains("state.json"), "{}", got.text);
    };
    refused(load(&server, "t", "b"));
    refused(load(&server, "new", "b")); // would evict one
    refused(change(&server, "pin", json!({"pinned": true})));
    refused(change(
        &server,
        "canary",
        json!({"lora_path": "b", "percent": 50}),
    ));
    refused(change(&server, "unload", json!({})));
    let after = server.get("/v1/lora_adapters").json()["data"].clone();
    assert_eq!(after, before);
    assert_eq!(labels(&server, "t"), 2);
    let absent = server.post("/predict", json!({"inputs": "x", "adapter": "new"}));
    assert_eq!(absent.status, 404);
    std::fs::create_dir(places.state.path()).unwrap();
    assert_eq!(load(&server, "t", "b").status, 200);
    drop(server);
    assert_eq!(labels(&places.server(places.options()), "t"), 150);
}

#[test]
fn a_request_that_brings_back_an_evicted_name_does_not_need_the_state_file() {
    let places = Places::new();
    let limits = Limits {
        adapters: 1,
        ..Limits::default()
    };
    let server = places.server(Options {
        limits,
        ..places.options()
    });
    load(&server, "t", "a");
    load(&server, "u", "b");
    std::fs::remove_dir_all(places.state.path()).unwrap();
    assert_eq!((labels(&server, "t"), labels(&server, "u")), (2, 150));
}

#[test]
fn the_generation_before_can_be_rolled_back_to_after_a_restart() {
    let places = Places::new();
    let server = places.server(places.options());
    load(&server, "t", "a");
    load(&server, "t", "b");
    let before = listed(&server, "t");
    drop(server);
    let server = places.server(places.options());
    let after = listed(&server, "t");
    for key in ["generation", "previous_generation"] {
        assert!(
            before[key].is_string() && before[key] == after[key],
            "{key}"
        );
    }
    assert_eq!(change(&server, "rollback", json!({})).status, 200);
    assert_eq!(labels(&server, "t"), 2);
    drop(server);
    // Now b is the one before a; its files are replaced in place.
    std::fs::remove_dir_all(places.root.path().join("b")).unwrap();
    copy("question", places.root.path(), "b");
    let server = places.server(places.options());
    assert_eq!(
        (
            labels(&server, "t"),
            &listed(&server, "t")["previous_generation"]
        ),
        (2, &Value::Null)
    );
    assert_eq!(change(&server, "rollback", json!({})).status, 404);
}

/// A name that a restart could not load was written back without its pin and its canary.
#[test]
fn a_name_that_is_not_in_memory_keeps_its_pin_and_its_canary() {
    let places = Places::new();
    let server = places.server(places.options());
    load(&server, "t", "a");
    change(&server, "pin", json!({"pinned": true}));
    change(&server, "canary", json!({"lora_path": "b", "percent": 50}));
    let before = listed(&server, "t");
    drop(server);
    let (there, away) = (
        places.root.path().join("a"),
        places.root.path().join("away"),
    );
    std::fs::rename(&there, &away).unwrap();
    for _ in 0..2 {
        let server = places.server(places.options());
        assert_eq!(listed(&server, "t"), Value::Null);
        let gone = server.post("/predict", json!({"inputs": "x", "adapter": "t"}));
        assert_eq!(gone.status, 404, "{}", gone.text);
    }
    std::fs::rename(&away, &there).unwrap();
    let server = places.server(places.options());
    labels(&server, "t");
    let after = listed(&server, "t");
    for key in ["generation", "pinned", "canary"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert_eq!(after["pinned"], true);
}

#[test]
fn an_evicted_name_comes_back_with_its_canary() {
    let places = Places::new();
    let limits = Limits {
        adapters: 1,
        ..Limits::default()
    };
    let server = places.server(Options {
        limits,
        ..runtime(Path::new(places.root.path()))
    });
    load(&server, "t", "a");
    change(&server, "canary", json!({"lora_path": "b", "percent": 50}));
    let before = listed(&server, "t")["canary"].clone();
    assert_eq!(load(&server, "u", "c").json()["evicted"], json!(["t"]));
    labels(&server, "t");
    assert_eq!(listed(&server, "t")["canary"], before);
}
