//! The cache beside Python's `huggingface_hub`: each uses what the other has downloaded.

use std::process::Command;

use super::{BASE_COMMIT, World, files, says, tiny, world};
use crate::fixtures::manifest_dir;

/// Runs the reference script; `None`, said, where there is no Python with the package (`PYTHON` names another one).
fn python(world: &World, args: &[&str]) -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let known = Command::new(&python)
        .args(["-c", "import huggingface_hub"])
        .output();
    if !known.is_ok_and(|out| out.status.success()) {
        println!("skipped: {python} has no huggingface_hub (PYTHON names another one)");
        return None;
    }
    let script = manifest_dir().join("tests/reference/hub_cache.py");
    let offline = if args.contains(&"offline") { "1" } else { "0" };
    let out = Command::new(python)
        .arg(script)
        .args(args)
        .env("HF_HUB_OFFLINE", offline)
        .env("HF_HOME", world.home.path())
        .env("HF_ENDPOINT", &world.mock.endpoint)
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_TOKEN")
        .output()
        .expect("it starts");
    Some(says(args, &out))
}

#[test]
fn python_finds_what_pull_has_downloaded() {
    let world = world();
    let printed = world.prints(&["pull", "owner/tiny", "owner/tiny@refs/pr/1"]);
    let ours = printed.lines().next().expect("a directory");
    world.mock.asked();
    for revision in ["main", "refs/pr/1", BASE_COMMIT] {
        let Some(theirs) = python(&world, &["offline", "owner/tiny", revision]) else {
            return;
        };
        assert_eq!(theirs.trim(), ours);
    }
    assert!(world.mock.asked().is_empty());
    // With the hub in reach it looks at every file, and still downloads none.
    python(&world, &["online", "owner/tiny", "main"]);
    let asked = world.mock.asked();
    assert!(
        !asked.is_empty() && !asked.iter().any(|asked| asked.at_store),
        "{asked:?}"
    );
}

#[test]
fn pull_finds_what_python_has_downloaded() {
    let world = world();
    let Some(theirs) = python(&world, &["online", "owner/tiny", "main"]) else {
        return;
    };
    world.mock.asked();
    let ours = world.prints(&["pull", "owner/tiny"]);
    assert_eq!(ours, theirs);
    let asked = world.mock.asked();
    assert_eq!(asked.len(), 1, "only the list is asked for: {asked:?}");
    let expected = files(&tiny("base"));
    let found = files(theirs.trim().as_ref());
    assert!(
        expected
            .iter()
            .all(|(name, bytes)| found.get(name) == Some(bytes))
    );
    let out = world
        .command(&["pull", "owner/tiny"])
        .env("HF_HUB_OFFLINE", "1")
        .output();
    assert_eq!(says(&[], &out.expect("it starts")), ours);
}
