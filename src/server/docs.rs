//! The OpenAPI description of all routes, and a page that shows it without anything from outside.

use axum::{
    Json, Router,
    http::header,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use utoipa::OpenApi;

use super::{adapters, health, kserve, openai, rerank, state::App, tei, token_classify, vllm};

/// All routes.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "sorank",
        description = "Many adapters over one encoder. An adapter is chosen by `model`, `adapter`, `adapters`, \
                       `parameters.adapter_id`, `lora_path` or the header `x-adapter`."
    ),
    paths(
        tei::embed,
        tei::embed_all,
        tei::predict,
        tei::similarity,
        tei::tokenize,
        tei::decode,
        tei::info,
        tei::invocations,
        rerank::rerank,
        rerank::rerank_v1,
        openai::embeddings,
        openai::models,
        openai::model,
        vllm::classify,
        vllm::score,
        token_classify::token_classify,
        kserve::server,
        kserve::live,
        kserve::ready,
        kserve::metadata,
        kserve::model_ready,
        kserve::infer,
        kserve::index,
        kserve::load,
        kserve::unload,
        adapters::lora_adapters,
        adapters::llama_adapters,
        adapters::load,
        adapters::unload,
        adapters::rollback,
        adapters::canary,
        adapters::pin,
        health::health,
        health::metrics,
    )
)]
struct Api;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/api-doc/openapi.json", get(description))
        .route("/docs", get(page))
}

async fn description() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}

async fn page() -> Response {
    // Nothing but the page's own script runs, and it may ask this server only.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    let headers = [(header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, Html(include_str!("docs/page.html"))).into_response()
}
