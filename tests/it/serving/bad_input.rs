//! Bad requests to every route: mutations of good bodies, by a fixed seed. None gets a 5xx, none hangs, and the server's
//! memory stays where it was. That every route is meant is read off the server's own description.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    Random,
    server::{Server, agent, post},
};
use crate::fixtures::golden;

/// Memory after against before, both after the same kind of traffic: what an allocator's own habits may make of it.
const GROWTH: f64 = 1.10;

/// Good bodies by route, and with `{}` the routes whose path has a name in it.
fn good() -> Vec<(&'static str, Vec<Value>)> {
    let tei = json!({"inputs": "the cat", "truncate": true, "truncation_direction": "left", "adapter": "00"});
    let load = json!({"lora_name": "x", "lora_path": "03", "load_inplace": true, "expected_generation": null, "pinned": false});
    let name = json!({"lora_name": "x", "lora_int_id": 3, "expected_generation": "ab"});
    let infer = json!({"id": "1", "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["the cat", "a dog"]}],
        "parameters": {"adapter": "00"}, "outputs": [{"name": "scores"}]});
    vec![
        (
            "/embed",
            vec![
                tei.clone(),
                json!({"inputs": [[1, 2], [3]], "normalize": false, "dimensions": 8, "prompt_name": "query"}),
            ],
        ),
        ("/embed_all", vec![tei.clone()]),
        (
            "/predict",
            vec![
                tei.clone(),
                json!({"inputs": [["a", "b"], ["c"]], "raw_scores": true, "adapters": ["00", "__base__"]}),
            ],
        ),
        (
            "/rerank",
            vec![
                json!({"query": "cat", "texts": ["a", "b"], "return_text": true, "raw_scores": true}),
                json!({"query": "cat", "documents": ["a", {"text": "b"}], "top_n": 1}),
            ],
        ),
        (
            "/similarity",
            vec![
                json!({"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}, "parameters": {"truncate": true}}),
            ],
        ),
        (
            "/tokenize",
            vec![
                json!({"inputs": ["a", "b"], "add_special_tokens": true}),
                json!({"prompt": "the cat"}),
            ],
        ),
        (
            "/decode",
            vec![
                json!({"ids": [1, 2, 3], "skip_special_tokens": true}),
                json!({"ids": [[1], [2]]}),
            ],
        ),
        ("/invocations", vec![tei.clone()]),
        (
            "/token_classify",
            vec![json!({"inputs": ["the cat"], "aggregation_strategy": "max", "adapter": "tags"})],
        ),
        (
            "/v1/embeddings",
            vec![
                json!({"model": "base", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 4, "user": "u"}),
            ],
        ),
        (
            "/classify",
            vec![
                json!({"model": "00", "input": ["a"], "truncate_prompt_tokens": 4, "use_activation": true}),
            ],
        ),
        (
            "/score",
            vec![
                json!({"model": "00", "text_1": "a", "text_2": ["b", "c"]}),
                json!({"queries": ["a"], "documents": ["b"]}),
            ],
        ),
        (
            "/v1/rerank",
            vec![
                json!({"model": "base", "query": "a", "documents": ["b", {"text": "c"}], "top_n": 1, "return_documents": true}),
            ],
        ),
        ("/v2/models/{}/infer", vec![infer.clone()]),
        ("/v2/models/{}/versions/{}/infer", vec![infer]),
        ("/v2/repository/index", vec![json!({"ready": true})]),
        (
            "/v2/repository/models/{}/load",
            vec![json!({"parameters": {"path": "04"}})],
        ),
        ("/v2/repository/models/{}/unload", vec![json!({})]),
        ("/v1/load_lora_adapter", vec![load]),
        ("/v1/unload_lora_adapter", vec![name.clone()]),
        ("/v1/rollback_lora_adapter", vec![name]),
        (
            "/v1/canary_lora_adapter",
            vec![json!({"lora_name": "x", "lora_path": "05", "percent": 20})],
        ),
        (
            "/v1/pin_lora_adapter",
            vec![json!({"lora_name": "x", "pinned": true})],
        ),
    ]
}

/// Values that programs get wrong.
fn odd(random: &mut Random) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.1),
        json!(""),
        json!("\u{0}"),
        json!("\u{202e}\u{fffd}\u{10ffff}"),
        json!("__base__"),
        json!("../../etc/passwd"),
        json!("/etc/passwd"),
        json!("s3://bucket/x"),
        json!("a".repeat(300)),
        json!("the cat ".repeat(2000)),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        json!(["a", "b", "c"]),
        json!([[1, 2, 4_000_000_000u64]]),
        json!({"generation": "ff"}),
        json!({"text": ""}),
        json!(vec!["a"; 200]),
        json!(vec![json!(["a", "b"]); 3]),
        json!(4_294_967_296u64),
        json!("00"),
        json!("tags"),
    ];
    random.of(&all).clone()
}

