//! `sorank serve` takes repositories as start flags; no request makes it ask the hub.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use serde_json::{Value, json};

use super::{TEXTS, World, tiny, world};

struct Server {
    child: Child,
    url: String,
    agent: ureq::Agent,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(world: &World, args: &[&str]) -> Server {
    let mut command = world.command(&["serve", "--port", "0", "--quiet"]);
    let mut child = command
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"))
        .lines()
        .map_while(Result::ok);
    let url = said.find_map(|line| {
        let rest = line.split_once("listening on ")?.1;
        rest.split(' ').next().map(str::to_owned)
    });
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build();
    Server {
        child,
        url: url.expect("it says where it listens"),
        agent: config.into(),
    }
}

impl Server {
    fn get(&self, route: &str) -> Value {
        let mut answer = self
            .agent
            .get(format!("{}{route}", self.url))
            .call()
            .expect("an answer");
        answer.body_mut().read_json().expect("JSON")
    }

    fn post(&self, route: &str, body: &Value) -> (u16, String) {
        let request = self.agent.post(format!("{}{route}", self.url));
        let mut answer = request.send_json(body).expect("an answer");
        let text = answer.body_mut().read_to_string().expect("text");
        (answer.status().as_u16(), text)
    }
}

#[test]
fn a_base_and_an_adapter_are_pulled_at_the_start_and_never_by_a_request() {
    let world = world();
    let root = tiny("adapters");
    let server = start(
        &world,
        &[
            "--model",
            "owner/tiny",
            "--adapter",
            "intent=owner/intent",
            "--allow-runtime-adapters",
            "--adapter-root",
            root.to_str().expect("UTF-8"),
        ],
    );
    let models = server.get("/v1/models").to_string();
    assert!(
        models.contains("owner/tiny") && models.contains("intent"),
        "{models}"
    );
    let rows = json!({"inputs": TEXTS[0], "adapter": "intent"});
    let (status, answer) = server.post("/predict", &rows);
    assert_eq!(status, 200, "{answer}");

    world.mock.asked();
    for path in ["owner/intent", "owner/intent@main"] {
        let load = json!({"lora_name": "again", "lora_path": path});
        let (status, why) = server.post("/v1/load_lora_adapter", &load);
        assert!((400..500).contains(&status), "{status}: {why}");
    }
    let (status, _) = server.post(
        "/predict",
        &json!({"inputs": TEXTS[0], "adapter": "owner/intent"}),
    );
    assert!((400..500).contains(&status));
    assert!(world.mock.asked().is_empty());
}
