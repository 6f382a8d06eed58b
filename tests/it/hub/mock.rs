//! A hub in miniature, on two ports: the endpoint, and the store behind it that large files are redirected to.
//!
//! Answers as the hub does (listing, tree, `resolve` with its headers, error codes), one connection a request, and can be told
//! to misbehave. It notes every request, so that a test sees what was asked for, where, and with which token.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Files of at least so many bytes are kept in the store.
const LARGE: usize = 10_000;

/// A repository at one commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Repo {
    pub(super) commit: String,
    /// Branches and tags.
    pub(super) revisions: Vec<String>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// The token without which nothing is said of it.
    pub(super) private: Option<String>,
    /// The token without which its files are refused.
    pub(super) gated: Option<String>,
}

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// The store ends so many connections after so many bytes.
    pub(super) cuts: u32,
    pub(super) cut_after: usize,
    /// The store flips a byte, so often.
    pub(super) flips: u32,
    /// So many bytes of the store at once, and then a pause of 20 ms.
    pub(super) slow: Option<usize>,
    /// The store sends whole files whatever range is asked for.
    pub(super) no_ranges: bool,
    /// The store sends a byte more than there is.
    pub(super) longer: bool,
    /// The endpoint is busy, so often.
    pub(super) busy: u32,
    /// Neither the listing nor the headers give a checksum.
    pub(super) no_checksums: bool,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) token: Option<String>,
    pub(super) range: Option<String>,
    pub(super) at_store: bool,
}

#[derive(Debug, Default)]
struct State {
    repos: BTreeMap<String, Repo>,
    renamed: BTreeMap<String, String>,
    faults: Faults,
    asked: Vec<Asked>,
    store: String,
}

