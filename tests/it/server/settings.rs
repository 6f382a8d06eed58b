//! What an operator or a request sets: prompts, origins of pages, how much of a text is kept.

use serde_json::json;
use sorank::server::{DefaultPrompt, Options};

use super::{Server, agent, floats, got};

#[test]
fn truncate_prompt_tokens_keeps_so_many() {
    let server = Server::start(Options::default());
    let long = "boat ".repeat(400);
    let vector = |body| floats(&server.post("/v1/embeddings", body).json()["data"][0]["embedding"]);
    // Five tokens are three words between [CLS] and [SEP].
    let cut = vector(json!({"input": long, "truncate_prompt_tokens": 5}));
    assert_eq!(cut, vector(json!({"input": "boat boat boat"})));
    let whole = server.post("/embed", json!({"inputs": long, "truncate": true}));
    let cut = vector(json!({"input": long, "truncate_prompt_tokens": -1}));
    assert_eq!(cut, floats(&whole.json()[0]));

    let body = json!({"model": "sentiment", "input": long, "truncate_prompt_tokens": 5});
    let classified = server.post("/classify", body).json();
    let short = json!({"model": "sentiment", "input": "boat boat boat"});
    let short = server.post("/classify", short).json();
    assert_eq!(classified["data"], short["data"]);
    assert_eq!(classified["usage"]["prompt_tokens"], 5);

    for wrong in [0, -2, 100_000] {
        let body = json!({"input": "boat", "truncate_prompt_tokens": wrong});
        let refused = server.post("/v1/embeddings", body);
        let param = refused.json()["error"]["param"].clone();
        assert_eq!(
            (refused.status, param),
            (400, json!("truncate_prompt_tokens"))
        );
    }
}

#[test]
fn the_elements_of_a_tensor_may_be_nested() {
    let server = Server::start(Options::default());
    let infer = |shape, data| {
        let tensor = json!({"name": "text", "shape": shape, "datatype": "BYTES", "data": data});
        server.post("/v2/models/sentiment/infer", json!({"inputs": [tensor]}))
    };
    let flat = infer(json!([2, 1]), json!(["a boat", "a car"]));
    let nested = infer(json!([2, 1]), json!([["a boat"], ["a car"]]));
    assert_eq!(flat.status, 200, "{}", flat.text);
    assert_eq!(flat.json(), nested.json());
    assert_eq!(
        infer(json!([1]), json!([["a boat"], ["a car"]])).status,
        400
    );
}

#[test]
fn the_servers_prompt_stands_before_texts_where_a_request_names_none() {
    let bare = Server::start(Options::default());
    let server = Server::start(Options {
        default_prompt: Some(DefaultPrompt::Text("query: ".to_owned())),
        ..Options::default()
    });
    let asked = server.post("/embed", json!({"inputs": "a boat"})).json();
    let spelled = bare.post("/embed", json!({"inputs": "query: a boat"}));
    assert_eq!(asked, spelled.json());
    // Token ids are taken as they are.
    let ids = json!({"inputs": [[5, 6]]});
    assert_eq!(
        server.post("/embed", ids.clone()).json(),
        bare.post("/embed", ids).json()
    );
}

#[test]
fn pages_of_named_origins_may_ask() {
    let key = Some("secret".to_owned());
    let server = Server::start(Options {
        cors_allow_origin: vec!["https://app.example".to_owned()],
        api_keys: key.iter().cloned().collect(),
        ..Options::default()
    });
    let before = |origin: &str| {
        let asks = ureq::options(format!("{}/embed", server.url))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            );
        got(asks.call().unwrap())
    };
    let allowed = before("https://app.example");
    assert_eq!(allowed.status, 200);
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        "https://app.example"
    );
    assert!(
        allowed
            .header("access-control-allow-headers")
            .contains("authorization")
    );
    assert_eq!(
        before("https://other.example").header("access-control-allow-origin"),
        ""
    );
    // Without origins nothing answers for them.
    let closed = Server::start(Options::default());
    let asked = agent()
        .options(format!("{}/embed", closed.url))
        .call()
        .unwrap();
    assert_eq!(got(asked).status, 405);
    // Being allowed to ask is no key.
    let origin = ("origin", "https://app.example");
    let body = json!({"inputs": "a boat"});
    assert_eq!(
        server.post_with("/embed", body.clone(), &[origin]).status,
        401
    );
    let bearer = ("authorization", "Bearer secret");
    let answered = server.post_with("/embed", body, &[origin, bearer]);
    assert_eq!(answered.status, 200);
    assert_eq!(
        answered.header("access-control-allow-origin"),
        "https://app.example"
    );
}
