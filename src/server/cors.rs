//! Which pages of other origins may ask: none but those the operator names.
//!
//! Not who may ask: a page needs a key like everybody else, and no cookie is one.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, header},
};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::state::App;

/// What a page sends besides its body.
const ASKED: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::AUTHORIZATION,
    HeaderName::from_static("x-adapter"),
    HeaderName::from_static("x-request-timeout-ms"),
];
/// What a page may read besides the body.
const TOLD: [HeaderName; 3] = [
    header::RETRY_AFTER,
    HeaderName::from_static("x-adapter-generation"),
    HeaderName::from_static("x-request-id"),
];

/// Whether `origin` can be one: `*`, or a scheme and a host with nothing after them.
pub fn is_origin(origin: &str) -> bool {
    let host = origin.split_once("://").map(|(_, host)| host);
    let host = host.filter(|h| !h.is_empty() && !h.contains(['/', '*', ' ']));
    origin == "*" || (host.is_some() && HeaderValue::from_str(origin).is_ok())
}

/// `routes` that answer browsers; of `origins` those that are none ([`is_origin`]) are left out.
pub(super) fn around(origins: &[String], routes: Router<App>) -> Router<App> {
    if origins.is_empty() {
        return routes; // the layer would answer any OPTIONS
    }
    let any = origins.iter().any(|origin| origin == "*");
    let named = origins.iter().filter(|origin| is_origin(origin));
    let named = named.filter_map(|origin| HeaderValue::from_str(origin).ok());
    let allowed = match any {
        true => AllowOrigin::from(Any),
        false => AllowOrigin::list(named),
    };
    routes.layer(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(ASKED)
            .expose_headers(TOLD),
    )
}

#[cfg(test)]
mod tests {
    use super::is_origin;

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for origin in ["*", "https://a.example", "http://localhost:3000"] {
            assert!(is_origin(origin), "{origin}");
        }
        for other in [
            "",
            "a.example",
            "https://",
            "https://a/b",
            "https://*.a",
            "https://a\n",
        ] {
            assert!(!is_origin(other), "{other:?}");
        }
    }
}
