//! `GET /info`: what is served, as TEI says it, and the adapters.

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::server::state::App;

/// What is served.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct Info {
    model_id: String,
    /// Content hash of the base's tensors.
    model_sha: String,
    model_dtype: String,
    served_model_name: String,
    #[schema(value_type = Object)]
    model_type: Value,
    max_concurrent_requests: usize,
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
    sha: Option<&'static str>,
    docker_label: Option<&'static str>,
    adapters: Vec<AdapterInfo>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AdapterInfo {
    id: String,
    generation: String,
    task: &'static str,
    labels: usize,
}

/// What is served
#[utoipa::path(get, path = "/info", tag = "TEI", responses((status = 200, body = Info)))]
pub(in crate::server) async fn info(State(app): State<App>) -> Json<Info> {
    let model = app.engine.model();
    let registry = app.engine.registry();
    let rows = app.options.max_batch_rows;
    let adapter = |(id, r): (String, std::sync::Arc<crate::engine::Resident>)| AdapterInfo {
        id,
        generation: r.generation().to_owned(),
        task: crate::server::cards::task_of(&r),
        labels: r.classifier.as_ref().map_or(0, |c| c.labels.len()),
    };
    Json(Info {
        model_id: app.model_name().to_owned(),
        model_sha: registry.base().generation().to_owned(),
        model_dtype: format!("{:?}", model.packed().precision()).to_lowercase(),
        served_model_name: app.model_name().to_owned(),
        model_type: model_type(&app),
        max_concurrent_requests: app.options.max_concurrent_requests,
        max_input_length: model.max_tokens(),
        max_batch_tokens: app.options.max_batch_tokens,
        max_batch_requests: (rows != usize::MAX).then_some(rows),
        max_client_batch_size: app.options.max_client_batch_size,
        auto_truncate: app.options.auto_truncate,
        tokenization_workers: rayon::current_num_threads(),
        version: env!("CARGO_PKG_VERSION"),
        sha: None,
        docker_label: None,
        adapters: registry.list().into_iter().map(adapter).collect(),
    })
}

fn model_type(app: &App) -> Value {
    let base = app.engine.registry().base();
    match &base.classifier {
        Some(classifier) => {
            let labels = classifier.labels.iter().enumerate();
            let id2label: serde_json::Map<_, _> = (labels.clone())
                .map(|(i, l)| (i.to_string(), json!(l)))
                .collect();
            let label2id: serde_json::Map<_, _> =
                labels.map(|(i, l)| (l.clone(), json!(i))).collect();
            let kind = match classifier.labels.len() {
                1 => "reranker",
                _ => "classifier",
            };
            json!({kind: {"id2label": id2label, "label2id": label2id}})
        }
        None => {
            let pooling = format!("{:?}", base.embedder.pooling).to_lowercase();
            json!({"embedding": {"pooling": pooling}})
        }
    }
}
