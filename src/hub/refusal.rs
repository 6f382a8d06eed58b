//! Why the hub did not give what it was asked for, and what one can do about it.

use std::{fmt, time::Duration};

use serde::Deserialize;
use ureq::{
    Body,
    http::{Response, StatusCode},
};

use super::{Repository, Settings, client::text};
use crate::Error;

/// The longest message of the hub that is shown, in bytes.
const MESSAGE_LIMIT: u64 = 1 << 12;

/// An answer that is none.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// `X-Error-Code`: `GatedRepo`, `RepoNotFound`, `RevisionNotFound`, `EntryNotFound`.
    code: String,
    message: String,
    retry_after: Option<Duration>,
}

/// What stands between us and a file.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The hub says no, and would say so again.
    Refused(Refusal),
    /// It cannot be reached, is busy, or has an error of its own.
    Unreachable {
        why: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
}

impl Refusal {
    pub(super) fn read(response: &mut Response<Body>) -> Self {
        #[derive(Deserialize)]
        struct Said {
            error: String,
        }
        let header = |name| {
            text(response.headers(), name)
                .unwrap_or_default()
                .to_owned()
        };
        let (code, mut message) = (header("x-error-code"), header("x-error-message"));
        let seconds = header("retry-after").trim().parse().ok();
        let status = response.status();
        if message.is_empty() {
            let body = response.body_mut().with_config().limit(MESSAGE_LIMIT);
            let said = body.read_json::<Said>();
            message = said.map(|s| s.error).unwrap_or_default();
        }
        // Outside text, on its way to a terminal.
        message.retain(|c| !c.is_control());
        Self {
            status,
            code,
            message,
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    /// What happened and what to do.
    fn advice(&self, repository: &Repository, file: bool, settings: &Settings) -> String {
        let page = format!("{}/{}", settings.endpoint, repository.id());
        let token = match settings.token {
            None => "none was given (HF_TOKEN, --token, or `hf auth login`)",
            Some(_) => "the one given does not open it, or is no longer valid",
        };
        let what = match (self.status.as_u16(), self.code.as_str()) {
            (_, "GatedRepo") | (403, _) => format!(
                "access is restricted: accept its conditions at {page} and use the token of that account; {token}"
            ),
            (_, "RevisionNotFound") => {
                format!("no such branch, tag or commit; {page}/tree/main shows those there are")
            }
            (_, "EntryNotFound") => "no such file at this revision".to_owned(),
            (401, _) | (_, "RepoNotFound") => format!(
                "no such repository, or a private one: check its name; a private one needs a token, and {token}"
            ),
            (404, _) if file => "no such file at this revision".to_owned(),
            (404, _) => "no such repository or revision".to_owned(),
            _ => "refused".to_owned(),
        };
        match self.message.as_str() {
            "" => format!("HTTP {}: {what}", self.status.as_u16()),
            said => format!(
                "HTTP {}: {what} (the hub says: {said})",
                self.status.as_u16()
            ),
        }
    }
}

impl Trouble {
    /// The connection, or what came over it, is of no use.
    pub(super) fn lost(url: &str, why: &dyn fmt::Display) -> Self {
        let url = url.split('?').next().unwrap_or_default(); // what follows may be a signature
        Self::Unreachable {
            why: format!("{url}: {why}"),
            wait: None,
        }
    }

    /// Final, unless it is the hub's own trouble.
    pub(super) fn of(refusal: Refusal, url: &str) -> Self {
        let (status, wait) = (refusal.status, refusal.retry_after);
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
        match busy.contains(&status) || status.is_server_error() {
            false => Self::Refused(refusal),
            true => match Self::lost(url, &format!("HTTP {}", status.as_u16())) {
                Self::Unreachable { why, .. } => Self::Unreachable { why, wait },
                refused => refused,
            },
        }
    }

    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    pub(super) fn asks_for(&self) -> Option<Duration> {
        match self {
            Self::Refused(_) => None,
            Self::Unreachable { wait, .. } => *wait,
        }
    }

    /// As the error of a file, or of the whole repository.
    pub(super) fn about(
        &self,
        repository: &Repository,
        file: Option<&str>,
        settings: &Settings,
    ) -> Error {
        let why = match self {
            Self::Refused(refusal) => refusal.advice(repository, file.is_some(), settings),
            Self::Unreachable { .. } => self.to_string(),
        };
        super::error(repository, file, why)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "HTTP {}", refusal.status.as_u16()),
            Self::Unreachable { why, .. } => write!(f, "{why}"),
        }
    }
}
