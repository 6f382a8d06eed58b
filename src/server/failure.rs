//! Why a request gets no answer, and how that is said: one list of reasons, one table of status codes, three envelopes.
//!
//! A handler returns a [`Failure`] and knows nothing of envelopes. The family of its route (TEI, OpenAI, KServe) lays
//! the envelope around it by `envelope`, also around what axum itself refuses (a wrong method, an unknown path).
//! A message never holds a path of the server's file system: adapters are read under their names.

use axum::{
    Json,
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{Error, engine::Refused};

/// A reason, as clients tell reasons apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The body is not what the route takes.
    Validation,
    /// The text could not be turned into tokens.
    Tokenizer,
    /// Nothing to work on.
    Empty,
    /// The text has more tokens than the model takes.
    TooLong,
    /// Two fields name different adapters.
    Conflict,
    /// No adapter or model of that name.
    UnknownModel,
    /// No such thing (a route, a state).
    NotFound,
    /// The task cannot do what the route asks.
    TaskMismatch,
    /// The weights overflow on this text: there is no finite answer.
    Overflow,
    /// Another method than the route has.
    Method,
    /// Not `application/json`.
    MediaType,
    /// The body is too large.
    BodyTooLarge,
    /// More inputs than one request may have.
    BatchTooLarge,
    /// No key, or a wrong one.
    Unauthorized,
    /// The queue is full.
    Overloaded,
    /// Starting, draining, or the base is gone.
    Unready,
    /// Not done by its deadline.
    Deadline,
    /// The batch failed.
    Backend,
    /// Another load of this name is under way.
    LoadBusy,
    /// The name is taken.
    AlreadyLoaded,
    /// No adapter of that name to change.
    AdapterNotFound,
    /// The name stands for another generation.
    GenerationMismatch,
    /// Its rank is above the limit.
    RankLimit,
    /// Too many adapters.
    AdapterLimit,
    /// Too many bytes.
    ByteLimit,
    /// The adapter's files are not right.
    InvalidAdapter,
    /// Made for another base.
    BaseMismatch,
    /// A classifier without its head.
    HeadMissing,
    /// A place that adapters may not be read from.
    PathForbidden,
    /// A file changed while it was opened.
    FileChanged,
    /// A file above the limit.
    FileTooLarge,
    /// Not a name.
    InvalidName,
    /// Changing adapters is switched off.
    RuntimeUnavailable,
    /// The state file could not be written; the change was taken back.
    StateNotSaved,
}

