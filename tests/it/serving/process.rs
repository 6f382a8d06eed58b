//! The process around the server: its log, its signals, its base's files.

use std::{
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::server::{Server, TOKEN, agent};
use crate::fixtures::golden;

pub(super) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sorank"));
    command
        .args(["serve", "--port", "0", "--quiet", "--admin-token", TOKEN])
        .args(args)
        .env(
            "SORANK_CACHE",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
        )
        .env_remove("SORANK_MODEL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn terminate(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    kill_process(id.expect("a child's id"), Signal::TERM).expect("it runs");
}

#[test]
fn the_log_is_json_with_request_ids_and_sigterm_ends_with_code_0() {
    let mut command = command(&["--json-output"]);
    let mut child = command.env("SORANK_LOG", "info").spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    let mut server = Server::of(child).unwrap();
    let sent = agent()
        .post(format!("{}/predict", server.url))
        .header("content-type", "application/json")
        .header("x-request-id", "mine-7")
        .send(
            json!({"inputs": "x", "adapter": "nobody"})
                .to_string()
                .as_bytes(),
        )
        .unwrap();
    assert_eq!(sent.status(), 404);
    assert_eq!(sent.headers()["x-request-id"], "mine-7");
    terminate(server.id());
    assert_eq!(server.wait().code(), Some(0));
    let mut lines = String::new();
    log.read_to_string(&mut lines).unwrap();
    let lines: Vec<Value> = (lines.lines())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let mine = lines.iter().find(|l| l["span"]["id"] == "mine-7");
    let mine = mine.unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(
        (&mine["fields"]["code"], &mine["span"]["route"]),
        (&json!("model_not_found"), &json!("/predict"))
    );
}

/// Changing adapters on a port of its own: the other one does not know the routes.
#[test]
fn an_admin_port_takes_the_changes_away_from_the_other() {
    let root = golden("bert").dir.join("adapters");
    let base = golden("bert").base();
    let args = [
        "--model",
        base.to_str().unwrap(),
        "--allow-runtime-adapters",
        "--adapter-root",
        root.to_str().unwrap(),
        "--admin-port",
        "0",
    ];
    let mut child = command(&args).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut said = String::new();
    while !said.contains("admin on http://") || !said.contains("ready after") {
        let mut byte = [0];
        assert_ne!(out.read(&mut byte).unwrap(), 0, "{said}");
        said.push(char::from(byte[0]));
    }
    let url = |mark: &str| {
        let rest = said.split_once(mark).unwrap().1;
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let body = json!({"lora_name": "x", "lora_path": "mixed"}).to_string();
    let load = |url: &str| {
        let reply = super::server::post(&agent(), url, "/v1/load_lora_adapter", body.as_bytes());
        reply.unwrap().status
    };
    let got = (load(&url("listening on ")), load(&url("admin on ")));
    terminate(child.id());
    assert!(child.wait().unwrap().success());
    assert_eq!(got, (404, 200));
}

/// A base that is cut short under the server: mapped, it ends in 503 or ends the process, and never in another answer;
/// read into private memory, nothing changes.
#[test]
fn a_base_that_is_cut_short_gives_no_wrong_answer() {
    let from = golden("bert").base();
    let ask = json!({"inputs": "the cat sat on the old hill"});
    for no_mmap in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let mut args = vec!["--model", dir.path().to_str().unwrap()];
        args.extend(no_mmap.then_some("--no-mmap"));
        let mut command = command(&args);
        command.env("SORANK_CACHE", dir.path().join("cache"));
        let server = Server::of(command.spawn().unwrap()).unwrap();
        let before = server.post("/embed", &ask);
        assert_eq!(before.status, 200, "{}", before.body);
        let weights = std::fs::OpenOptions::new()
            .write(true)
            .open(dir.path().join("model.safetensors"));
        let weights = weights.unwrap();
        weights
            .set_len(weights.metadata().unwrap().len() / 2)
            .unwrap();
        for _ in 0..20 {
            let sent =
                super::server::post(&agent(), &server.url, "/embed", ask.to_string().as_bytes());
            match (no_mmap, sent) {
                (true, sent) => assert_eq!(sent.unwrap(), before),
                (false, Ok(reply)) => {
                    assert_eq!(reply.status, 503, "{}", reply.body);
                    assert!(reply.body.contains("was changed"), "{}", reply.body);
                }
                (false, Err(_)) => {} // the process has ended
            }
        }
    }
}
