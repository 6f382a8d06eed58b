//! Whether the server lives and takes requests, for balancers and SageMaker; and what it has counted.

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{failure::Failure, state::App};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/", get(health))
        .route("/metrics", get(metrics))
}

/// 200 while it takes requests, 503 before, while it drains, and when its base was changed under it
#[utoipa::path(get, path = "/health", tag = "Health", responses((status = 200), (status = 503)))]
pub(super) async fn health(State(app): State<App>) -> Result<&'static str, Failure> {
    app.ready()?;
    Ok("")
}

/// Everything that is counted, for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "Health", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, app.metrics.text(&app)).into_response()
}
