//! Repositories of the hub, against a mock of it: the binary as a person runs it.
//!
//! here: what is pulled, where it goes, what it answers · downloads: connections that break, files that are damaged, a process that
//! is killed · serve: repositories as start flags alone · refusals: what the hub says no to · python: the cache beside Python's huggingface_hub

mod downloads;
mod mock;
mod python;
mod refusals;
#[cfg(feature = "server")]
mod serve;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use mock::{Faults, Mock, Repo};
use tempfile::TempDir;

use crate::fixtures::manifest_dir;

const BASE_COMMIT: &str = "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0";
const ADAPTER_COMMIT: &str = "ada0ada0ada0ada0ada0ada0ada0ada0ada0ada0";
const TEXTS: [&str; 2] = ["book a table for two", "play some jazz"];

/// A mock with the built-in model as `owner/tiny` and one of its adapters as `owner/intent`, and an empty cache.
struct World {
    mock: Mock,
    home: TempDir,
}

/// The files below a directory, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("readable") {
        let entry = entry.expect("readable");
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, std::fs::read(entry.path()).expect("readable"));
    }
    files
}

fn tiny(part: &str) -> PathBuf {
    manifest_dir().join("models/tiny").join(part)
}

fn repo(commit: &str, files: BTreeMap<String, Vec<u8>>) -> Repo {
    Repo {
        commit: commit.to_owned(),
        revisions: vec!["main".to_owned(), "refs/pr/1".to_owned()],
        files,
        ..Repo::default()
    }
}

fn world() -> World {
    let mock = Mock::start();
    let mut base = files(&tiny("base"));
    base.insert("README.md".to_owned(), b"# not wanted".to_vec());
    base.insert("pytorch_model.bin".to_owned(), vec![0; 20_000]);
    mock.put("owner/tiny", repo(BASE_COMMIT, base));
    mock.put(
        "owner/intent",
        repo(ADAPTER_COMMIT, files(&tiny("adapters/intent"))),
    );
    let home = tempfile::tempdir().expect("a directory");
    World { mock, home }
}

impl World {
    /// The binary, with nothing of this machine's own hub settings.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sorank"));
        let others = [
            "HF_HUB_CACHE",
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "SORANK_MODEL",
        ];
        for name in others {
            command.env_remove(name);
        }
        command
            .args(args)
            .env("HF_HOME", self.home.path())
            .env("HF_ENDPOINT", &self.mock.endpoint)
            .env("NO_PROXY", "127.0.0.1")
            .env(
                "SORANK_CACHE",
                Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            )
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    /// What a command that must succeed prints.
    fn prints(&self, args: &[&str]) -> String {
        says(args, &self.run(args))
    }

    /// The message of a command that must fail.
    fn fails(&self, args: &[&str]) -> String {
        complains(args, &self.run(args))
    }

    fn folder(&self, id: &str) -> PathBuf {
        let name = format!("models--{}", id.replace('/', "--"));
        self.home.path().join("hub").join(name)
    }

    fn snapshot(&self, id: &str, commit: &str) -> PathBuf {
        self.folder(id).join("snapshots").join(commit)
    }

    /// The names of what is in the blobs of a repository.
    fn blobs(&self, id: &str) -> Vec<String> {
        match self.folder(id).join("blobs") {
            dir if dir.is_dir() => files(&dir).into_keys().collect(),
            _ => Vec::new(),
        }
    }

    fn classify(&self) -> Vec<&'static str> {
        [
            &[
                "classify",
                "--model",
                "owner/tiny",
                "--adapter",
                "intent=owner/intent",
                "--use",
                "intent",
            ][..],
            &TEXTS,
        ]
        .concat()
    }
}

fn says(args: &[&str], out: &Output) -> String {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {stderr}");
    String::from_utf8(out.stdout.clone()).expect("UTF-8")
}

fn complains(args: &[&str], out: &Output) -> String {
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {stderr}");
    stderr
}

/// The same command over the directories that the repositories were made of.
fn local_answer(world: &World) -> String {
    let (base, adapter) = (tiny("base"), tiny("adapters/intent"));
    let adapter = format!("intent={}", adapter.display());
    let args = [
        "classify",
        "--model",
        base.to_str().expect("UTF-8"),
        "--adapter",
        &adapter,
        "--use",
        "intent",
    ];
    world.prints(&[&args[..], &TEXTS].concat())
}

