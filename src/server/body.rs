//! Reading a request: a JSON body with its headers, and the shapes of inputs that several routes take.

use axum::{
    body::{Bytes, HttpBody},
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
};
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::ToSchema;

use super::{
    failure::{Failure, Kind},
    state::App,
    submit::{Input, Text},
};

/// A JSON body and the headers it came with.
#[derive(Debug)]
pub(super) struct Asked<T> {
    pub(super) body: T,
    pub(super) headers: HeaderMap,
}

impl<T: DeserializeOwned> FromRequest<App> for Asked<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let headers = request.headers().clone();
        if !is_json(&headers, request.uri().path()) {
            let why = "expected a body of Content-Type: application/json";
            return Err(Failure::new(Kind::MediaType, why));
        }
        if request.body().size_hint().lower() > app.options.max_body_bytes as u64 {
            return Err(too_large()); // said before any of it is read
        }
        let reading = Bytes::from_request(request, app);
        let bytes = tokio::time::timeout(app.options.read_timeout, reading);
        let bytes = bytes
            .await
            .map_err(|_| Failure::new(Kind::Validation, "the body did not come in time"))?
            .map_err(refused)?;
        let body = serde_json::from_slice(&bytes).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => Failure::new(Kind::Validation, e.to_string()),
            _ => Failure::new(Kind::Validation, format!("not JSON: {e}")),
        })?;
        Ok(Self { body, headers })
    }
}

fn is_json(headers: &HeaderMap, path: &str) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        // Triton's client names no type. Nowhere that changes something: a foreign page can send such a request.
        return path.starts_with("/v2/") && !path.starts_with("/v2/repository/models/");
    };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5 && essence[essence.len() - 5..].eq_ignore_ascii_case("+json"))
}

fn refused(rejection: BytesRejection) -> Failure {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        _ => Failure::new(Kind::Validation, "the body could not be read"),
    }
}

fn too_large() -> Failure {
    let why = "the body is larger than this server takes";
    Failure::new(Kind::BodyTooLarge, why)
}

/// One text, several, one list of token ids, or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string, a list of strings, a list of token ids, or a list of such lists"
)]
pub(super) enum Inputs {
    /// A text.
    Text(String),
    /// Token ids; an empty list too.
    Ids(Vec<u32>),
    /// Texts or lists of ids.
    Many(Vec<OneInput>),
}

/// One of several inputs.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of token ids")]
pub(super) enum OneInput {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

impl Inputs {
    /// The texts, `prompt` before each; token ids take none.
    pub(super) fn texts(self, prompt: &str) -> Vec<Input> {
        let words = |text: String| match prompt {
            "" => Text::Words(text),
            prompt => Text::Words(format!("{prompt}{text}")),
        };
        let one = |input: OneInput| match input {
            OneInput::Text(text) => words(text),
            OneInput::Ids(ids) => Text::Ids(ids),
        };
        let all = match self {
            Inputs::Text(text) => vec![words(text)],
            Inputs::Ids(ids) if ids.is_empty() => vec![],
            Inputs::Ids(ids) => vec![Text::Ids(ids)],
            Inputs::Many(all) => all.into_iter().map(one).collect(),
        };
        all.into_iter().map(|text| (text, None)).collect()
    }
}

/// Which end of a long text is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
pub(super) enum Side {
    /// The end stays.
    #[serde(rename = "left", alias = "Left")]
    Left,
    /// The beginning stays.
    #[default]
    #[serde(rename = "right", alias = "Right")]
    Right,
}

/// A string, or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub(super) enum Strings {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Strings {
    pub(super) fn list(self) -> Vec<String> {
        match self {
            Strings::One(one) => vec![one],
            Strings::Many(many) => many,
        }
    }
}
