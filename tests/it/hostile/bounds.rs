//! Files that cost their reader more than their writer: links that lead nowhere, sparse giants, deep JSON, patterns. Run by
//! the binary under limits of memory and processor time, refused by file and reason.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use serde_json::{Value, json};

use crate::fixtures::{golden, manifest_dir};

/// Address space of a run, in KiB; a model of the fixtures takes a tenth of it, most of that the stacks of threads.
const MEMORY: &str = "4194304";
/// Processor seconds of a run, built for tests; a run takes a tenth of one.
const SECONDS: &str = "20";
/// More levels than any stack holds that recurses over them.
const DEEP: usize = 100_000;

/// Exit code and messages of `sorank` under the limits.
fn run(args: &[String]) -> (Option<i32>, String) {
    let script = format!("ulimit -v {MEMORY}; ulimit -t {SECONDS}; exec \"$0\" \"$@\"");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let out = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_sorank")])
        .args(args)
        .env("SORANK_CACHE", cache)
        .env_remove("SORANK_MODEL")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.len() < 4000,
        "{args:?}: {} bytes of message",
        said.len()
    );
    (out.status.code(), said)
}

/// What `sorank` says when it refuses, which it must, by itself.
fn refusal(args: &[String]) -> String {
    let (code, said) = run(args);
    assert_eq!(code, Some(1), "{args:?}: {said}");
    said
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// A copy of the files in `from`.
fn copy(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    dir
}

fn base() -> tempfile::TempDir {
    copy(&golden("bert").base())
}

fn adapter() -> tempfile::TempDir {
    copy(&manifest_dir().join("models/tiny/adapters/intent"))
}

/// Embeds with the base in `dir`.
fn base_refused(dir: &Path) -> String {
    refusal(&words(&["embed", "-q", "--model", utf8(dir), "a"]))
}

/// Classifies with the adapter in `dir` over the built-in base.
fn with_adapter(dir: &Path) -> Vec<String> {
    let named = format!("a={}", dir.display());
    words(&["classify", "-q", "--adapter", &named, "--use", "a", "x"])
}

fn adapter_refused(dir: &Path) -> String {
    refusal(&with_adapter(dir))
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn replace(path: &Path, write: impl FnOnce(&Path)) {
    if path.exists() {
        std::fs::remove_file(path).expect("removed");
    }
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    write(path);
}

type Refused = fn(&Path) -> String;
type Fresh = fn() -> tempfile::TempDir;

/// Every file that is read beside a base and beside an adapter, and how it is asked for.
const FILES: [(&str, Fresh, Refused); 14] = [
    ("config.json", base, base_refused),
    ("model.safetensors", base, base_refused),
    ("tokenizer.json", base, base_refused),
    ("tokenizer_config.json", base, base_refused),
    ("special_tokens_map.json", base, base_refused),
    ("added_tokens.json", base, base_refused),
    ("modules.json", base, base_refused),
    ("1_Pooling/config.json", base, base_refused),
    ("sentence_bert_config.json", base, base_refused),
    ("config_sentence_transformers.json", base, base_refused),
    ("adapter_config.json", adapter, adapter_refused),
    ("adapter_model.safetensors", adapter, adapter_refused),
    ("labels.json", adapter, adapter_refused),
    (
        "model.safetensors.index.json",
        without_weights,
        base_refused,
    ),
];

fn without_weights() -> tempfile::TempDir {
    let dir = base();
    std::fs::remove_file(dir.path().join("model.safetensors")).expect("removed");
    dir
}

/// `modules.json` that leads to the other files of sentence-transformers.
fn with_modules(dir: &Path) {
    let modules = json!([
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]);
    std::fs::write(dir.join("modules.json"), modules.to_string()).expect("written");
    let pooling = json!({"pooling_mode_mean_tokens": true});
    std::fs::create_dir_all(dir.join("1_Pooling")).expect("made");
    std::fs::write(dir.join("1_Pooling/config.json"), pooling.to_string()).expect("written");
}

#[test]
fn a_link_that_leads_to_itself_is_named() {
    for (name, fresh, refused) in FILES {
        let dir = fresh();
        with_modules(dir.path());
        let path = dir.path().join(name);
        replace(&path, |path| symlink(path, path).expect("a link"));
        let said = refused(dir.path());
        assert!(
            said.contains(name) && said.contains("symbolic links"),
            "{name}: {said}"
        );
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("loop");
    symlink(&path, &path).expect("a link");
    assert!(base_refused(&path).contains("symbolic links"));
    assert!(adapter_refused(&path).contains("symbolic links"));
}

#[test]
fn hard_links_are_files_like_any_other() {
    let from = manifest_dir().join("models/tiny/adapters/intent");
    let copied = copy(&from);
    let linked = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(copied.path()).expect("a directory") {
        let path = entry.expect("an entry").path();
        let to = linked.path().join(path.file_name().expect("a name"));
        std::fs::hard_link(path, to).expect("a hard link");
    }
    let read = |dir: &Path| {
        sorank::adapter::Adapter::read(dir)
            .expect("an adapter")
            .factors
    };
    assert_eq!(read(linked.path()), read(&from));
    // What was read is held: the other name's file may be cut off under a running process.
    let files = sorank::adapter::AdapterFiles::read(linked.path()).expect("read");
    let weights = copied.path().join("adapter_model.safetensors");
    std::fs::write(weights, b"short").expect("written");
    assert!(sorank::adapter::Adapter::read(linked.path()).is_err());
    assert_eq!(
        files.adapter(linked.path()).expect("as it was").factors,
        read(&from)
    );
}

#[test]
fn sparse_giants_are_refused_before_they_are_read() {
    const TIB: usize = 1 << 40;
    // The first of two has a header that claims it all, so that nothing but its size is wrong.
    let claimed = json!({"bert.embeddings.word_embeddings.weight":
        {"dtype": "F32", "shape": [TIB / 4 / 32, 32], "data_offsets": [0, TIB]}});
    for (name, fresh, refused) in FILES {
        let dir = fresh();
        with_modules(dir.path());
        let path = dir.path().join(name);
        let mut bytes = (claimed.to_string().len() as u64).to_le_bytes().to_vec();
        bytes.extend(claimed.to_string().as_bytes());
        replace(&path, |path| std::fs::write(path, &bytes).expect("written"));
        let file = std::fs::File::options()
            .write(true)
            .open(&path)
            .expect("opened");
        file.set_len((bytes.len() + TIB) as u64)
            .expect("sparse files");
        let said = refused(dir.path());
        let size = (bytes.len() + TIB).to_string();
        assert!(
            said.contains(name) && said.contains(&size),
            "{name}: {said}"
        );
    }
}

/// `{"key": [[[...]]]}`, or the list alone.
fn deep(key: Option<&str>) -> Vec<u8> {
    let nested = [vec![b'['; DEEP], vec![b']'; DEEP]].concat();
    match key {
        None => nested,
        Some(key) => [format!("{{{key:?}:").as_bytes(), &nested, b"}"].concat(),
    }
}

#[test]
fn json_nested_a_hundred_thousand_times_is_refused_in_every_file() {
    for (name, fresh, refused) in FILES {
        for key in [
            None,
            Some("hidden_size"),
            Some("__metadata__"),
            Some("weight_map"),
        ] {
            let dir = fresh();
            with_modules(dir.path());
            let mut bytes = deep(key);
            if name.ends_with(".safetensors") {
                bytes = [&(bytes.len() as u64).to_le_bytes()[..], &bytes].concat();
            }
            replace(&dir.path().join(name), |path| {
                std::fs::write(path, &bytes).expect("written")
            });
            let said = refused(dir.path());
            let why = [
                "recursion limit",
                "invalid type",
                "missing field",
                "expected",
            ];
            assert!(said.contains(name), "{name}, {key:?}: {said}");
            assert!(
                why.iter().any(|why| said.contains(why)),
                "{name}, {key:?}: {said}"
            );
        }
    }
}

#[test]
fn rows_nested_a_hundred_thousand_times_are_refused_by_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rows.jsonl");
    let path = utf8(&file);
    for (first, key) in [
        ("{\"text\":\"a\"}", "adapters"),
        ("", "text"),
        ("", "texts"),
    ] {
        let bytes = [first.as_bytes(), b"\n", &deep(Some(key))].concat();
        std::fs::write(&file, bytes).expect("written");
        for command in ["embed", "classify", "tag", "rerank"] {
            let said = refusal(&words(&[command, "-q", "--input", path]));
            // `{"text"}` is a row of another command to rerank, and the base has no head to classify with.
            if first.is_empty() {
                assert!(said.contains("rows.jsonl:2"), "{command}: {said}");
                assert!(said.contains("recursion limit"), "{command}: {said}");
            }
        }
    }
}

/// A line of JSON may be 16 MiB: as many keys as fit in it must not be compared each with each.
#[test]
fn a_row_of_a_million_keys_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rows.jsonl");
    let keys: Vec<String> = (0..1_000_000).map(|i| format!("\"{i:06}\":0")).collect();
    std::fs::write(&file, format!("{{{}}}", keys.join(","))).expect("written");
    let said = refusal(&words(&["embed", "-q", "--input", utf8(&file)]));
    assert!(
        said.contains("rows.jsonl:1") && said.contains("unknown key"),
        "{said}"
    );
}

#[test]
fn patterns_that_explode_are_refused_or_answered_in_time() {
    let nested = |n: usize| format!("{}a{}", "(".repeat(n), ")*".repeat(n));
    let bombs = [
        "((((a{1000}){1000}){1000}){1000}){1000}".to_owned(),
        r"(\w{1000}){1000}".to_owned(),
        r"(\pL|\d|.){5000}x".to_owned(),
        "(x+x+)+y".to_owned(),
        r"(?=(a+))\1*b".to_owned(),
        nested(5000),
        "(a|b|ab)*".repeat(2000),
        format!("({})", vec!["a?"; 4000].join("")),
        "a".repeat(900_000),
    ];
    for bomb in &bombs {
        let many = 900_000 / bomb.len().max(5_000);
        let table = || (0..many).map(|i| (format!("{bomb}{i}"), json!(4)));
        let list = vec![bomb.as_str(); many];
        for (key, value) in [
            ("target_modules", json!(bomb)),
            ("exclude_modules", json!(bomb)),
            ("rank_pattern", table().collect()),
            ("alpha_pattern", table().collect()),
            ("layers_pattern", json!(list)),
        ] {
            let dir = adapter();
            edit_config(dir.path(), |c| {
                c[key] = value;
                if key == "layers_pattern" {
                    c["target_modules"] = json!(["query"]);
                    c["layers_to_transform"] = json!([0]);
                }
            });
            let (code, said) = run(&with_adapter(dir.path()));
            let start: String = bomb.chars().take(20).collect();
            // One that compiles and matches no module changes nothing where it excludes, or gives ranks.
            let harmless = code == Some(0) && key != "target_modules";
            let named = said.contains("intent") || said.contains("adapter_");
            let refused = code == Some(1) && named;
            assert!(harmless || refused, "{key} {start}: {code:?}: {said}");
        }
    }
    let dir = adapter();
    edit_config(dir.path(), |c| {
        c["modules_to_save"] = (0..100_000).map(|i| i.to_string()).collect();
    });
    let said = adapter_refused(dir.path());
    assert!(
        said.contains("modules_to_save") && said.contains("adapter_config.json"),
        "{said}"
    );
}

#[test]
fn a_gate_that_overflows_when_folded_in_is_refused_at_import() {
    let from = manifest_dir().join("tests/corpus/unpickle/gate-that-overflows-when-folded-in");
    let out = tempfile::tempdir().expect("a directory");
    let to = out.path().join("adapter");
    let said = refusal(&words(&["import", utf8(&from), "--out", utf8(&to)]));
    assert!(
        said.contains("m.q.lora.lora_B") && said.contains("inf"),
        "{said}"
    );
    assert!(
        said.contains("gate-that-overflows") && !to.exists(),
        "{said}"
    );
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("adapter_config.json");
    let bytes = std::fs::read(&path).expect("a configuration");
    let mut config = serde_json::from_slice(&bytes).expect("JSON");
    edit(&mut config);
    std::fs::write(path, config.to_string()).expect("written");
}
