//! The routes that list and change adapters: vLLM's names, mistral.rs' bodies and rules.

mod list;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(super) use self::list::*;
use super::{
    auth::may_change,
    body::Asked,
    cards::task_of,
    failure::Failure,
    loads::{self, Load, check_name, take_turn},
    state::App,
};
use crate::engine::{Resident, registry::Changed};

/// Listing, which changes nothing.
pub(super) fn listing() -> Router<App> {
    Router::new()
        .route("/v1/lora_adapters", get(lora_adapters))
        .route("/lora-adapters", get(llama_adapters))
}

/// Changing.
pub(super) fn changing() -> Router<App> {
    Router::new()
        .route("/v1/load_lora_adapter", post(load))
        .route("/v1/unload_lora_adapter", post(unload))
        .route("/v1/rollback_lora_adapter", post(rollback))
        .route("/v1/canary_lora_adapter", post(canary))
        .route("/v1/pin_lora_adapter", post(pin))
}

/// An adapter to load.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct LoadBody {
    lora_name: String,
    /// Below the server's adapter root, or a URL of a store it allows.
    lora_path: String,
    /// Whether the name may stand for another generation already.
    #[serde(default)]
    load_inplace: bool,
    /// The generation that it must stand for now.
    expected_generation: Option<String>,
    pinned: Option<bool>,
}

/// An adapter after a change.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangedAdapter {
    id: String,
    object: &'static str,
    generation: String,
    /// The generation before, if there was one.
    replaced: Option<String>,
    rank: usize,
    bytes: u64,
    task: &'static str,
    labels: Vec<String>,
    load_ms: f64,
    /// Rows of its self test, all right; `null` where it brought none.
    selftest_rows: Option<usize>,
    /// Names that had to go.
    evicted: Vec<String>,
}

fn changed(name: String, resident: &Resident, changed: Changed) -> Json<ChangedAdapter> {
    let labels = resident.classifier.as_ref().map(|c| c.labels.to_vec());
    Json(ChangedAdapter {
        id: name,
        object: "lora_adapter",
        generation: resident.generation().to_owned(),
        replaced: changed.replaced,
        rank: resident.max_rank(),
        bytes: resident.bytes(),
        task: task_of(resident),
        labels: labels.unwrap_or_default(),
        load_ms: resident.load_time().as_secs_f64() * 1e3,
        selftest_rows: resident.selftest_rows(),
        evicted: changed.evicted.into_iter().map(|gone| gone.name).collect(),
    })
}

/// Loads an adapter, or replaces one in place
#[utoipa::path(post, path = "/v1/load_lora_adapter", tag = "Adapters", request_body = LoadBody,
    responses((status = 200, body = ChangedAdapter), (status = 401), (status = 403), (status = 409), (status = 422), (status = 429)))]
pub(super) async fn load(
    State(app): State<App>,
    Asked { body, headers }: Asked<LoadBody>,
) -> Result<Json<ChangedAdapter>, Failure> {
    may_change(&app, &headers)?;
    check_name(&app, &body.lora_name)?;
    let place = app.loads.sources.of_client(&body.lora_path)?;
    let turn = take_turn(&app, &body.lora_name)?;
    let how = Load {
        replace: body.load_inplace,
        expected: body.expected_generation,
        pinned: body.pinned,
        ..Load::default()
    };
    let (resident, what) = loads::load(&turn, place, how).await?;
    Ok(changed(body.lora_name, &resident, what))
}

/// A name to change.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct NameBody {
    lora_name: String,
    /// Taken and not looked at.
    #[serde(default, rename = "lora_int_id")]
    _lora_int_id: Option<i64>,
    expected_generation: Option<String>,
}

/// Takes an adapter's name away; requests under way keep what they began with
#[utoipa::path(post, path = "/v1/unload_lora_adapter", tag = "Adapters", request_body = NameBody,
    responses((status = 200), (status = 404), (status = 409)))]
