//! The console in headless Chromium, by the DevTools protocol: typed into, clicked and looked at as its user would.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::Engine as _;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, stream::MaybeTlsStream};

use super::server::{Server, TOKEN};
use crate::fixtures::golden;

/// How long the page may take to show something.
const PATIENCE: Duration = Duration::from_secs(60);

struct Browser {
    child: Child,
    socket: WebSocket<MaybeTlsStream<std::net::TcpStream>>,
    id: u64,
    /// Errors of scripts and of the policy.
    errors: Vec<String>,
    _profile: tempfile::TempDir,
}

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|p| p.exists());
    if found.is_none() {
        println!("skipped: no Chromium on the PATH (Debian: apt-get install chromium)");
    }
    found
}

impl Browser {
    fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let child = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args(["--remote-debugging-port=0", "--window-size=1440,1000"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium starts");
        let file = profile.path().join("DevToolsActivePort");
        let start = Instant::now();
        let port = loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            match text.split_once('\n') {
                Some((port, _)) => break port.to_owned(),
                None => assert!(start.elapsed() < PATIENCE, "Chromium gives no port"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut page = ureq::put(format!("http://127.0.0.1:{port}/json/new?about:blank"))
            .send_empty()
            .expect("a page");
        let page: Value = page.body_mut().read_json().expect("JSON");
        let (socket, _) =
            tungstenite::connect(page["webSocketDebuggerUrl"].as_str().expect("an address"))
                .expect("connected");
        let mut browser = Self {
            child,
            socket,
            id: 0,
            errors: Vec::new(),
            _profile: profile,
        };
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.call(domain, json!({}));
        }
        browser
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.id += 1;
        let message = json!({"id": self.id, "method": method, "params": params}).to_string();
        self.socket.send(Message::text(message)).expect("sent");
        loop {
            let Message::Text(text) = self.socket.read().expect("read") else {
                continue;
            };
            let said: Value = serde_json::from_str(&text).expect("JSON");
            if said["id"] == self.id {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
            let entry = &said["params"]["entry"];
            let refused = entry["level"] == "error" && entry["source"] != "network";
            if said["method"] == "Runtime.exceptionThrown" || refused {
                self.errors.push(said.to_string());
            }
        }
    }

    fn run(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let said = self.call("Runtime.evaluate", params);
        assert!(said["exceptionDetails"].is_null(), "{script}: {said}");
        said["result"]["value"].clone()
    }

    /// Waits until `script` is true.
    fn until(&mut self, script: &str) {
        let start = Instant::now();
        while self.run(script) != json!(true) {
            assert!(
                start.elapsed() < PATIENCE,
                "{script}: never; {}",
                self.run("document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn key(&mut self, key: &str, code: i64, modifiers: i64) {
        for kind in ["rawKeyDown", "keyUp"] {
            let params = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers});
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// Types into the field `id`, as a keyboard does.
    fn type_into(&mut self, id: &str, text: &str) {
        self.run(&format!("document.getElementById('{id}').focus()"));
        self.call("Input.insertText", json!({"text": text}));
    }

    fn look(&mut self, name: &str) {
        let data = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let png = base64::engine::general_purpose::STANDARD
            .decode(data["data"].as_str().expect("a picture"))
            .expect("base64");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, png).expect("written");
        println!("looked: {}", path.display());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_console_tries_shows_and_changes_adapters() {
    let Some(chromium) = chromium() else { return };
    let golden = golden("bert");
    let dir = golden.dir.join("adapters");
    let named = |name: &str| format!("--adapter={name}={}", dir.join(name).display());
    let server = Server::start(&[
        "--model",
        golden.base().to_str().expect("UTF-8"),
        "--allow-runtime-adapters",
        "--adapter-root",
        dir.to_str().expect("UTF-8"),
        &named("mixed"),
        &named("tags"),
        &named("embed"),
    ]);
    let mut page = Browser::start(&chromium);
    page.call(
        "Page.navigate",
        json!({"url": format!("{}/console", server.url)}),
    );
    page.until("document.querySelectorAll('.card').length === 3");
    page.until("document.getElementById('state').textContent === 'ready'");

    // A text with a character outside the basic plane, by keyboard alone.
    let text = "The \u{1f600} cat sat in Berlin with Anna.";
    page.type_into("text", text);
    page.key("Enter", 13, 2);
    page.until("document.querySelectorAll('.answer').length === 3");
    page.look("console-light.png");
    let shown = page.run("document.querySelector('.answer .score.first output')?.textContent");
    let right = server
        .post("/predict", &json!({"inputs": text, "adapter": "mixed"}))
        .json();
    let score = right[0]["score"].as_f64().expect("a score");
    assert_eq!(
        shown,
        json!(format!("{score:.3}")),
        "the score shown is the server's"
    );
    let found = server
        .post(
            "/token_classify",
            &json!({"inputs": text, "adapter": "tags"}),
        )
        .json();
    let marks = page.run("[...document.querySelectorAll('mark')].map(m => m.firstChild.data)");
    let letters: Vec<char> = text.chars().collect();
    let spans: Vec<String> = (found.as_array().expect("entities").iter())
        .map(|e| {
            letters[e["start"].as_u64().expect("one") as usize
                ..e["end"].as_u64().expect("one") as usize]
                .iter()
                .collect()
        })
        .collect();
    assert_eq!(marks, json!(spans), "what is marked is what was found");
    assert_eq!(
        page.run("document.querySelector('.tagged').textContent.startsWith('The \u{1f600}')"),
        json!(true)
    );

    // A rank map: as many numbers as sites with a rank.
    let list = server.get("/v1/lora_adapters?ranks=true").json();
    let mixed = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|a| a["id"] == "mixed")
        .expect("mixed");
    let ranks = mixed["rank_map"].as_array().expect("ranks").iter();
    let open = ranks
        .filter(|s| !s["layer"].is_null() && s["rank"] != 0)
        .count();
    assert_eq!(
        page.run("document.querySelectorAll('[data-name=mixed] .map .n').length"),
        json!(open)
    );

    // Without the token nothing changes, with it everything does.
    page.run("document.querySelector('#loader').open = true");
    page.type_into("load-name", "guest");
    page.type_into("load-path", "qv2");
    page.run("document.getElementById('load').requestSubmit()");
    page.until("document.getElementById('said').textContent.startsWith('401')");
    page.type_into("token", TOKEN);
    page.run("document.getElementById('load').requestSubmit()");
    page.until("document.querySelector('[data-name=guest]') !== null");
    let act = |what: &str| {
        format!("document.querySelector('[data-name=guest] [data-do={what}]').click()")
    };
    page.run(&act("replace"));
    page.type_into("ask-path", "many/03");
    page.run("document.getElementById('ask-go').click()");
    page.until("!document.querySelector('[data-name=guest] [data-do=rollback]').disabled");
    page.run(&act("canary"));
    page.type_into("ask-path", "qv2");
    page.run("document.getElementById('ask-go').click()");
    page.until(
        "document.querySelector('[data-name=guest] .generation').textContent.includes('10 %')",
    );
    page.run(&act("pin"));
    page.until("!document.querySelector('[data-name=guest] .pin').hidden");
    page.call(
        "Emulation.setEmulatedMedia",
        json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]}),
    );
    page.look("console-dark.png");
    page.run(&act("rollback"));
    page.until("document.getElementById('said').textContent.includes('is back at')");
    page.run(&act("unload"));
    page.run("document.getElementById('ask-go').click()");
    page.until("document.querySelector('[data-name=guest]') === null");
    let kept = page.run("localStorage.length + sessionStorage.length + document.cookie.length");
    assert_eq!(kept, json!(0), "a token is in the page's memory only");
    assert!(page.errors.is_empty(), "{:?}", page.errors);
}
