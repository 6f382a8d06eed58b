//! The mechanical invariants of ARCHITECTURE.md, read off the source text.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A source file: its path under `src/` with `/`, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    /// The text without comment lines.
    fn code(&self) -> String {
        let code = self
            .text
            .lines()
            .filter(|l| !l.trim_start().starts_with("//"));
        code.collect::<Vec<_>>().join("\n")
    }

    fn in_any(&self, rooms: &[&str]) -> bool {
        rooms.iter().any(|room| self.path.starts_with(room))
    }
}

fn sources() -> Vec<File> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let read = |path: PathBuf| File {
        text: fs::read_to_string(&path).expect("sources are UTF-8"),
        path: path
            .strip_prefix(&root)
            .expect("under src")
            .to_string_lossy()
            .replace('\\', "/"),
    };
    paths.into_iter().map(read).collect()
}

/// Fails with every offender, not the first one.
fn assert_none(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}\n  {}", offenders.join("\n  "));
}

fn offenders(files: &[File], bad: impl Fn(&File) -> bool) -> Vec<String> {
    files
        .iter()
        .filter(|f| bad(f))
        .map(|f| f.path.clone())
        .collect()
}

#[test]
fn arrows_point_down_only() {
    // Which rooms a room may use, besides itself. Top-level files count as rooms.
    let floors: &[(&str, &[&str])] = &[
        ("mat.rs", &[]),
        ("error.rs", &[]),
        ("simd/", &[]),
        ("kernel/", &["simd", "mat"]),
        ("weights/", &["mat", "error", "kernel"]),
        ("spec/", &["error", "kernel", "weights"]),
        ("text", &["error"]),
        ("adapter/", &["mat", "error", "spec"]),
        ("hub/", &["error", "weights", "adapter"]),
        ("embedded.rs", &["error", "weights", "adapter"]),
        (
            "model/",
            &[
                "simd", "mat", "error", "kernel", "weights", "spec", "adapter",
            ],
        ),
        (
            "engine/",
            &["mat", "error", "kernel", "spec", "text", "adapter", "model"],
        ),
        (
            "train/",
            &[
                "mat", "error", "kernel", "weights", "spec", "text", "adapter", "model",
            ],
        ),
        ("report/", &["error", "weights", "model", "adapter", "spec"]),
    ];
    let mut wrong = Vec::new();
    for file in sources() {
        let Some((room, allowed)) = floors.iter().find(|(room, _)| file.path.starts_with(room))
        else {
            continue;
        };
        let own = room.trim_end_matches(".rs").trim_end_matches('/');
        for used in crate_paths(&file.code()) {
            let known = ["Error", "Result"].contains(&used.as_str())
                || used == "embedded" && file.path.ends_with("tests.rs"); // a lower floor: a model for unit tests
            if used != own && !known && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses crate::{used}", file.path));
            }
        }
    }
    assert_none(
        "arrows point down only (ARCHITECTURE.md, rooms and floors)",
        wrong,
    );
}

/// The first segments of `crate::...` paths, `use crate::{...}` groups included.
fn crate_paths(code: &str) -> Vec<String> {
    let word = |s: &str| {
        s.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut out = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            out.push(word(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                ',' if depth == 0 => out.push(word(std::mem::take(&mut item).trim())),
                _ => {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    item.push(c);
                }
            }
        }
        out.push(word(item.trim()));
    }
    out.retain(|w| !w.is_empty());
    out
}

#[test]
fn kernels_do_no_io_and_know_no_models() {
    let words = [
        "std::fs",
        "std::io",
        "std::net",
        "adapter::",
        "Task",
        "Adapter",
        "Tokenizer",
    ];
    let bad =
        |f: &File| f.path.starts_with("kernel/") && words.iter().any(|w| f.code().contains(w));
    assert_none("kernel/ is pure math on views", offenders(&sources(), bad));
}

