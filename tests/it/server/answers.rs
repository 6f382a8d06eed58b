//! Each route answers what the engine answers, bit for bit, and refuses in its family's envelope.

use serde_json::json;
use sorank::{
    engine::{Answer, Request, Want},
    server::Options,
    text::Truncate,
};

use super::{Server, floats};

fn engine_answer(server: &Server, text: &str, adapter: Option<&str>, want: Want) -> Answer {
    let engine = server.state.engine();
    let request = Request {
        text,
        pair: None,
        adapter,
        want,
    };
    let admitted = engine.admit(&request, Truncate::No).unwrap();
    engine.run(&[admitted]).pop().unwrap()
}

#[test]
fn vectors_are_the_engines() {
    let server = Server::start(Options::default());
    let Answer::Embedding(want) = engine_answer(&server, "a small boat", None, Want::Pooled) else {
        panic!("a vector")
    };
    let got = server.post(
        "/embed",
        json!({"inputs": "a small boat", "normalize": false}),
    );
    assert_eq!(got.status, 200, "{}", got.text);
    assert_eq!(floats(&got.json()[0]), want);
    assert_eq!(got.header("x-compute-type"), "cpu");
    assert!(!got.header("x-request-id").is_empty());

    let unit = floats(
        &server
            .post("/embed", json!({"inputs": "a small boat"}))
            .json()[0],
    );
    let body = json!({"model": "sorank", "input": ["x", "a small boat"]});
    let openai = server.post("/v1/embeddings", body).json();
    assert_eq!(floats(&openai["data"][1]["embedding"]), unit);
    let Answer::Tokens(m) = engine_answer(&server, "a small boat", None, Want::Tokens) else {
        panic!("token vectors")
    };
    let all = server
        .post("/embed_all", json!({"inputs": ["a small boat"]}))
        .json();
    assert_eq!(all[0].as_array().unwrap().len(), m.rows());
    assert_eq!(floats(&all[0][1]), m.row(1));

    // The ids of a text are the text, with its special tokens and without.
    let tokens = server
        .post("/tokenize", json!({"inputs": "a small boat"}))
        .json();
    let ids: Vec<_> = tokens[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["id"].clone())
        .collect();
    let by_ids = server.post("/embed", json!({"inputs": [ids]})).json();
    assert_eq!(floats(&by_ids[0]), unit);
    let bare = &ids[1..ids.len() - 1];
    assert_eq!(
        floats(&server.post("/embed", json!({"inputs": bare})).json()[0]),
        unit
    );
}

#[test]
fn base64_holds_the_same_bits_and_dimensions_are_cut() {
    use base64::Engine as _;
    let server = Server::start(Options::default());
    let ask = |format: &str| {
        let body = json!({"input": "boats", "encoding_format": format, "dimensions": 8});
        server.post("/v1/embeddings", body).json()["data"][0]["embedding"].clone()
    };
    let numbers = floats(&ask("float"));
    assert_eq!(numbers.len(), 8);
    let text = ask("base64");
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text.as_str().unwrap())
        .unwrap();
    let decoded: Vec<f32> = (bytes.chunks_exact(4))
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(decoded, numbers);
    let wrong = server.post("/v1/embeddings", json!({"input": "boats", "dimensions": 0}));
    assert_eq!(
        (wrong.status, &wrong.json()["error"]["param"]),
        (400, &json!("dimensions"))
    );
}

