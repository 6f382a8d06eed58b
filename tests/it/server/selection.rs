//! Who answers: every way of naming an adapter, and never the base by mistake.

use serde_json::{Value, json};
use sorank::server::Options;

use super::Server;

fn label(server: &Server, body: Value, headers: &[(&str, &str)]) -> (u16, String) {
    let got = server.post_with("/predict", body, headers);
    let label = got.json()[0]["label"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    (got.status, label)
}

#[test]
fn every_way_of_naming_an_adapter_names_it() {
    let server = Server::start(Options::default());
    let list = server.get("/v1/lora_adapters").json();
    let generation = list["data"][2]["generation"].clone();
    let text = "what a wonderful trip";
    for body in [
        json!({"model": "sentiment"}),
        json!({"model": "sorank::sentiment"}),
        json!({"model": "sorank:sentiment"}),
        json!({"adapter": "sentiment"}),
        json!({"model": "sorank", "adapter": "sentiment"}),
        json!({"adapter": {"generation": generation}}),
        json!({"parameters": {"adapter_id": "sentiment"}}),
        json!({"lora_path": "sentiment"}),
    ] {
        let mut body = body;
        body["inputs"] = json!(text);
        let got = label(&server, body.clone(), &[]);
        assert_eq!(got, (200, "positive".to_owned()), "{body}");
    }
    let by_header = label(
        &server,
        json!({"inputs": text}),
        &[("x-adapter", "sentiment")],
    );
    assert_eq!(by_header, (200, "positive".to_owned()));
}

#[test]
fn an_unknown_name_is_404_and_a_conflict_400() {
    let server = Server::start(Options::default());
    for body in [
        json!({"model": "nobody"}),
        json!({"model": "sorank::nobody"}),
        json!({"adapter": "nobody"}),
        json!({"adapter": {"generation": "00"}}),
        json!({"lora_path": "/etc/passwd"}),
        json!({"adapters": ["sentiment", "nobody"]}),
    ] {
        for path in ["/embed", "/predict"] {
            let mut body = body.clone();
            body["inputs"] = json!("x");
            let got = server.post(path, body.clone());
            assert_eq!(
                (got.status, got.json()["code"].as_str()),
                (404, Some("model_not_found")),
                "{body}"
            );
        }
    }
    for body in [
        json!({"model": "sentiment", "adapter": "intent"}),
        json!({"adapter": "sentiment", "parameters": {"adapter_id": "intent"}}),
        json!({"adapter": "sentiment", "adapters": ["intent"]}),
    ] {
        let mut body = body;
        body["inputs"] = json!("x");
        assert_eq!(server.post("/predict", body.clone()).status, 400, "{body}");
    }
}

#[test]
fn one_call_may_have_an_adapter_an_input_or_many_for_one() {
    let server = Server::start(Options::default());
    let fan = json!({"inputs": "book a table", "adapters": ["sentiment", "intent"]});
    let fan = server.post("/predict", fan).json();
    assert_eq!(fan[0].as_array().unwrap().len(), 2);
    assert_eq!(fan[1].as_array().unwrap().len(), 150);
    let each = json!({"inputs": ["x", "x"], "adapters": ["__base__", "intent"]});
    let each = server.post("/embed", each).json();
    assert_ne!(each[0], each[1]);
    let base = server.post("/embed", json!({"inputs": "x"})).json();
    assert_eq!(each[0], base[0]);
    let wrong = json!({"inputs": ["x", "x", "x"], "adapters": ["intent", "intent"]});
    assert_eq!(server.post("/embed", wrong).status, 422);
}

#[test]
fn any_model_is_the_base_only_where_that_was_asked_for() {
    let options = Options {
        accept_any_model: true,
        ..Options::default()
    };
    let server = Server::start(options);
    let body = json!({"model": "text-embedding-ada-002", "input": "x"});
    assert_eq!(
        server.post("/v1/embeddings", body).json()["model"],
        "text-embedding-ada-002"
    );
    let got = server.post("/embed", json!({"adapter": "nobody", "inputs": "x"}));
    assert_eq!(got.status, 404, "only `model` is lenient");
}