#[test]
fn no_family_is_named_where_facts_decide() {
    let families = [
        "bert", "electra", "mpnet", "nomic", "gte_", "jina", "xlm", "bart", "minilm", "camem",
    ];
    let bad = |f: &File| {
        let code = f.code().to_lowercase();
        f.in_any(&["model/", "kernel/"]) && families.iter().any(|name| code.contains(name))
    };
    assert_none(
        "model/ and kernel/ branch on facts, never on a family's name",
        offenders(&sources(), bad),
    );
}

#[test]
fn instruction_levels_stay_in_their_rooms() {
    let bad = |f: &File| {
        let code = f.code();
        !f.in_any(&["simd/", "kernel/panel/"])
            && [
                "target_feature",
                "is_x86_feature_detected",
                "is_aarch64_feature_detected",
                "core::arch",
                "std::arch",
            ]
            .iter()
            .any(|w| code.contains(w))
    };
    assert_none(
        "CPU features are for simd/ and kernel/panel/ only",
        offenders(&sources(), bad),
    );
}

#[test]
fn unsafe_stays_on_its_list() {
    let allowed = [
        "simd/",
        "mat.rs",
        "kernel/panel/",
        "kernel/gemm.rs",
        "weights/",
    ];
    let bad = |f: &File| {
        let code = f.code();
        let has = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"];
        !f.in_any(&allowed) && has.iter().any(|w| code.contains(w))
    };
    assert_none("unsafe code has an allow-list", offenders(&sources(), bad));
}

#[test]
fn one_function_applies_weights() {
    let bad = |f: &File| {
        f.path.starts_with("model/")
            && !["model/linear.rs", "model/linear/backward.rs"].contains(&f.path.as_str())
            && f.code().contains("Product {")
    };
    assert_none(
        "Linear::forward alone applies a weight to activations (and Linear::backward its transpose)",
        offenders(&sources(), bad),
    );
}

#[test]
fn forward_cannot_fail() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|f| f.path.starts_with("model/")) {
        let code = file.code();
        for (at, _) in code.match_indices("fn forward") {
            let signature = code[at..].split('{').next().unwrap_or_default();
            if signature.contains("Result") {
                wrong.push(format!(
                    "{}: {}",
                    file.path,
                    signature.lines().next().unwrap_or_default()
                ));
            }
        }
    }
    assert_none("after load and admission, forward cannot fail", wrong);
}

#[test]
fn the_core_is_synchronous() {
    let bad = |f: &File| {
        let code = f.code();
        !f.in_any(&["server/", "cli/"])
            && ["tokio", "axum", "async fn"]
                .iter()
                .any(|w| code.contains(w))
    };
    assert_none(
        "no tokio below server/ and cli/",
        offenders(&sources(), bad),
    );
}

#[test]
fn the_command_line_alone_asks_the_hub() {
    let bad = |f: &File| !f.in_any(&["hub/", "cli/"]) && f.code().contains("hub::");
    assert_none(
        "no room but cli/ may pull; a server's requests least of all",
        offenders(&sources(), bad),
    );
}

#[test]
fn engine_and_train_do_not_meet() {
    let bad = |f: &File| {
        let code = f.code();
        (f.path.starts_with("engine/") && code.contains("crate::train"))
            || (f.path.starts_with("train/") && code.contains("crate::engine"))
    };
    assert_none(
        "engine/ and train/ never import each other",
        offenders(&sources(), bad),
    );
}

#[test]
fn files_are_small_and_say_what_they_are() {
    const MOST_LINES: usize = 500;
    let mut wrong = Vec::new();
    for file in sources() {
        let lines = file.text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!(
                "{}: {lines} lines, at most {MOST_LINES}",
                file.path
            ));
        }
        if !file.text.starts_with("//!") {
            wrong.push(format!(
                "{}: does not open with what it is (//!)",
                file.path
            ));
        }
    }
    assert_none("a file is about one thing", wrong);
}
