//! The Open Inference Protocol over JSON, as KServe, Triton and MLServer speak it: the base and each adapter are a model.
//!
//! A text comes as a BYTES tensor `text` (a second one, `text_pair`, makes pairs). What comes out depends on the task:
//! `embedding` `[n, H]`; `logits`, `scores` `[n, labels]` and `label` `[n]`; `score` `[n]`; `entities` `[n]` as JSON text.

mod infer;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    routing::{get, post},
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

pub(super) use self::infer::*;
use super::{
    auth::may_change,
    body::Asked,
    cards::task_of,
    failure::{Failure, Kind},
    loads::{self, Load, check_name, take_turn},
    state::App,
};
use crate::{engine::Resident, model::Level};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(metadata_of))
        .route("/v2/models/{model}/versions/{version}/ready", get(ready_of))
        .route(
            "/v2/models/{model}/versions/{version}/infer",
            post(infer_of),
        )
        .route("/v2/repository/index", post(index))
}

/// Changing, in KServe's words.
pub(super) fn changing() -> Router<App> {
    Router::new()
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
}

/// Who serves
#[utoipa::path(get, path = "/v2", tag = "KServe", responses((status = 200)))]
pub(super) async fn server() -> Json<Value> {
    Json(json!({
        "name": "sorank", "version": env!("CARGO_PKG_VERSION"), "extensions": ["model_repository"],
    }))
}

/// The process answers
#[utoipa::path(get, path = "/v2/health/live", tag = "KServe", responses((status = 200)))]
pub(super) async fn live() -> Json<Value> {
    Json(json!({"live": true}))
}

/// It takes requests
#[utoipa::path(get, path = "/v2/health/ready", tag = "KServe", responses((status = 200), (status = 503)))]
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Value>, Failure> {
    app.ready()?;
    Ok(Json(json!({"ready": true})))
}

/// What a model takes and gives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Metadata {
    name: String,
    versions: Vec<String>,
    platform: &'static str,
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TensorMetadata {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

fn tensor(name: &'static str, datatype: &'static str, shape: &[i64]) -> TensorMetadata {
    TensorMetadata {
        name,
        datatype,
        shape: shape.to_vec(),
    }
}

/// The resident that `model` names, without counting as a request for it.
fn found(app: &App, model: &str) -> Result<std::sync::Arc<Resident>, Failure> {
    let registry = app.engine.registry();
    if app.options.model_names.iter().any(|name| name == model) {
        return Ok(registry.base().clone());
    }
    let why = || Failure::new(Kind::UnknownModel, format!("no model is named {model:?}"));
    registry.current(model).ok_or_else(why)
}

/// What a model takes and gives
#[utoipa::path(get, path = "/v2/models/{model}", tag = "KServe", params(("model" = String, Path)),
    responses((status = 200, body = Metadata), (status = 404)))]
pub(super) async fn metadata(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<Metadata>, Failure> {
    let resident = found(&app, &model)?;
    let hidden = app.engine.model().spec().hidden as i64;
    let outputs = match &resident.classifier {
        None => vec![tensor("embedding", "FP32", &[-1, hidden])],
        Some(c) if c.level == Level::Token => vec![tensor("entities", "BYTES", &[-1])],
        Some(c) => {
            let labels = c.labels.len() as i64;
            vec![
                tensor("scores", "FP32", &[-1, labels]),
                tensor("logits", "FP32", &[-1, labels]),
                tensor("label", "BYTES", &[-1]),
            ]
        }
    };
    Ok(Json(Metadata {
        name: model,
        versions: vec![resident.generation().to_owned()],
        platform: "sorank",
        inputs: vec![tensor("text", "BYTES", &[-1])],
        outputs,
    }))
}

async fn metadata_of(
    app: State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<Metadata>, Failure> {
    check_version(&app, &model, &version)?;
    metadata(app, Path(model)).await
}

/// Versions are generations; `1` is whatever is current, for clients that must say a number.
pub(super) fn check_version(app: &App, model: &str, version: &str) -> Result<(), Failure> {
    let resident = found(app, model)?;
    if version == "1" || version == resident.generation() {
        return Ok(());
    }
    let why = format!("{model:?} has no version {version:?}");
    Err(Failure::new(Kind::UnknownModel, why))
}

/// A model takes requests
#[utoipa::path(get, path = "/v2/models/{model}/ready", tag = "KServe", params(("model" = String, Path)), responses((status = 200), (status = 404)))]
pub(super) async fn model_ready(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<Value>, Failure> {
    found(&app, &model)?;
    app.ready()?;
    Ok(Json(json!({"name": model, "ready": true})))
}

async fn ready_of(
    app: State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    check_version(&app, &model, &version)?;
    model_ready(app, Path(model)).await
}

/// Models and their states
#[utoipa::path(post, path = "/v2/repository/index", tag = "KServe", responses((status = 200)))]
pub(super) async fn index(State(app): State<App>) -> Json<Value> {
    let entry = |name: &str, resident: &Resident| {
        json!({
            "name": name, "version": resident.generation(), "state": "READY", "reason": "",
            "task": task_of(resident),
        })
    };
    let registry = app.engine.registry();
    let mut all: Vec<Value> = (app.options.model_names.iter())
        .map(|name| entry(name, registry.base()))
        .collect();
    all.extend(registry.list().iter().map(|(name, r)| entry(name, r)));
    let evicted = app.loads.known().into_keys();
    let unavailable = |name| {
        let reason = "evicted; loads when asked for";
        json!({"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason})
    };
    all.extend(evicted.map(unavailable));
    Json(Value::Array(all))
}

/// Where to load from.
#[derive(Debug, Default, serde::Deserialize, ToSchema)]
pub(super) struct RepositoryLoad {
    #[serde(default)]
    parameters: RepositoryParameters,
}

#[derive(Debug, Default, serde::Deserialize, ToSchema)]
struct RepositoryParameters {
    /// As `/v1/load_lora_adapter`'s; by default the model's name.
    lora_path: Option<String>,
}

/// Loads an adapter, replacing in place
#[utoipa::path(post, path = "/v2/repository/models/{model}/load", tag = "KServe", params(("model" = String, Path)), request_body = RepositoryLoad,
    responses((status = 200), (status = 403)))]
pub(super) async fn load(
    State(app): State<App>,
    Path(model): Path<String>,
    Asked { body, headers }: Asked<RepositoryLoad>,
) -> Result<Json<Value>, Failure> {
    may_change(&app, &headers)?;
    check_name(&app, &model)?;
    let path = body.parameters.lora_path;
    let place = app
        .loads
        .sources
        .of_client(path.as_ref().unwrap_or(&model))?;
    let turn = take_turn(&app, &model)?;
    let how = Load {
        replace: true,
        ..Load::default()
    };
    let (resident, _) = loads::load(&turn, place, how).await?;
    Ok(Json(
        json!({"name": model, "version": resident.generation()}),
    ))
}

/// Takes an adapter's name away
#[utoipa::path(post, path = "/v2/repository/models/{model}/unload", tag = "KServe", params(("model" = String, Path)), responses((status = 200), (status = 404)))]
pub(super) async fn unload(
    State(app): State<App>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    may_change(&app, &headers)?;
    check_name(&app, &model)?;
    let turn = take_turn(&app, &model)?;
    loads::unload(&turn, None).await?;
    Ok(Json(json!({"name": model})))
}