#[test]
fn labels_are_the_engines_on_every_route() {
    let server = Server::start(Options::default());
    let text = "what a wonderful trip";
    let Answer::Classes(want) = engine_answer(&server, text, Some("sentiment"), Want::Classes)
    else {
        panic!("classes")
    };
    let best = want.best();
    let one = server.post("/predict", json!({"inputs": text, "adapter": "sentiment"}));
    assert_eq!(
        floats(&json!([one.json()[0]["score"]])),
        [want.scores[best]]
    );
    assert_eq!(one.json()[0]["label"], want.labels[best].as_str());
    assert_eq!(one.header("x-adapter-generation").len(), 64);
    let raw = json!({"inputs": text, "adapter": "sentiment", "raw_scores": true});
    let raw = server.post("/predict", raw).json();
    assert_eq!(floats(&json!([raw[0]["score"]])), [want.logits[best]]);
    let classify = server
        .post("/classify", json!({"model": "sentiment", "input": [text]}))
        .json();
    assert_eq!(floats(&classify["data"][0]["probs"]), want.scores);
    let tensor = json!({"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]});
    let infer = server
        .post("/v2/models/sentiment/infer", json!({"inputs": [tensor]}))
        .json();
    assert_eq!(infer["outputs"][1]["name"], "logits");
    assert_eq!(floats(&infer["outputs"][1]["data"]), want.logits);
    // A pair is one input, a list of lists is several.
    let pair = server.post(
        "/predict",
        json!({"inputs": ["a", "b"], "adapter": "sentiment"}),
    );
    assert!(pair.json()[0]["label"].is_string());
    let many = server.post(
        "/predict",
        json!({"inputs": [["a"], ["a", "b"]], "adapter": "sentiment"}),
    );
    assert!(many.json()[1][0]["label"].is_string(), "{}", many.text);
}

#[test]
fn tokens_go_there_and_back() {
    let server = Server::start(Options::default());
    let tokens = server
        .post("/tokenize", json!({"inputs": ["hello there"]}))
        .json();
    assert_eq!(tokens[0][1]["text"], "hello");
    assert_eq!(
        (&tokens[0][2]["start"], &tokens[0][2]["stop"]),
        (&json!(6), &json!(11))
    );
    let ids: Vec<_> = tokens[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["id"].clone())
        .collect();
    assert_eq!(
        server.post("/decode", json!({"ids": ids})).json(),
        json!(["hello there"])
    );
    let vllm = server
        .post("/tokenize", json!({"prompt": "hello there"}))
        .json();
    assert_eq!(vllm["count"], 4);
    assert_eq!(
        server.post("/decode", json!({"ids": [4_000_000]})).status,
        422
    );
}

#[test]
fn metrics_have_teis_names_and_name_only_so_many_adapters() {
    let server = Server::start(Options {
        metric_adapters: 2,
        ..Options::default()
    });
    for adapter in ["sentiment", "question", "intent", "intent", "nobody"] {
        server.post("/predict", json!({"inputs": "x", "adapter": adapter}));
    }
    let text = server.get("/metrics").text;
    for line in [
        "te_request_count{method=\"single\"} 5",
        "te_request_success{method=\"single\"} 4",
        "te_request_failure{err=\"not_found\"} 1",
        "te_predict_count 5",
        "te_predict_success 4",
        "te_embed_count 0",
        "te_queue_size 0",
        "sorank_adapter_requests{adapter=\"sentiment\"} 1",
        "sorank_adapter_requests{adapter=\"other\"} 2",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(
        !text.contains("\"intent\"") && !text.contains("nobody"),
        "{text}"
    );
    for name in [
        "te_request_duration_bucket",
        "te_request_tokenization_duration_count",
        "te_request_queue_duration_count",
        "te_request_inference_duration_count",
        "te_request_input_length_sum",
        "te_batch_next_size_count",
        "te_batch_next_tokens_sum",
        "vllm:lora_requests_info",
    ] {
        assert!(text.contains(name), "{name}");
    }
}

#[test]
fn every_family_refuses_in_its_envelope() {
    let server = Server::start(Options::default());
    let tei = server.post("/embed", json!({"inputs": 5}));
    assert_eq!(
        (tei.status, tei.json()["error_type"].as_str()),
        (422, Some("Validation"))
    );
    let empty = server.post("/embed", json!({"inputs": ""}));
    assert_eq!(
        (empty.status, empty.json()["error_type"].as_str()),
        (400, Some("Empty"))
    );
    let long = server.post("/embed", json!({"inputs": "boat ".repeat(2000)}));
    assert_eq!(
        (long.status, long.json()["code"].as_str()),
        (422, Some("context_length_exceeded"))
    );
    let cut = json!({"inputs": "boat ".repeat(2000), "truncate": true});
    assert_eq!(server.post("/embed", cut).status, 200);
    let openai = server.post("/v1/embeddings", json!({"input": 5}));
    assert_eq!(
        (openai.status, &openai.json()["error"]["type"]),
        (400, &json!("invalid_request_error"))
    );
    let oip = server.post("/v2/models/nobody/infer", json!({"inputs": []}));
    assert!(
        oip.status == 404 && oip.json()["error"].is_string(),
        "{}",
        oip.text
    );
    let task = server.post("/predict", json!({"inputs": "x"}));
    assert_eq!(
        (task.status, task.json()["code"].as_str()),
        (422, Some("adapter_task_mismatch"))
    );
    let none = server.post("/v1/nothing", json!({}));
    assert_eq!(
        (none.status, &none.json()["error"]["code"]),
        (404, &json!("not_found"))
    );
    assert_eq!(server.get("/embed").status, 405);
    let form = super::post(
        &server.url,
        "/embed",
        "{}",
        &[("content-type", "text/plain")],
    );
    assert!([415, 422].contains(&form.status), "{}", form.text);
    let many: Vec<String> = vec!["x".to_owned(); 129];
    assert_eq!(server.post("/embed", json!({"inputs": many})).status, 413);
    assert_eq!(
        server
            .post("/embed", json!({"inputs": "x".repeat(3 << 20)}))
            .status,
        413
    );
}

#[test]
fn what_describes_the_server_is_there() {
    let server = Server::start(Options::default());
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(
        server.get("/info").json()["adapters"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][1]["parent"], "sorank");
    let api = server.get("/api-doc/openapi.json").json();
    for path in [
        "/embed",
        "/v1/embeddings",
        "/v1/load_lora_adapter",
        "/token_classify",
    ] {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    assert!(
        !server.get("/docs").text.contains("https://"),
        "nothing from outside"
    );
    server.post("/predict", json!({"inputs": "x", "adapter": "intent"}));
    let metrics = server.get("/metrics").text;
    for series in [
        "te_request_success{method=\"single\"} 1",
        "sorank_adapter_requests{adapter=\"intent\"} 1",
        "vllm:lora_requests_info{",
        "te_batch_next_tokens_count 1",
    ] {
        assert!(metrics.contains(series), "{series}\n{metrics}");
    }
    let list = server.get("/v1/lora_adapters?ranks=true").json();
    let site = &list["data"][0]["rank_map"][0];
    assert!(
        site["layer"].is_number() && site["site"].is_string() && site["rank"].is_number(),
        "{site}"
    );
    assert_eq!(server.get("/lora-adapters").json()[0]["path"], "intent");
}
