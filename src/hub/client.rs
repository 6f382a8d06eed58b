//! HTTP to the hub: what it says of a repository and of a file, and a file's bytes from some offset on.
//!
//! Redirects are followed here and not by the library, since the token may go to the endpoint alone, never to the
//! store behind it, and a file's checksum stands in the headers before the redirect. A connection that breaks, a
//! busy hub and one with an error of its own are tried again a few times; a refusal is final.

use std::time::Duration;

use serde::Deserialize;
use ureq::{
    Body,
    http::{HeaderMap, Response, StatusCode, header},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    Settings,
    refusal::{Refusal, Trouble},
    repo::{Repository, in_url},
};
use crate::{Error, Result};

/// How often something is tried before it counts as unreachable.
pub(super) const ATTEMPTS: u32 = 4;
/// The wait before the second attempt; doubled before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait that a busy hub may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that brings nothing for so long is given up (and taken up again where it stood).
const SILENCE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 8;
/// The longest list of a repository's files that is read.
const LISTING_LIMIT: u64 = 64 << 20;

/// A client of one hub.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    settings: Settings,
}

/// What the hub says of a repository at a revision.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit that the revision is at.
    pub(super) sha: String,
    #[serde(default)]
    pub(super) siblings: Vec<Entry>,
}

/// A file in a listing. A mirror may leave out all but its name.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "rfilename")]
    pub(super) name: String,
    pub(super) size: Option<u64>,
    #[serde(rename = "blobId")]
    pub(super) git_blob: Option<String>,
    pub(super) lfs: Option<Large>,
}

/// A file that is not kept in git itself.
#[derive(Debug, Deserialize)]
pub(super) struct Large {
    pub(super) sha256: Option<String>,
}

/// What the headers of a file say.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) commit: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ask {
    /// The headers at the endpoint.
    Headers,
    /// The bytes from this one on, wherever they are.
    Bytes(u64),
}

impl Client {
    /// # Errors
    /// When `SSL_CERT_FILE` is set and holds no certificates.
    pub(super) fn new(settings: Settings) -> Result<Self> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(SILENCE))
            .accept_encoding("identity")
            .user_agent(concat!("sorank/", env!("CARGO_PKG_VERSION")));
        if let Some(roots) = own_roots()? {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let agent = config.build().into();
        Ok(Self { agent, settings })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The commit and the files of a repository.
    pub(super) fn listing(&self, repository: &Repository) -> Result<Listing, Trouble> {
        let (endpoint, id) = (&self.settings.endpoint, repository.id());
        let revision = repository.revision_in_url();
        let url = format!("{endpoint}/api/models/{id}/revision/{revision}?blobs=true");
        persist(|| {
            let mut response = self.ask(&url, Ask::Bytes(0))?;
            let body = response.body_mut().with_config().limit(LISTING_LIMIT);
            let bytes = body.read_to_vec().map_err(|e| Trouble::lost(&url, &e))?;
            serde_json::from_slice(&bytes)
                .map_err(|e| Trouble::lost(&url, &format!("not a list of files: {e}")))
        })
    }

    /// Where a file is.
    pub(super) fn url(&self, repository: &Repository, commit: &str, name: &str) -> String {
        let (endpoint, id) = (&self.settings.endpoint, repository.id());
        format!("{endpoint}/{id}/resolve/{commit}/{}", in_url(name))
    }

    /// What the hub says of the file at `url`.
    pub(super) fn metadata(&self, url: &str) -> Result<Metadata, Trouble> {
        persist(|| {
            let response = self.ask(url, Ask::Headers)?;
            let headers = response.headers();
            let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
            // The length of a redirect is that of its own body.
            let own = (!response.status().is_redirection()).then_some("content-length");
            let size = ["x-linked-size"].into_iter().chain(own);
            Ok(Metadata {
                commit: text(headers, "x-repo-commit").map(str::to_owned),
                etag: etag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned()),
                size: size
                    .filter_map(|name| text(headers, name)?.parse().ok())
                    .next(),
            })
        })
    }

    /// The bytes of the file at `url` from `start` on; not tried twice.
    pub(super) fn bytes(&self, url: &str, start: u64) -> Result<Response<Body>, Trouble> {
        self.ask(url, Ask::Bytes(start))
    }

    fn ask(&self, url: &str, what: Ask) -> Result<Response<Body>, Trouble> {
        let mut url = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let mut request = match what {
                Ask::Headers => self.agent.head(&url),
                Ask::Bytes(_) => self.agent.get(&url),
            };
            if let Ask::Bytes(start @ 1..) = what {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let at_home = origin(&url) == origin(&self.settings.endpoint);
            if let (true, Some(token)) = (at_home, &self.settings.token) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let mut response = request.call().map_err(|e| Trouble::lost(&url, &e))?;
            let status = response.status();
            let (headers, range) = (response.headers(), StatusCode::RANGE_NOT_SATISFIABLE);
            match (status.is_redirection(), text(headers, "location")) {
                (true, Some(location)) => {
                    let next = absolute(&url, location);
                    let leaves = origin(&next) != origin(&url);
                    let known = headers.contains_key("x-linked-etag");
                    if what == Ask::Headers && (leaves || known) {
                        return Ok(response);
                    }
                    if url.starts_with("https:") && !next.starts_with("https:") {
                        let why = format!("sent from https to {}", origin(&next));
                        return Err(Trouble::lost(&url, &why));
                    }
                    url = next;
                }
                _ if status.is_success() || status == range => return Ok(response),
                _ => return Err(Trouble::of(Refusal::read(&mut response), &url)),
            }
        }
        Err(Trouble::lost(&url, &"redirected again and again"))
    }
}

