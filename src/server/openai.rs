//! OpenAI's embeddings and models, and the parts that routes in its style share.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::{Asked, Inputs},
    cards::{self, Card},
    embedding::embed,
    failure::{Failure, Kind},
    select::{Which, choose},
    state::App,
    submit::Reply,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/embeddings", post(embeddings))
        .route("/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .route("/v1/models/{*model}", get(model))
}

/// What to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbeddingsBody {
    input: Inputs,
    #[serde(default)]
    encoding_format: Format,
    dimensions: Option<usize>,
    /// Taken and not looked at.
    #[serde(default, rename = "user")]
    _user: Option<String>,
    /// The most tokens that are kept, special ones counted; -1: as many as the model takes.
    truncate_prompt_tokens: Option<i64>,
    #[serde(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    /// Little-endian f32.
    Base64,
}

/// Tokens, as clients are told of them.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(super) struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    pub(super) fn of(tokens: usize) -> Self {
        Self {
            prompt_tokens: tokens,
            total_tokens: tokens,
        }
    }
}

/// Vectors.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Embeddings {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_generation: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

/// A vector an input, of length 1
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", request_body = EmbeddingsBody,
    responses((status = 200, body = Embeddings)))]
pub(super) async fn embeddings(
    State(app): State<App>,
    Asked { body, headers }: Asked<EmbeddingsBody>,
) -> Result<Reply<Embeddings>, Failure> {
    let deadline = app.deadline(&headers)?;
    let choice = choose(&app, &body.which, &headers, None).await?;
    let shape = app.shape(body.dimensions, true)?;
    let prompt = app.prompt(None)?;
    let limit = app.limit_of(body.truncate_prompt_tokens)?;
    let (vectors, answers) =
        embed(&app, body.input, prompt, choice, limit, deadline, shape).await?;
    let one = |(index, vector): (usize, Vec<f32>)| Embedding {
        object: "embedding",
        index,
        embedding: match body.encoding_format {
            Format::Float => Vector::Floats(vector),
            Format::Base64 => Vector::Base64(base64_of(&vector)),
        },
    };
    let out = Embeddings {
        object: "list",
        data: vectors.into_iter().enumerate().map(one).collect(),
        model: body.which.model.unwrap_or(app.model_name().to_owned()),
        usage: Usage::of(answers.stats.tokens),
        adapter_generation: answers.stats.generation(),
    };
    Ok(Reply(answers.stats, out))
}

fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The base and its adapters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Models {
    object: &'static str,
    data: Vec<Card>,
}

/// The base and its adapters
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = Models)))]
pub(super) async fn models(State(app): State<App>) -> Json<Models> {
    Json(Models {
        object: "list",
        data: cards::all(&app),
    })
}

/// One of them
#[utoipa::path(get, path = "/v1/models/{model}", tag = "OpenAI", params(("model" = String, Path)), responses((status = 200, body = Card), (status = 404)))]
pub(super) async fn model(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<Card>, Failure> {
    let mut all = cards::all(&app).into_iter();
    let why = || Failure::new(Kind::UnknownModel, format!("no model is named {model:?}"));
    all.find(|card| card.id == model).map(Json).ok_or_else(why)
}

/// `prefix-` and a number that this server has not given before.
pub(super) fn made_up_id(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    format!("{prefix}-{:x}-{n:x}", now())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| d.as_secs())
}