/// `value` with one place in it changed.
fn mutate(value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(map) if !map.is_empty() && random.below(5) > 0 => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = random.of(&keys).clone();
            match random.below(6) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(key, odd(random))),
                2 => drop(
                    map.insert(
                        random
                            .of(&[
                                "adapter",
                                "model",
                                "adapters",
                                "lora_path",
                                "parameters",
                                "surplus",
                            ])
                            .to_string(),
                        odd(random),
                    ),
                ),
                _ => mutate(map.get_mut(&key).expect("its key"), random),
            }
        }
        Value::Array(items) if !items.is_empty() && random.below(5) > 0 => {
            let i = random.below(items.len());
            match random.below(4) {
                0 => drop(items.remove(i)),
                1 => items.insert(i, odd(random)),
                _ => mutate(&mut items[i], random),
            }
        }
        other => *other = odd(random),
    }
}

/// A body as bytes: mostly JSON with a few changes, at times no JSON at all.
fn bytes(good: &Value, random: &mut Random) -> Vec<u8> {
    let mut value = good.clone();
    for _ in 0..random.below(4) {
        mutate(&mut value, random);
    }
    let mut bytes = value.to_string().into_bytes();
    match random.below(12) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        2 => bytes = [b"[".repeat(random.below(5000)), bytes].concat(),
        3 => bytes.extend_from_slice(b"{}"),
        _ => {}
    }
    bytes
}

fn path(route: &str, random: &mut Random) -> String {
    let names = [
        "base",
        "00",
        "tags",
        "nobody",
        "%2e%2e",
        "%00",
        "a%2Fb",
        "%ff",
        "1",
        &"n".repeat(400),
    ];
    let mut path = route.to_owned();
    while path.contains("{}") {
        let name: &&str = random.of(&names);
        path = path.replacen("{}", name, 1);
    }
    path
}

fn bad_requests(count: usize) {
    let golden = golden("bert");
    let root = golden.dir.join("adapters/many");
    let root = root.to_str().expect("UTF-8");
    let (base, tags) = (golden.base(), golden.adapter_dir("tags"));
    let server = Server::start(&[
        "--model",
        base.to_str().expect("UTF-8"),
        "--served-model-name",
        "base",
        "--adapter",
        &format!("tags={}", tags.display()),
        "--adapter-dir",
        root,
        "--adapter-root",
        root,
        "--allow-runtime-adapters",
        "--max-adapters",
        "24",
    ]);
    let good = good();
    every_route_is_here(&server, &good);
    let mut random = Random(17);
    let agent = agent();
    let mut tally: BTreeMap<u16, usize> = BTreeMap::new();
    let mut run = |count: usize| {
        for _ in 0..count {
            let (route, bodies) = random.of(&good);
            let path = path(route, &mut random);
            let body = bytes(random.of(bodies), &mut random);
            let shown = || String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned();
            let reply = post(&agent, &server.url, &path, &body)
                .unwrap_or_else(|e| panic!("{path}: {e}: {}", shown()));
            assert!(
                reply.status < 500,
                "{path}: {} {}: {}",
                reply.status,
                reply.body,
                shown()
            );
            if reply.status >= 400 {
                let said = reply.json();
                let why = said["error"].as_str().or(said["error"]["message"].as_str());
                let why =
                    why.unwrap_or_else(|| panic!("{path}: an error without words: {}", reply.body));
                assert!(!why.is_empty() && !why.contains(root), "{path}: {why}");
            }
            *tally.entry(reply.status).or_default() += 1;
        }
    };
    // What grows by a request grows by all of them; what an allocator keeps is there after the first half.
    let quarters = [(); 4].map(|()| {
        run(count / 4);
        server.resident()
    });
    let (before, after) = (quarters[1], quarters[3]);
    let reply = server.post("/predict", &json!({"inputs": "the cat"}));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(server.get("/health").status, 200);
    println!(
        "{count} bad requests over {} routes: {tally:?}; resident after each quarter {quarters:?} KiB",
        good.len()
    );
    assert!(
        tally[&200] * 50 > count,
        "hardly a body was good: the mutations are too wild"
    );
    assert!(
        after.0 as f64 <= before.0 as f64 * GROWTH,
        "memory grew: {before:?} -> {after:?}"
    );
}

/// No route that takes a body is left out of [`good`].
fn every_route_is_here(server: &Server, good: &[(&str, Vec<Value>)]) {
    let description = server.get("/api-doc/openapi.json").json();
    let paths = description["paths"].as_object().expect("paths");
    let plain = |path: &str| {
        let part = |p: &str| {
            if p.starts_with('{') {
                "{}".to_owned()
            } else {
                p.to_owned()
            }
        };
        path.split('/').map(part).collect::<Vec<_>>().join("/")
    };
    let mine: BTreeSet<&str> = good.iter().map(|(route, _)| *route).collect();
    let posts = paths
        .iter()
        .filter(|(_, methods)| methods.get("post").is_some());
    let missing: Vec<String> = posts
        .map(|(path, _)| plain(path))
        .filter(|p| !mine.contains(p.as_str()))
        .collect();
    assert!(missing.is_empty(), "not tried: {missing:?}");
}

#[test]
fn no_bad_request_gets_a_5xx() {
    bad_requests(1500);
}

#[test]
#[ignore = "minutes: just bad-input"]
fn no_bad_request_of_a_hundred_thousand_gets_a_5xx() {
    bad_requests(100_000);
}
