//! What happens around every request: an id, a line in the log, the counters, and the last net under a handler.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;

use super::{
    failure::{Failure, Family, Kind, envelope},
    openai::made_up_id,
    state::App,
    submit::Stats,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TOTAL_TIME: HeaderName = HeaderName::from_static("x-total-time");
/// The longest id that a client may give.
const LONGEST_ID: usize = 128;

/// Gives a request its id and counts it.
pub(super) async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = given_id(&request).unwrap_or_else(|| made_up_id("req"));
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("unmatched", |path| path.as_str()).to_owned();
    let method = request.method().clone();
    let span = tracing::info_span!("request", id = %id, %method, route = %route);
    app.metrics.in_flight.inc();
    let count = CountDown(&app);
    let mut response = next.run(request).instrument(span.clone()).await;
    drop(count);
    let took = start.elapsed();
    let status = response.status();
    let stats = response.extensions_mut().remove::<Stats>();
    let failure = response.extensions().get::<Failure>().cloned();
    match &failure {
        Some(failure) => app.metrics.failed(&route, failure.kind.metric()),
        // What is asked by GET (lists, probes, pages) is no work.
        None if method == Method::POST => app.metrics.answered(&route, stats.as_ref(), took),
        None => {}
    }
    span.in_scope(|| {
        let ms = took.as_secs_f64() * 1e3;
        let rows = stats.as_ref().map_or(0, |s| s.rows);
        let tokens = stats.as_ref().map_or(0, |s| s.tokens);
        let status = status.as_u16();
        match failure {
            Some(f) => {
                tracing::info!(status, ms, code = f.kind.code(), why = %f.message, "refused")
            }
            None => tracing::info!(status, ms, rows, tokens, "answered"),
        }
    });
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    let total = format!("{:.3}", took.as_secs_f64() * 1e3);
    if let Ok(total) = HeaderValue::from_str(&total) {
        headers.insert(TOTAL_TIME, total);
    }
    response
}

/// Counts down also when the client leaves and the handler is dropped half way.
struct CountDown<'a>(&'a App);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}

/// The client's own id, if it is short printable ASCII.
fn given_id(request: &Request) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let printable = id.chars().all(|c| c.is_ascii_graphic());
    (!id.is_empty() && id.len() <= LONGEST_ID && printable).then(|| id.to_owned())
}

/// What is said when a handler panics.
pub(super) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    Failure::new(Kind::Backend, "the server failed on this request").into_response()
}

/// What is said on an unknown path, in the envelope of the routes beside it.
pub(super) async fn no_route(request: Request) -> Response {
    let path = request.uri().path();
    let family = match () {
        () if path.starts_with("/v1/") => Family::OpenAi,
        () if path.starts_with("/v2/") => Family::Oip,
        () => Family::Tei,
    };
    let failure = Failure::new(Kind::NotFound, "there is no such route; see /docs");
    envelope(family, failure.into_response())
}