/// Status, TEI's `error_type`, OpenAI's `type`, `code`.
type Said = (u16, &'static str, &'static str, &'static str);

impl Kind {
    /// The table. OpenAI clients tell a bad request by 400, TEI's by 422: see [`Kind::status`].
    fn said(self) -> Said {
        const BAD: &str = "invalid_request_error";
        const GONE: &str = "not_found_error";
        const BUSY: &str = "rate_limit_error";
        const OURS: &str = "server_error";
        match self {
            Kind::Validation => (422, "Validation", BAD, "invalid_request"),
            Kind::Tokenizer => (422, "Tokenizer", BAD, "tokenizer_error"),
            Kind::Empty => (400, "Empty", BAD, "empty_input"),
            Kind::TooLong => (422, "Validation", BAD, "context_length_exceeded"),
            Kind::Conflict => (400, "Validation", BAD, "adapter_conflict"),
            Kind::UnknownModel => (404, "NotFound", GONE, "model_not_found"),
            Kind::NotFound => (404, "NotFound", GONE, "not_found"),
            Kind::TaskMismatch => (422, "Validation", BAD, "adapter_task_mismatch"),
            Kind::Overflow => (422, "Validation", BAD, "adapter_overflow"),
            Kind::Method => (405, "Validation", BAD, "method_not_allowed"),
            Kind::MediaType => (415, "Validation", BAD, "unsupported_media_type"),
            Kind::BodyTooLarge => (413, "Validation", BAD, "body_too_large"),
            Kind::BatchTooLarge => (413, "Validation", BAD, "batch_too_large"),
            Kind::Unauthorized => (401, "Validation", "authentication_error", "invalid_api_key"),
            Kind::Overloaded => (429, "Overloaded", BUSY, "overloaded"),
            Kind::Unready => (503, "Unhealthy", OURS, "not_ready"),
            Kind::Deadline => (504, "Backend", OURS, "deadline_exceeded"),
            Kind::Backend => (500, "Backend", OURS, "batch_failed"),
            Kind::LoadBusy => (429, "Overloaded", BUSY, "lora_load_busy"),
            Kind::AlreadyLoaded => (409, "Validation", BAD, "lora_adapter_already_loaded"),
            Kind::AdapterNotFound => (404, "NotFound", GONE, "lora_adapter_not_found"),
            Kind::GenerationMismatch => (409, "Validation", BAD, "lora_generation_mismatch"),
            Kind::RankLimit => (409, "Validation", BAD, "lora_rank_limit_exceeded"),
            Kind::AdapterLimit => (409, "Validation", BAD, "lora_adapter_limit_exceeded"),
            Kind::ByteLimit => (409, "Validation", BAD, "lora_byte_limit_exceeded"),
            Kind::InvalidAdapter => (422, "Validation", BAD, "invalid_lora_adapter"),
            Kind::BaseMismatch => (422, "Validation", BAD, "adapter_base_mismatch"),
            Kind::HeadMissing => (422, "Validation", BAD, "adapter_head_missing"),
            Kind::PathForbidden => (
                403,
                "Validation",
                "permission_error",
                "adapter_path_forbidden",
            ),
            Kind::FileChanged => (409, "Validation", BAD, "adapter_file_changed"),
            Kind::FileTooLarge => (413, "Validation", BAD, "lora_adapter_file_too_large"),
            Kind::InvalidName => (400, "Validation", BAD, "invalid_lora_name"),
            Kind::RuntimeUnavailable => (409, "Validation", BAD, "lora_runtime_unavailable"),
            Kind::StateNotSaved => (507, "Backend", OURS, "state_not_saved"),
        }
    }

    /// `code` of the OpenAI envelope; also what metrics and logs call it.
    pub fn code(self) -> &'static str {
        self.said().3
    }

    /// The status code on a route of `family`.
    pub fn status(self, family: Family) -> StatusCode {
        let openai_400 = [Kind::Validation, Kind::Tokenizer, Kind::TooLong];
        let code = match family {
            Family::OpenAi | Family::Oip if openai_400.contains(&self) => 400,
            _ => self.said().0,
        };
        StatusCode::from_u16(code).expect("the table holds status codes")
    }

    /// The label of `te_request_failure`.
    pub(super) fn metric(self) -> &'static str {
        match self {
            Kind::Overloaded | Kind::LoadBusy => "overloaded",
            Kind::BatchTooLarge => "batch_size",
            Kind::Tokenizer => "tokenization",
            Kind::Deadline => "dropped",
            Kind::TaskMismatch => "model_type",
            Kind::Backend | Kind::Overflow => "inference",
            Kind::Unready => "unhealthy",
            Kind::UnknownModel | Kind::AdapterNotFound | Kind::NotFound => "not_found",
            _ => "validation",
        }
    }
}

