//! Keys: who may ask, and who may change adapters. Compared in constant time, by their hashes, so that neither the bytes
//! nor the length of a key shows in how long a comparison takes.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::{Choice, ConstantTimeEq};

use super::{
    failure::{Failure, Kind},
    state::{App, State as Server},
};

/// Paths that need no key: a balancer has none, and the page asks for one itself.
const OPEN: &[&str] = &[
    "/",
    "/health",
    "/ping",
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    "/docs",
    "/api-doc/openapi.json",
    "/console",
    "/console/console.css",
    "/console/try.js",
    "/console/adapters.js",
];

/// Lets requests with a key pass, where keys are asked for.
pub(super) async fn keys(State(app): State<App>, request: Request, next: Next) -> Response {
    let open = OPEN.contains(&request.uri().path());
    let keys = &app.options.api_keys;
    let admin = app.options.admin_token.as_slice();
    if open || keys.is_empty() || bears(request.headers(), keys, admin) {
        return next.run(request).await;
    }
    Failure::new(
        Kind::Unauthorized,
        "expected Authorization: Bearer and an API key",
    )
    .into_response()
}

/// Lets a change of adapters pass: switched on, and by who holds the admin token (an API key where there is none).
pub(super) fn may_change(app: &Server, headers: &HeaderMap) -> Result<(), Failure> {
    let options = &app.options;
    let tokens = match &options.admin_token {
        Some(token) => std::slice::from_ref(token),
        None => &options.api_keys,
    };
    if !tokens.is_empty() && !bears(headers, tokens, &[]) {
        let why = "expected Authorization: Bearer and the admin token";
        return Err(Failure::new(Kind::Unauthorized, why));
    }
    if !options.runtime_adapters {
        let why = "changing adapters is switched off (--allow-runtime-adapters)";
        return Err(Failure::new(Kind::RuntimeUnavailable, why));
    }
    app.ready()
}

/// Whether the headers bear one of the tokens. All are compared, whichever fits.
fn bears(headers: &HeaderMap, tokens: &[String], more: &[String]) -> bool {
    let value = headers.get(header::AUTHORIZATION);
    let value = value.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let Some((scheme, given)) = value.split_once(' ') else {
        return false;
    };
    let given = blake3::hash(given.trim().as_bytes());
    let mut found = Choice::from(0);
    for token in tokens.iter().chain(more) {
        let token = blake3::hash(token.as_bytes());
        found |= token.as_bytes().ct_eq(given.as_bytes());
    }
    scheme.eq_ignore_ascii_case("bearer") && bool::from(found)
}
