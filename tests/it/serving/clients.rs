//! Clients that other projects wrote, from PyPI, against the binary: tests/reference/clients.py says what each does.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::server::{Server, TOKEN};
use crate::fixtures::{golden, manifest_dir};

/// What the script imports.
const PACKAGES: [&str; 6] = [
    "openai",
    "huggingface_hub",
    "requests",
    "numpy",
    "tritonclient[http]",
    "kserve",
];

/// A Python that has the packages, in a place of its own under target/; `None` where there is none, and says why.
fn python() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    let (python, done) = (dir.join("bin/python"), dir.join(PACKAGES.join("+")));
    if done.exists() {
        return Some(python);
    }
    let run = |program: &Path, args: &[&str]| {
        let out = Command::new(program)
            .args(args)
            .output()
            .map_err(|e| e.to_string())?;
        match out.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    };
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--retries",
        "0",
        "--timeout",
        "10",
    ];
    let made = run(
        Path::new("python3"),
        &["-m", "venv", dir.to_str().expect("UTF-8")],
    )
    .and_then(|()| run(&python, &[&install[..], &PACKAGES[..]].concat()));
    if let Err(why) = made {
        println!(
            "skipped: no Python with packages from PyPI here: {}",
            why.lines().last().unwrap_or_default()
        );
        return None;
    }
    std::fs::write(done, "").expect("written");
    Some(python)
}

#[test]
fn the_clients_of_other_projects_work_unchanged() {
    let Some(python) = python() else { return };
    let golden = golden("bert");
    let root = golden.dir.join("adapters");
    let named = |name: &str| format!("--adapter={name}={}", root.join(name).display());
    let server = Server::start(&[
        "--model",
        golden.base().to_str().expect("UTF-8"),
        "--served-model-name",
        "base",
        "--allow-runtime-adapters",
        "--adapter-root",
        root.to_str().expect("UTF-8"),
        &named("mixed"),
        &named("qv2"),
        &named("tags"),
        &named("embed"),
    ]);
    let script = manifest_dir().join("tests/reference/clients.py");
    let out = Command::new(python)
        .arg(script)
        .args([server.url.as_str(), TOKEN])
        .output()
        .expect("it starts");
    print!("{}", String::from_utf8_lossy(&out.stdout));
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&out.stdout).lines().count(), 5);
}
