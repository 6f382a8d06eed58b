//! The console: one page to try the adapters and to look after them, embedded in the binary.
//!
//! It has no rights of its own. All that it shows and does goes through the public routes, with the API key or admin
//! token that its user types; those stay in the page's memory and are written nowhere. The policy below lets it run its
//! own script and style and talk to this server, and nothing else.

use axum::{
    Router,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::state::App;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/console", get(page))
        .route("/console/console.css", get(style))
        .route("/console/try.js", get(trying))
        .route("/console/adapters.js", get(adapters))
}

/// No inline script or style, no frame around it, no form that leaves, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    (headers, text).into_response()
}

async fn page() -> Response {
    file("text/html; charset=utf-8", include_str!("console.html"))
}

async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("console.css"))
}

async fn trying() -> Response {
    file("text/javascript; charset=utf-8", include_str!("try.js"))
}

async fn adapters() -> Response {
    file(
        "text/javascript; charset=utf-8",
        include_str!("adapters.js"),
    )
}