/// A running mock; its threads end with the process.
#[derive(Debug, Clone)]
pub(super) struct Mock {
    pub(super) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Mock {
    pub(super) fn start() -> Mock {
        let state = Arc::new(Mutex::new(State::default()));
        let store = listen(&state, true);
        state.lock().expect("not poisoned").store = store;
        let endpoint = listen(&state, false);
        Mock { endpoint, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    pub(super) fn put(&self, id: &str, repo: Repo) {
        self.state().repos.insert(id.to_owned(), repo);
    }

    pub(super) fn rename(&self, old: &str, new: &str) {
        self.state().renamed.insert(old.to_owned(), new.to_owned());
    }

    pub(super) fn fail(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// What was asked for since the last call.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }
}

fn listen(state: &Arc<Mutex<State>>, at_store: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let state = state.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            std::thread::spawn(move || {
                let _ = answer(stream, &state, at_store); // a client that goes is none of our business
            });
        }
    });
    format!("http://{address}")
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn reply(status: u16) -> Reply {
    Reply {
        status,
        headers: Vec::new(),
        body: Vec::new(),
    }
}

impl Reply {
    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("Content-Type", "application/json")
    }

    /// As the hub refuses.
    fn error(self, code: &str, message: &str) -> Self {
        let coded = self.header("X-Error-Code", code);
        coded
            .header("X-Error-Message", message)
            .json(&json!({"error": message}))
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, at_store: bool) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut asked = Asked {
        method,
        path,
        token: None,
        range: None,
        at_store,
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "authorization" => asked.token = value.strip_prefix("Bearer ").map(str::to_owned),
            "range" => asked.range = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut state = state.lock().expect("not poisoned");
    state.asked.push(asked.clone());
    let reply = match at_store {
        true => state.stored(&asked),
        false => state.endpoint(&asked),
    };
    let faults = &mut state.faults;
    let cut = (at_store && faults.cuts > 0).then_some(faults.cut_after);
    faults.cuts -= u32::from(cut.is_some());
    let slow = faults.slow.filter(|_| at_store);
    drop(state);
    send(&mut stream, &asked, &reply, cut, slow)
}

fn send(
    stream: &mut TcpStream,
    asked: &Asked,
    reply: &Reply,
    cut: Option<usize>,
    slow: Option<usize>,
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    head += &format!("Content-Length: {}\r\n", reply.body.len());
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    let body = &reply.body[..cut.unwrap_or(usize::MAX).min(reply.body.len())];
    for chunk in body.chunks(slow.unwrap_or(1 << 16)) {
        stream.write_all(chunk)?;
        if slow.is_some() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

impl State {
    fn endpoint(&mut self, asked: &Asked) -> Reply {
        if self.faults.busy > 0 {
            self.faults.busy -= 1;
            return reply(503).header("Retry-After", "0");
        }
        let path = asked.path.split('?').next().unwrap_or_default();
        let parts: Vec<String> = path
            .trim_start_matches('/')
            .split('/')
            .map(decoded)
            .collect();
        let (api, rest) = match parts.as_slice() {
            [api, models, rest @ ..] if api == "api" && models == "models" => (true, rest),
            rest => (false, rest),
        };
        let [owner, name, route, revision, file @ ..] = rest else {
            return reply(404);
        };
        let id = format!("{owner}/{name}");
        if let Some(new) = self.renamed.get(&id) {
            return reply(307).header("Location", asked.path.replacen(&id, new, 1));
        }
        let open = |needed: &Option<String>| needed.is_none() || *needed == asked.token;
        let repo = self.repos.get(&id).filter(|repo| open(&repo.private));
        let Some(repo) = repo else {
            let status = if asked.token.is_some() { 404 } else { 401 };
            return reply(status).error("RepoNotFound", "Repository not found");
        };
        if *revision != repo.commit && !repo.revisions.contains(revision) {
            let message = format!("Invalid rev id: {revision}");
            return reply(404).error("RevisionNotFound", &message);
        }
        let files = repo.files.iter();
        match (api, route.as_str()) {
            (true, "revision") => {
                let entries =
                    files.map(|(name, bytes)| self.entry("rfilename", "blobId", name, bytes));
                let entries: Vec<Value> = entries.collect();
                reply(200).json(&json!({"id": id, "sha": repo.commit, "siblings": entries}))
            }
            (true, "tree") => {
                let entries = files.map(|(name, bytes)| self.entry("path", "oid", name, bytes));
                reply(200).json(&entries.collect())
            }
            (false, "resolve") if !open(&repo.gated) => {
                let status = if asked.token.is_some() { 403 } else { 401 };
                reply(status).error("GatedRepo", "Access to this model is restricted.")
            }
            (false, "resolve") => self.resolve(repo, &id, &file.join("/")),
            _ => reply(404),
        }
    }

    fn entry(&self, name_key: &str, oid_key: &str, name: &str, bytes: &[u8]) -> Value {
        let mut entry = json!({"type": "file", "size": bytes.len()});
        entry[name_key] = name.into();
        if !self.faults.no_checksums {
            entry[oid_key] = git_blob(bytes).into();
            if bytes.len() >= LARGE {
                let (oid, size) = (sha256(bytes), bytes.len());
                entry["lfs"] = json!({"oid": oid, "sha256": oid, "size": size, "pointerSize": 130});
            }
        }
        entry
    }

    fn resolve(&self, repo: &Repo, id: &str, file: &str) -> Reply {
        let Some(bytes) = repo.files.get(file) else {
            return reply(404).error("EntryNotFound", "Entry not found");
        };
        let tag = |hex: String| match self.faults.no_checksums {
            true => format!("\"tag-{}\"", &hex[..8]),
            false => format!("\"{hex}\""),
        };
        if bytes.len() < LARGE {
            let mut whole = reply(200).header("ETag", tag(git_blob(bytes)));
            whole.body = bytes.clone();
            return whole.header("X-Repo-Commit", repo.commit.as_str());
        }
        let redirect = reply(302).header("X-Repo-Commit", repo.commit.as_str());
        redirect
            .header("X-Linked-Etag", tag(sha256(bytes)))
            .header("X-Linked-Size", bytes.len().to_string())
            .header("ETag", "\"of-the-redirect\"")
            .header(
                "Location",
                format!("{}/{id}/{file}?signature=s3cret", self.store),
            )
    }

    /// What the store behind the endpoint sends.
    fn stored(&mut self, asked: &Asked) -> Reply {
        let path = asked.path.split('?').next().unwrap_or_default();
        let mut parts = path.trim_start_matches('/').splitn(3, '/');
        let (owner, name) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let repo = self.repos.get(&format!("{owner}/{name}"));
        let file = repo.and_then(|repo| repo.files.get(parts.next()?));
        let Some(mut bytes) = file.cloned() else {
            return reply(404);
        };
        if self.faults.flips > 0 {
            self.faults.flips -= 1;
            *bytes.last_mut().expect("large") ^= 1;
        }
        if self.faults.longer {
            bytes.push(0);
        }
        let range = asked
            .range
            .as_deref()
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        let start = range.and_then(|start| start.parse::<usize>().ok());
        let start = start.filter(|_| !self.faults.no_ranges);
        match start {
            Some(start) if start >= bytes.len() => reply(416),
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                let mut part = reply(206).header("Content-Range", range);
                part.body = bytes.split_off(start);
                part
            }
            None => {
                let mut whole = reply(200).header("ETag", "\"of-the-store\"");
                whole.body = bytes;
                whole
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(super) fn git_blob(bytes: &[u8]) -> String {
    let start = Sha1::new().chain_update(format!("blob {}\0", bytes.len()));
    hex(&start.chain_update(bytes).finalize())
}

/// A path's segment without its percent signs.
fn decoded(segment: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let decoded = match byte {
            b'%' => digit()
                .zip(digit())
                .and_then(|(high, low)| u8::try_from(16 * high + low).ok()),
            plain => Some(plain),
        };
        out.extend(decoded);
    }
    String::from_utf8_lossy(&out).into_owned()
}
