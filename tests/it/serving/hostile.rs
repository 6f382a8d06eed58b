//! Hostile adapters: directories made from good ones by seeded mutations of every file. The server refuses each with a
//! reason, or loads it and answers as the library does that binds the same files; and goes on serving either way.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sorank::{
    adapter::AdapterFiles,
    engine::{Answer, Engine, Request, Want},
    model::Level,
    text::Truncate,
};

use super::{Random, server::Server};
use crate::fixtures::golden;

const TEXT: &str = "the cat sat on the old hill";
const GOOD: [&str; 7] = ["mixed", "qv2", "embed", "reg", "tags", "multi", "many/05"];

/// What a mutation did to an adapter, and whether files alone tell what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Files,
    /// A link or a special file: the server refuses what the library, which trusts its caller, would follow.
    Links,
}

fn odd(random: &mut Random) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1e300),
        json!(1e-300),
        json!(u64::MAX),
        json!(3),
        json!(""),
        json!("(a+)+$"),
        json!("."),
        json!("query"),
        json!("FEATURE_EXTRACTION"),
        json!("TOKEN_CLS"),
        json!("SEQ_CLS"),
        json!("/etc/passwd"),
        json!([]),
        json!({}),
        json!(["query", "query"]),
        json!({".*": 4}),
        json!({"query": -1}),
        json!("a".repeat(5000)),
        json!([["a"]]),
        json!("F16"),
        json!("F64"),
        json!("I64"),
        json!([0, 1]),
        json!([1, 0]),
    ];
    random.of(&all).clone()
}

/// `value` with one place changed.
fn mutate(value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(map) if !map.is_empty() && random.below(8) > 0 => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = random.of(&keys).clone();
            match random.below(8) {
                0 => drop(map.remove(&key)),
                1 => {
                    let kept = map.remove(&key).expect("its key");
                    map.insert(format!("{key}x"), kept);
                }
                2 => {
                    let other = map[random.of(&keys)].clone();
                    map.insert(key, other);
                }
                3 => drop(map.insert(key, odd(random))),
                4 => {
                    let name = random.of(&[
                        "use_dora",
                        "lora_bias",
                        "modules_to_save",
                        "rank_pattern",
                        "alpha_pattern",
                        "layers_to_transform",
                        "use_rslora",
                        "fan_in_fan_out",
                        "bias",
                        "r",
                        "init_lora_weights",
                    ]);
                    map.insert(name.to_string(), odd(random));
                }
                _ => mutate(map.get_mut(&key).expect("its key"), random),
            }
        }
        Value::Array(items) if !items.is_empty() && random.below(4) > 0 => {
            let i = random.below(items.len());
            match random.below(4) {
                0 => drop(items.remove(i)),
                1 => items.insert(i, odd(random)),
                _ => mutate(&mut items[i], random),
            }
        }
        Value::Number(n) if random.below(2) == 0 => {
            let n = n.as_i64().unwrap_or(0);
            *value = json!(n.wrapping_add(*random.of(&[-1, 1, 4, -4, 64, n])));
        }
        other => *other = odd(random),
    }
}

fn edit_json(path: &Path, random: &mut Random) {
    let Ok(bytes) = fs::read(path) else { return };
    let mut value: Value = serde_json::from_slice(&bytes).expect("a good file");
    for _ in 0..1 + random.below(3) {
        mutate(&mut value, random);
    }
    fs::write(path, value.to_string()).expect("written");
}

fn edit_header(path: &Path, random: &mut Random) {
    let bytes = fs::read(path).expect("weights");
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + len]).expect("a header");
    for _ in 0..1 + random.below(2) {
        mutate(&mut header, random);
    }
    let header = header.to_string();
    let said = match random.below(12) {
        0 => *random.of(&[0, 1, u64::MAX, 1 << 40, header.len() as u64 + 1]),
        _ => header.len() as u64,
    };
    let out = [
        &said.to_le_bytes()[..],
        header.as_bytes(),
        &bytes[8 + len..],
    ]
    .concat();
    fs::write(path, out).expect("written");
}

/// Changes numbers: not finite, huge, other ones; or bits anywhere.
fn edit_bytes(path: &Path, random: &mut Random) {
    let Ok(mut bytes) = fs::read(path) else {
        return;
    };
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len().saturating_sub(4).max(1));
        match random.below(4) {
            0 => bytes[at..].iter_mut().take(4).for_each(|b| *b = 0xff),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at..].iter_mut().take(64).for_each(|b| *b = 0x7e),
            _ => {
                let end = bytes.len() - 1 - random.below(bytes.len() / 2);
                bytes[end] = random.next() as u8;
            }
        }
    }
    fs::write(path, bytes).expect("written");
}