/// Which clients a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `{"error", "error_type"}`
    Tei,
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"error"}`
    Oip,
}

/// A request that gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub kind: Kind,
    /// A sentence for people.
    pub message: String,
    /// The field it is about.
    pub param: Option<&'static str>,
}

/// Seconds after which a refused client may come again: about a full queue's time.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

impl Failure {
    /// A failure for `kind`, said as `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
        }
    }

    /// [`Kind::Validation`] about `param`.
    pub(super) fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param),
            ..Self::new(Kind::Validation, message)
        }
    }

    /// The same about item `index` of `field`.
    pub(super) fn at(mut self, field: &str, index: usize) -> Self {
        self.message = format!("{field}[{index}]: {}", self.message);
        self
    }

    fn body(&self, family: Family) -> Value {
        let (_, tei, openai, code) = self.kind.said();
        match family {
            Family::Tei => json!({"error": self.message, "error_type": tei, "code": code}),
            Family::Oip => json!({"error": self.message}),
            Family::OpenAi => json!({"error": {
                "message": self.message, "type": openai, "param": self.param, "code": code,
            }}),
        }
    }

    fn response(self, family: Family) -> Response {
        let mut response = (self.kind.status(family), Json(self.body(family))).into_response();
        let headers = response.headers_mut();
        if response_is_later(self.kind) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if self.kind == Kind::Unauthorized {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        headers.insert(
            HeaderName::from_static("x-error-code"),
            HeaderValue::from_static(self.kind.code()),
        );
        response.extensions_mut().insert(self);
        response
    }
}

fn response_is_later(kind: Kind) -> bool {
    matches!(kind, Kind::Overloaded | Kind::LoadBusy | Kind::Unready)
}

impl IntoResponse for Failure {
    /// In TEI's envelope; `envelope` lays that of the route's family around it.
    fn into_response(self) -> Response {
        self.response(Family::Tei)
    }
}

/// Lays the envelope of `family` around a failure; any other response passes.
pub(super) fn envelope(family: Family, mut response: Response<Body>) -> Response {
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        return failure.response(family);
    }
    let refused = match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => {
            Failure::new(Kind::Method, "this route has another method")
        }
        // What axum's own extractors say about a path or a query that they cannot read.
        StatusCode::BAD_REQUEST => {
            Failure::new(Kind::Validation, "the path or the query is malformed")
        }
        _ => return response,
    };
    let mut refused = refused.response(family);
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        refused.headers_mut().insert(header::ALLOW, allow);
    }
    refused
}

impl From<Error> for Failure {
    /// What admission of a row refuses.
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::EmptyInput => Kind::Empty,
            Error::TooLong { .. } => Kind::TooLong,
            Error::UnknownAdapter { .. } => Kind::UnknownModel,
            Error::WrongTask { .. } => Kind::TaskMismatch,
            _ => return Failure::new(Kind::Tokenizer, without_path(&error)),
        };
        Failure::new(kind, error.to_string())
    }
}

/// What is wrong with an adapter's files.
pub(super) fn of_adapter(error: &Error) -> Failure {
    let kind = match error {
        Error::BaseMismatch { .. } => Kind::BaseMismatch,
        Error::HeadMissing { .. } => Kind::HeadMissing,
        _ => Kind::InvalidAdapter,
    };
    // Its files were read under its name, so the paths in the message are made of that name.
    Failure::new(kind, error.to_string())
}

/// The message of an error of the tokenizer, whose file the caller knows nothing of.
fn without_path(error: &Error) -> String {
    match error {
        Error::Format { why, .. } | Error::Config { why, .. } => why.clone(),
        Error::Io { .. } => "a file could not be read".to_owned(),
        _ => "the text could not be read".to_owned(),
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let kind = match refused {
            Refused::NotFound(_) => Kind::AdapterNotFound,
            Refused::NothingBefore(_) | Refused::NoCanary(_) => Kind::AdapterNotFound,
            Refused::AlreadyLoaded(_) => Kind::AlreadyLoaded,
            Refused::GenerationMismatch { .. } => Kind::GenerationMismatch,
            Refused::TooManyAdapters { .. } => Kind::AdapterLimit,
            Refused::TooManyBytes { .. } => Kind::ByteLimit,
            Refused::RankTooLarge { .. } => Kind::RankLimit,
        };
        Failure::new(kind, refused.to_string())
    }
}