#[test]
fn a_pulled_base_and_adapter_answer_as_the_local_ones() {
    let world = world();
    let expected = local_answer(&world);
    assert!(expected.contains("scores"), "{expected}");
    assert_eq!(world.prints(&world.classify()), expected);
    let first: Vec<String> = world
        .mock
        .asked()
        .into_iter()
        .map(|asked| asked.path)
        .collect();
    let unwanted = |path: &String| path.contains("README") || path.contains(".bin");
    assert!(!first.iter().any(unwanted), "{first:?}");

    // What is there is not downloaded again: a second run asks for the two lists alone.
    assert_eq!(world.prints(&world.classify()), expected);
    let again = world.mock.asked();
    assert_eq!(again.len(), 2, "{again:?}");
    assert!(
        again
            .iter()
            .all(|asked| asked.path.starts_with("/api/models/owner/"))
    );

    // A directory of the name wins.
    let near = tempfile::tempdir().expect("a directory");
    let dir = near.path().join("owner/tiny");
    std::fs::create_dir_all(&dir).expect("created");
    let out = world
        .command(&["inspect", "owner/tiny"])
        .current_dir(near.path())
        .output();
    let why = complains(&[], &out.expect("it starts"));
    assert!(
        why.contains("neither a base") && world.mock.asked().is_empty(),
        "{why}"
    );
}

#[test]
fn pull_prints_the_snapshot_and_every_command_takes_a_repository() {
    let world = world();
    let printed = world.prints(&["pull", "owner/tiny", "owner/intent@refs/pr/1"]);
    let (base, adapter) = (
        world.snapshot("owner/tiny", BASE_COMMIT),
        world.snapshot("owner/intent", ADAPTER_COMMIT),
    );
    assert_eq!(
        printed,
        format!("{}\n{}\n", base.display(), adapter.display())
    );
    let expected = files(&tiny("base"));
    assert_eq!(files(&base), expected);
    assert_eq!(files(&adapter), files(&tiny("adapters/intent")));
    let reference = world.folder("owner/intent").join("refs/refs/pr/1");
    assert_eq!(
        std::fs::read_to_string(reference).expect("written"),
        ADAPTER_COMMIT
    );
    let one = world.prints(&["pull", "owner/tiny", "--revision", BASE_COMMIT]);
    assert_eq!(one, format!("{}\n", base.display()));

    let out = tempfile::tempdir().expect("a directory");
    let at = |name: &str| out.path().join(name).display().to_string();
    let inspected = world.prints(&["inspect", "owner/tiny", "owner/intent", "--json"]);
    assert_eq!(inspected.lines().count(), 2, "{inspected}");
    let model = ["--model", "owner/tiny"];
    let adapter = ["--adapter", "intent=owner/intent"];
    world.prints(&[&["embed"][..], &model, &TEXTS].concat());
    world.prints(&[&["verify"][..], &model, &adapter].concat());
    world.prints(
        &[
            &[
                "prune",
                "owner/intent",
                "--energy",
                "0.9",
                "--out",
                &at("pruned"),
            ][..],
            &model,
        ]
        .concat(),
    );
    world.prints(&[&["merge", "--out", &at("merged")][..], &model, &adapter].concat());
    let rows = out.path().join("rows.tsv");
    let labels: serde_json::Value = serde_json::from_slice(&expected_labels()).expect("JSON");
    let label = labels["labels"][0].as_str().expect("a name");
    std::fs::write(&rows, format!("text\tlabel\n{}\t{label}\n", TEXTS[0])).expect("written");
    let rows = [
        "--input",
        rows.to_str().expect("UTF-8"),
        "--text",
        "text",
        "--label",
        "label",
    ];
    let scores =
        world.prints(&[&["eval", "--adapter", "owner/intent"][..], &model, &rows].concat());
    assert!(scores.contains("\"rows\":1"), "{scores}");
}

fn expected_labels() -> Vec<u8> {
    std::fs::read(tiny("adapters/intent/labels.json")).expect("there")
}