/// Makes `dir` from a good adapter.
fn make(dir: &Path, adapters: &Path, random: &mut Random) -> Kind {
    let from = adapters.join(random.of(&GOOD));
    let _ = fs::remove_dir_all(dir); // of the round before
    fs::create_dir(dir).expect("a directory");
    for entry in fs::read_dir(from).expect("a good adapter") {
        let path = entry.expect("a file").path();
        fs::copy(&path, dir.join(path.file_name().expect("a name"))).expect("copied");
    }
    let (config, weights) = (
        dir.join("adapter_config.json"),
        dir.join("adapter_model.safetensors"),
    );
    let labels = dir.join("labels.json");
    let any: Vec<PathBuf> = fs::read_dir(dir)
        .expect("it")
        .map(|e| e.expect("a file").path())
        .collect();
    let one = random.of(&any).clone();
    let size = fs::metadata(&one).expect("a file").len() as usize;
    match random.below(16) {
        0..=3 => edit_json(&config, random),
        4..=6 => edit_header(&weights, random),
        7 | 8 => edit_bytes(&weights, random),
        9 => edit_bytes(&one, random),
        10 if labels.exists() => edit_json(&labels, random),
        11 => {
            let bytes = fs::read(&one).expect("a file");
            fs::write(&one, &bytes[..random.below(size + 1)]).expect("written");
        }
        12 => {
            let bytes = fs::read(&one).expect("a file");
            let more: Vec<u8> = (0..1 + random.below(40))
                .map(|_| random.next() as u8)
                .collect();
            fs::write(&one, [bytes, more].concat()).expect("written");
        }
        13 => {
            // Another adapter's weights, or none at all.
            fs::remove_file(&one).expect("removed");
            let other = adapters
                .join(random.of(&GOOD))
                .join(one.file_name().expect("a name"));
            let _ = fs::copy(other, &one);
        }
        14 => {
            fs::write(dir.join("selftest.json"), odd(random).to_string()).expect("written");
            edit_json(&config, random);
        }
        _ => return links(&one, adapters, random),
    }
    Kind::Files
}

/// Puts something else in the place of a file.
fn links(file: &Path, adapters: &Path, random: &mut Random) -> Kind {
    let name = file.file_name().expect("a name");
    let elsewhere = adapters.join("mixed").join(name);
    fs::remove_file(file).expect("removed");
    match random.below(3) {
        0 => std::os::unix::fs::symlink(&elsewhere, file).expect("a link"),
        1 => std::os::unix::fs::symlink(file, file).expect("a link to itself"),
        _ => fs::create_dir(file).expect("a directory"),
    }
    Kind::Links
}

/// As it comes out of JSON that was written from f32; null where it is not finite.
fn number(x: f32) -> Value {
    let text = serde_json::to_string(&x).expect("a number");
    serde_json::from_str(&text).expect("a number")
}

/// What the library that binds the same files answers, or why it does not.
fn reference(engine: &Engine, dir: &Path) -> Result<Value, String> {
    let files = AdapterFiles::read(dir).map_err(|e| e.to_string())?;
    let task = engine
        .prepare(&files, Path::new("x"))
        .map_err(|e| e.to_string())?;
    let want = match &task.classifier {
        None => Want::Pooled,
        Some(c) if c.level == Level::Token => Want::Tags(sorank::engine::Aggregation::None),
        Some(_) => Want::Classes,
    };
    let request = Request {
        text: TEXT,
        pair: None,
        adapter: None,
        want,
    };
    let row = engine
        .admit_to(&task, &request, Truncate::No, &mut None)
        .map_err(|e| e.to_string())?;
    Ok(match engine.run(&[row]).remove(0) {
        Answer::Embedding(v) => json!([v.into_iter().map(number).collect::<Vec<_>>()]),
        Answer::Overflow => Value::Null,
        Answer::Classes(c) => {
            let mut all: Vec<(f32, Value)> = (c.labels.iter().zip(&c.scores).zip(&c.logits))
                .map(|((label, score), logit)| (*logit, json!({"score": number(*score), "label": label})))
                .collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            Value::Array(all.into_iter().map(|(_, v)| v).collect())
        }
        Answer::Tags(found) => found.iter()
            .map(|e| json!({"entity": e.label, "score": number(e.score), "word": e.word, "start": e.start, "end": e.end}))
            .collect(),
        other => panic!("not asked for: {other:?}"),
    })
}

