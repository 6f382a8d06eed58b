//! Who may change adapters, from where, and who may ask at all.

use std::os::unix::fs::symlink;

use serde_json::json;
use sorank::server::{Options, State};

use super::{Server, copy, runtime, tiny};

#[test]
fn changing_is_off_unless_it_was_allowed() {
    let server = Server::start(Options::default());
    let body = json!({"lora_name": "x", "lora_path": "sentiment"});
    let got = server.post("/v1/load_lora_adapter", body);
    assert_eq!(
        (got.status, &got.json()["error"]["code"]),
        (409, &json!("lora_runtime_unavailable"))
    );
}

#[test]
fn keys_open_inference_and_only_the_admin_token_opens_changes() {
    let options = Options {
        api_keys: vec!["key-1".to_owned(), "key-2".to_owned()],
        admin_token: Some("admin".to_owned()),
        ..runtime(super::adapters_dir())
    };
    let server = Server::start(options);
    let ask = |bearer: &str| {
        let header = format!("Bearer {bearer}");
        server.post_with(
            "/embed",
            json!({"inputs": "x"}),
            &[("authorization", &header)],
        )
    };
    assert_eq!(server.post("/embed", json!({"inputs": "x"})).status, 401);
    assert_eq!(
        ["key-2", "admin", "key", "", "key-12"].map(|k| ask(k).status),
        [200, 200, 401, 401, 401]
    );
    assert_eq!(server.get("/health").status, 200, "probes have no key");
    let body = json!({"lora_name": "x", "lora_path": "intent"});
    let change = |bearer: &str| {
        let header = format!("Bearer {bearer}");
        let headers = [("authorization", header.as_str())];
        server
            .post_with("/v1/load_lora_adapter", body.clone(), &headers)
            .status
    };
    assert_eq!(["key-1", "admin"].map(change), [401, 200]);
}

#[test]
fn no_path_leads_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    copy("intent", outside.path(), "secret");
    let root = tempfile::tempdir().unwrap();
    copy("sentiment", root.path(), "good");
    copy("sentiment", root.path(), "linked-file");
    copy("sentiment", root.path(), "hard");
    symlink(outside.path().join("secret"), root.path().join("link")).unwrap();
    symlink(root.path().join("good"), root.path().join("alias")).unwrap();
    let weights = "adapter_model.safetensors";
    let relink = |dir: &str, link: fn(std::path::PathBuf, std::path::PathBuf)| {
        let at = root.path().join(dir).join(weights);
        std::fs::remove_file(&at).unwrap();
        link(outside.path().join("secret").join(weights), at);
    };
    relink("linked-file", |from, to| symlink(from, to).unwrap());
    relink("hard", |from, to| std::fs::hard_link(from, to).unwrap());
    let server = Server::with(State::new(tiny(), runtime(root.path())), &[]);
    let load = |path: &str| {
        let body = json!({"lora_name": "x", "lora_path": path, "load_inplace": true});
        server.post("/v1/load_lora_adapter", body)
    };
    let absolute = outside.path().join("secret");
    for path in [
        absolute.to_str().unwrap(),
        "/etc",
        "../secret",
        "good/../../secret",
        "link",
        "linked-file",
        "hard",
        "",
        "s3://bucket/adapter",
        "file:///etc",
    ] {
        let got = load(path);
        let code = got.json()["error"]["code"].clone();
        assert_eq!(
            (got.status, code),
            (403, json!("adapter_path_forbidden")),
            "{path}: {}",
            got.text
        );
        assert!(!got.text.contains("/tmp"), "{}", got.text);
    }
    assert_eq!(load("absent").status, 404);
    assert_eq!(load("good").status, 200);
    assert_eq!(
        load("alias").status,
        200,
        "a link that stays inside is followed"
    );
    let spelled = root.path().canonicalize().unwrap().join("good");
    assert_eq!(load(spelled.to_str().unwrap()).status, 200);
}

#[test]
fn names_and_sizes_are_checked() {
    let root = tempfile::tempdir().unwrap();
    copy("sentiment", root.path(), "good");
    let options = Options {
        max_adapter_file_bytes: 1000,
        ..runtime(root.path())
    };
    let server = Server::with(State::new(tiny(), options), &[]);
    let load = |name: &str| {
        let body = json!({"lora_name": name, "lora_path": "good"});
        let got = server.post("/v1/load_lora_adapter", body);
        (
            got.status,
            got.json()["error"]["code"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    for name in [
        "",
        "a b",
        "../x",
        "a//b",
        ".x",
        "sorank",
        "__base__",
        "a:b",
        &"x".repeat(257),
    ] {
        assert_eq!(load(name), (400, "invalid_lora_name".to_owned()), "{name}");
    }
    assert_eq!(
        load("fine"),
        (413, "lora_adapter_file_too_large".to_owned())
    );
}