#[test]
fn offline_the_cache_answers_or_says_what_it_lacks() {
    let world = world();
    let offline = |args: &[&str]| {
        let out = world.command(args).env("HF_HUB_OFFLINE", "1").output();
        out.expect("it starts")
    };
    let args = world.classify();
    let why = complains(&args, &offline(&args));
    for part in [
        "owner/tiny@main",
        "HF_HUB_OFFLINE is set",
        "does not hold this revision",
        "pull it once",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let expected = world.prints(&args);
    world.mock.asked();
    assert_eq!(says(&args, &offline(&args)), expected);
    assert!(world.mock.asked().is_empty());

    let weights = world
        .snapshot("owner/tiny", BASE_COMMIT)
        .join("model.safetensors");
    std::fs::remove_file(weights).expect("it was there");
    let why = complains(&args, &offline(&args));
    assert!(why.contains("lacks model.safetensors"), "{why}");
}

#[test]
fn a_hub_that_cannot_be_reached_is_done_without_where_the_cache_is_whole() {
    let world = world();
    let args = world.classify();
    let expected = world.prints(&args);
    let nobody = |args: &[&str]| {
        // A port that was just free, and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", port.local_addr().expect("bound"));
        drop(port);
        world
            .command(args)
            .env("HF_ENDPOINT", endpoint)
            .output()
            .expect("it starts")
    };
    let out = nobody(&args);
    assert_eq!(says(&args, &out), expected);
    let warned = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        warned.contains("owner/tiny@main: using what was pulled before"),
        "{warned}"
    );
    let why = complains(&[], &nobody(&["pull", "owner/other"]));
    assert!(
        why.contains("cannot be reached") && why.contains("owner/other@main"),
        "{why}"
    );
}

#[test]
fn shards_and_the_files_of_sentence_transformers_come_along() {
    let world = world();
    let mut base = files(&tiny("base"));
    let whole = base.remove("model.safetensors").expect("there");
    let tensors = safetensors::SafeTensors::deserialize(&whole).expect("whole");
    let mut map = serde_json::Map::new();
    let mut shards: [Vec<(String, safetensors::tensor::TensorView<'_>)>; 2] = Default::default();
    for (i, (name, view)) in tensors.tensors().into_iter().enumerate() {
        map.insert(name.clone(), format!("model-{}.safetensors", i % 2).into());
        shards[i % 2].push((name, view));
    }
    for (i, shard) in shards.into_iter().enumerate() {
        let bytes = safetensors::serialize(shard, None).expect("serialises");
        base.insert(format!("model-{i}.safetensors"), bytes);
    }
    let json = |value: serde_json::Value| value.to_string().into_bytes();
    base.insert(
        "model.safetensors.index.json".into(),
        json(serde_json::json!({"weight_map": map})),
    );
    let module =
        |kind: &str, path: &str| serde_json::json!({"type": format!("x.{kind}"), "path": path});
    let modules = [
        module("Transformer", ""),
        module("Pooling", "1_Pooling"),
        module("Normalize", "2_Normalize"),
    ];
    base.insert("modules.json".into(), json(serde_json::json!(modules)));
    base.insert(
        "1_Pooling/config.json".into(),
        json(serde_json::json!({"pooling_mode_cls_token": true})),
    );
    base.insert(
        "sentence_bert_config.json".into(),
        json(serde_json::json!({"max_seq_length": 32})),
    );
    base.insert("onnx/config.json".into(), b"{}".to_vec());
    let local = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(local.path().join("1_Pooling")).expect("created");
    base.iter()
        .filter(|(name, _)| !name.starts_with("onnx"))
        .for_each(|(name, bytes)| {
            std::fs::write(local.path().join(name), bytes).expect("written");
        });
    world.mock.put("owner/sharded", repo(BASE_COMMIT, base));

    let embed = |model: &str| world.prints(&[&["embed", "--model", model][..], &TEXTS].concat());
    let pulled = embed("owner/sharded");
    assert_eq!(pulled, embed(local.path().to_str().expect("UTF-8")));
    assert!(
        !world
            .snapshot("owner/sharded", BASE_COMMIT)
            .join("onnx")
            .exists()
    );
}

#[test]
fn a_renamed_repository_a_busy_hub_and_a_mirror_without_checksums_work() {
    let world = world();
    world.mock.rename("old/tiny", "owner/tiny");
    world.mock.fail(Faults {
        busy: 3,
        no_checksums: true,
        ..Faults::default()
    });
    let printed = world.prints(&["pull", "old/tiny"]);
    let snapshot = world.snapshot("old/tiny", BASE_COMMIT);
    assert_eq!(printed, format!("{}\n", snapshot.display()));
    assert_eq!(files(&snapshot), files(&tiny("base")));
    assert!(
        world
            .blobs("old/tiny")
            .iter()
            .all(|name| name.starts_with("tag-"))
    );
}