/// `why` without the names and numbers in it.
fn reason(code: &str, why: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for c in why.chars().filter(|c| !c.is_ascii_digit()) {
        match c {
            '"' | '`' => quoted = !quoted,
            c if !quoted => out.push(c),
            _ => {}
        }
    }
    let words: Vec<&str> = out
        .split_whitespace()
        .filter(|w| !w.contains(['.', '/', '[', '_']))
        .collect();
    format!(
        "{code}: {}",
        words.into_iter().take(7).collect::<Vec<_>>().join(" ")
    )
}

fn hostile(count: usize) {
    let golden = golden("bert");
    let engine = golden.engine(2048);
    let adapters = golden.dir.join("adapters");
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("it");
    let server = Server::start(&[
        "--model",
        golden.base().to_str().expect("UTF-8"),
        "--allow-runtime-adapters",
        "--adapter-root",
        root.path().to_str().expect("UTF-8"),
        "--max-adapters",
        "4",
    ]);
    let first = server.post("/predict", &json!({"inputs": TEXT})).body;
    let mut random = Random(19);
    let mut tally: BTreeMap<String, usize> = BTreeMap::new();
    let mut settled = server.resident();
    for round in 0..count {
        let kind = make(&dir, &adapters, &mut random);
        let reply = server.load("x", "it");
        let right = match kind {
            Kind::Files => Some(reference(&engine, &dir)),
            Kind::Links => None,
        };
        let counted = match (reply.status, &right) {
            (200, Some(Ok(right))) => {
                let route = match reply.json()["task"].as_str() {
                    Some("embedding") => "/embed",
                    Some("token-classification") => "/token_classify",
                    _ => "/predict",
                };
                let ask = json!({"inputs": TEXT, "adapter": "x", "aggregation_strategy": "none", "normalize": false});
                let answer = server.post(route, &ask);
                if *right == Value::Null {
                    // On this text, and not on that of the check at load.
                    assert_eq!(answer.status, 422, "round {round}: {}", answer.body);
                    "loaded: its weights overflow, the answer is refused".to_owned()
                } else {
                    assert_eq!(answer.status, 200, "round {round}: {}", answer.body);
                    assert_eq!(
                        answer.json().to_string(),
                        right.to_string(),
                        "round {round}"
                    );
                    "loaded: answers as the library".to_owned()
                }
            }
            (200, None) => panic!(
                "round {round}: a link or a directory was loaded: {}",
                reply.body
            ),
            (200, Some(Err(why))) => panic!("round {round}: loaded, the library refuses it: {why}"),
            (400..=499, Some(Ok(_))) => panic!(
                "round {round}: refused, the library loads it: {}",
                reply.body
            ),
            (400..=499, _) => {
                let error = &reply.json()["error"];
                let (code, why) = (
                    error["code"].as_str().expect("a code"),
                    error["message"].as_str().expect("words"),
                );
                assert!(!why.contains(root.path().to_str().expect("UTF-8")), "{why}");
                reason(code, why)
            }
            _ => panic!("round {round}: {} {}", reply.status, reply.body),
        };
        *tally.entry(counted).or_default() += 1;
        if round == count / 2 {
            settled = server.resident();
        }
    }
    assert_eq!(
        server.post("/predict", &json!({"inputs": TEXT})).body,
        first,
        "the base changed"
    );
    let mut by: Vec<(usize, String)> = tally.into_iter().map(|(why, n)| (n, why)).collect();
    by.sort_by(|a, b| b.cmp(a));
    println!(
        "{count} hostile adapters, {} outcomes; resident {settled:?} -> {:?} KiB",
        by.len(),
        server.resident()
    );
    for (n, why) in &by {
        println!("{n:6}  {why}");
    }
    assert!(by.len() > 5, "hardly any variety");
}

#[test]
fn a_mutated_adapter_is_refused_or_answers_as_the_library() {
    hostile(400);
}

#[test]
#[ignore = "minutes: just hostile"]
fn ten_thousand_mutated_adapters_are_refused_or_answer_as_the_library() {
    hostile(10_000);
}