/// Does it again, a little later, while the hub cannot be reached.
fn persist<T>(mut once: impl FnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
    for attempt in 1..ATTEMPTS {
        match once() {
            Err(trouble) if trouble.may_pass() => pause(attempt, &trouble),
            done => return done,
        }
    }
    once()
}

/// Waits before another attempt, as long as a busy hub asks for.
pub(super) fn pause(failures: u32, trouble: &Trouble) {
    tracing::info!("trying again: {trouble}");
    let usual = FIRST_WAIT * 2_u32.pow(failures.min(ATTEMPTS) - 1);
    std::thread::sleep(trouble.asks_for().unwrap_or(usual).min(LONGEST_WAIT));
}

/// Scheme and host of a URL.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| start + at);
    &url[..end]
}

/// What `location` means in an answer of `url`.
fn absolute(url: &str, location: &str) -> String {
    let scheme = url.split(':').next().unwrap_or_default();
    match location {
        other if other.starts_with("//") => format!("{scheme}:{other}"),
        other if other.starts_with('/') => format!("{}{other}", origin(url)),
        other if other.contains("://") => other.to_owned(),
        other => {
            let path = url.split(['?', '#']).next().unwrap_or_default();
            let folder = path.rfind('/').map_or(path, |at| &path[..at]);
            format!("{folder}/{other}")
        }
    }
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The certificates of `SSL_CERT_FILE`, for hubs whose own authority is not among the public ones.
fn own_roots() -> Result<Option<RootCerts>> {
    let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    let path = std::path::PathBuf::from(path);
    let pem = std::fs::read(&path).map_err(Error::io(&path))?;
    let mut roots = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(one) = item.map_err(|e| Error::format(&path, e.to_string()))? {
            roots.push(one);
        }
    }
    match roots.is_empty() {
        true => Err(Error::format(
            &path,
            "expected certificates (PEM), and it holds none",
        )),
        false => Ok(Some(roots.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_by_scheme_host_and_port() {
        assert_eq!(origin("https://hub.co/a/b?c"), "https://hub.co");
        assert_eq!(origin("http://127.0.0.1:81?x"), "http://127.0.0.1:81");
        assert_ne!(origin("https://hub.co.evil/a"), origin("https://hub.co"));
        assert_ne!(origin("https://hub.co@evil/a"), origin("https://hub.co"));
    }

    #[test]
    fn locations_of_every_kind_become_urls() {
        let from = |location| absolute("https://hub.co/a/b?q", location);
        assert_eq!(from("/c/d"), "https://hub.co/c/d");
        assert_eq!(from("https://cdn.co/x?sign"), "https://cdn.co/x?sign");
        assert_eq!(from("//cdn.co/x"), "https://cdn.co/x");
        assert_eq!(from("c"), "https://hub.co/a/c");
    }
}
