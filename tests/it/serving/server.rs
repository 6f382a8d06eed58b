//! A running server: started on a free port, killed when dropped; and a blocking client for it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The token of all servers that are started here.
pub(super) const TOKEN: &str = "the-admin-token";
/// Longer than any answer here takes on a busy machine; a request that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

/// A server process.
pub(super) struct Server {
    child: Child,
    pub(super) url: String,
    agent: ureq::Agent,
}

/// An answer: status, body, and the generation that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: String,
    pub(super) generation: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

pub(super) fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(HANGS))
        .max_idle_connections_per_host(64)
        .build();
    config.into()
}

/// Starts a server and does not wait.
pub(super) fn spawn(args: &[&str], cache: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_sorank"))
        .args(["serve", "--port", "0", "--quiet", "--admin-token", TOKEN])
        .args(args)
        .env("SORANK_CACHE", cache)
        .env("SORANK_LOG", "error")
        .env_remove("SORANK_MODEL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

impl Server {
    /// Starts a server and waits until it says where it listens.
    pub(super) fn start(args: &[&str]) -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        Self::of(spawn(args, &cache)).unwrap_or_else(|why| panic!("{args:?}: {why}"))
    }

    /// The server that `child` becomes; or what it said when it ended.
    pub(super) fn of(mut child: Child) -> Result<Self, String> {
        let out = child.stdout.take().expect("a pipe");
        let mut said = BufReader::new(out).lines().map_while(Result::ok);
        let url = said.find_map(|line| {
            let rest = line.split_once("listening on ")?.1;
            rest.split(' ').next().map(str::to_owned)
        });
        match url {
            Some(url) => {
                // What it says later goes nowhere, and must not fill the pipe.
                std::thread::spawn(move || said.for_each(drop));
                Ok(Self {
                    child,
                    url,
                    agent: agent(),
                })
            }
            None => {
                let out = child.wait_with_output().expect("it ended");
                Err(String::from_utf8_lossy(&out.stderr).into_owned())
            }
        }
    }

    pub(super) fn get(&self, path: &str) -> Reply {
        let request = self.agent.get(format!("{}{path}", self.url));
        let sent = request.header("Authorization", format!("Bearer {TOKEN}"));
        reply(sent.call()).unwrap_or_else(|e| panic!("GET {path}: {e}"))
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Reply {
        let sent = post(&self.agent, &self.url, path, body.to_string().as_bytes());
        sent.unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    /// Loads the adapter at `path` below the root as `name`, in place of any.
    pub(super) fn load(&self, name: &str, path: &str) -> Reply {
        let body = serde_json::json!({"lora_name": name, "lora_path": path, "load_inplace": true});
        self.post("/v1/load_lora_adapter", &body)
    }

    /// Memory of the process in KiB that is resident: all of it, and what is its own.
    pub(super) fn resident(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).expect("a process of Linux");
        let field = |name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).expect("a field");
            let number = line.split_whitespace().nth(1).expect("a number");
            number.parse::<u64>().expect("a number")
        };
        (field("VmRSS:"), field("RssAnon:"))
    }

    /// Of its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended by itself.
    pub(super) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("a child")
    }

    /// kill -9.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("it ended");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed by the test already, mostly by its panic.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends `body` to `path` as JSON with the admin token.
pub(super) fn post(
    agent: &ureq::Agent,
    url: &str,
    path: &str,
    body: &[u8],
) -> Result<Reply, ureq::Error> {
    let request = agent.post(format!("{url}{path}"));
    let request = request
        .header("Authorization", format!("Bearer {TOKEN}"))
        .header("Content-Type", "application/json");
    reply(request.send(body))
}

fn reply(
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<Reply, ureq::Error> {
    let mut response = response?;
    let generation = response.headers().get("x-adapter-generation");
    let generation = generation.and_then(|v| v.to_str().ok()).unwrap_or_default();
    Ok(Reply {
        generation: generation.to_owned(),
        status: response.status().as_u16(),
        body: response.body_mut().read_to_string()?,
    })
}

/// Sleeps until `at`.
pub(super) fn until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}