pub(super) async fn unload(
    State(app): State<App>,
    Asked { body, headers }: Asked<NameBody>,
) -> Result<Response, Failure> {
    may_change(&app, &headers)?;
    check_name(&app, &body.lora_name)?;
    let turn = take_turn(&app, &body.lora_name)?;
    let what = loads::unload(&turn, body.expected_generation).await?;
    let (id, generation) = (body.lora_name, what.replaced);
    let said = serde_json::json!({
        "id": id, "object": "lora_adapter", "unloaded": true, "generation": generation,
    });
    Ok(Json(said).into_response())
}

/// Makes the generation before the current one again
#[utoipa::path(post, path = "/v1/rollback_lora_adapter", tag = "Adapters", request_body = NameBody,
    responses((status = 200, body = ChangedAdapter), (status = 404), (status = 409)))]
pub(super) async fn rollback(
    State(app): State<App>,
    Asked { body, headers }: Asked<NameBody>,
) -> Result<Json<ChangedAdapter>, Failure> {
    may_change(&app, &headers)?;
    let expected = body.expected_generation;
    after(&app, body.lora_name, move |registry, name| {
        registry.roll_back(name, expected.as_deref())
    })
    .await
}

/// A name to try another generation under.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CanaryBody {
    lora_name: String,
    /// Where the other generation is; not needed to change the share of the one on trial.
    lora_path: Option<String>,
    /// 0 ends the trial, 100 makes it the current generation.
    percent: u8,
    expected_generation: Option<String>,
}

/// Sends a share of a name's requests to another generation
#[utoipa::path(post, path = "/v1/canary_lora_adapter", tag = "Adapters", request_body = CanaryBody,
    responses((status = 200, body = ChangedAdapter), (status = 404), (status = 409), (status = 422)))]
pub(super) async fn canary(
    State(app): State<App>,
    Asked { body, headers }: Asked<CanaryBody>,
) -> Result<Json<ChangedAdapter>, Failure> {
    may_change(&app, &headers)?;
    let percent = body.percent;
    if percent > 100 {
        let why = format!("expected 0 to 100, found {percent}");
        return Err(Failure::invalid("percent", why));
    }
    let expected = body.expected_generation;
    let Some(path) = body.lora_path.filter(|_| percent > 0) else {
        return after(&app, body.lora_name, move |registry, name| {
            let how = crate::engine::registry::Publish {
                expected: expected.as_deref(),
                ..Default::default()
            };
            registry.canary(name, None, percent, how)
        })
        .await;
    };
    check_name(&app, &body.lora_name)?;
    let place = app.loads.sources.of_client(&path)?;
    let turn = take_turn(&app, &body.lora_name)?;
    let how = Load {
        expected,
        canary: Some(percent),
        ..Load::default()
    };
    let (resident, what) = loads::load(&turn, place, how).await?;
    Ok(changed(body.lora_name, &resident, what))
}

/// A name to keep, or no longer.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct PinBody {
    lora_name: String,
    pinned: bool,
}

/// Keeps a name from eviction, or no longer
#[utoipa::path(post, path = "/v1/pin_lora_adapter", tag = "Adapters", request_body = PinBody,
    responses((status = 200, body = ChangedAdapter), (status = 404)))]
pub(super) async fn pin(
    State(app): State<App>,
    Asked { body, headers }: Asked<PinBody>,
) -> Result<Json<ChangedAdapter>, Failure> {
    may_change(&app, &headers)?;
    after(&app, body.lora_name, move |registry, name| {
        registry.pin(name, body.pinned)
    })
    .await
}

/// Makes a change that reads no file, and tells what the name stands for then.
async fn after(
    app: &App,
    name: String,
    change: impl FnOnce(&crate::engine::Registry, &str) -> Result<Changed, crate::engine::Refused>
    + Send
    + 'static,
) -> Result<Json<ChangedAdapter>, Failure> {
    check_name(app, &name)?;
    let turn = take_turn(app, &name)?;
    let what = loads::change(&turn, change).await?;
    let gone = || crate::engine::Refused::NotFound(name.clone());
    let current = app.engine.registry().current(&name).ok_or_else(gone)?;
    Ok(changed(name, &current, what))
}
