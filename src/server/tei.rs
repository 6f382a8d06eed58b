//! The routes of text-embeddings-inference: vectors, labels, ranks, similarities.

mod info;
mod tokens;

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(super) use self::{info::*, tokens::*};
use super::{
    body::{Asked, Inputs, Side},
    embedding::embed as vectors,
    failure::Failure,
    rerank,
    select::{Which, choose},
    state::App,
    submit::{self, Ask, Input, Reply, Text},
};
use crate::{
    engine::{Answer, Classes, Want},
    kernel::pool,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/embed", post(embed))
        .route("/embed_all", post(embed_all))
        .route("/predict", post(predict))
        .route("/rerank", post(rerank::rerank))
        .route("/similarity", post(similarity))
        .route("/tokenize", post(tokenize))
        .route("/decode", post(decode))
        .route("/invocations", post(invocations))
        .route("/info", get(info))
}

fn yes() -> bool {
    true
}

/// What to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbedBody {
    inputs: Inputs,
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Side,
    #[serde(default = "yes")]
    normalize: bool,
    prompt_name: Option<String>,
    dimensions: Option<usize>,
    #[serde(flatten)]
    which: Which,
}

/// A vector an input (and an adapter, where several are named for one input)
#[utoipa::path(post, path = "/embed", tag = "TEI", request_body = EmbedBody,
    responses((status = 200, body = Vec<Vec<f32>>), (status = 422), (status = 429), (status = 404)))]
pub(super) async fn embed(
    State(app): State<App>,
    Asked { body, headers }: Asked<EmbedBody>,
) -> Result<Reply<Vec<Vec<f32>>>, Failure> {
    let deadline = app.deadline(&headers)?;
    let choice = choose(&app, &body.which, &headers, None).await?;
    let prompt = app.prompt(body.prompt_name.as_deref())?;
    let shape = app.shape(body.dimensions, body.normalize)?;
    let limit = app.limit(body.truncate, body.truncation_direction == Side::Left);
    let (vectors, answers) =
        vectors(&app, body.inputs, prompt, choice, limit, deadline, shape).await?;
    Ok(Reply(answers.stats, vectors))
}

/// A vector a token, special tokens included
#[utoipa::path(post, path = "/embed_all", tag = "TEI", request_body = EmbedBody,
    responses((status = 200, body = Vec<Vec<Vec<f32>>>)))]
pub(super) async fn embed_all(
    State(app): State<App>,
    Asked { body, headers }: Asked<EmbedBody>,
) -> Result<Reply<Vec<Vec<Vec<f32>>>>, Failure> {
    let prompt = app.prompt(body.prompt_name.as_deref())?;
    let ask = Ask {
        field: "inputs",
        texts: body.inputs.texts(prompt),
        choice: choose(&app, &body.which, &headers, None).await?,
        want: Want::Tokens,
        limit: app.limit(body.truncate, body.truncation_direction == Side::Left),
        deadline: app.deadline(&headers)?,
    };
    let answers = submit::answer(&app, ask).await?;
    let rows = |answer: Answer| {
        let Answer::Tokens(m) = answer else {
            unreachable!("token vectors were asked for")
        };
        (0..m.rows()).map(|r| m.row(r).to_vec()).collect()
    };
    let vectors = answers.answers.into_iter().map(rows).collect();
    Ok(Reply(answers.stats, vectors))
}

/// A text, a pair, or a list of `[text]` and `[text, pair]`. `["a", "b"]` is one pair.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string, a pair of strings, or a list of [text] and [text, pair]"
)]
enum Sequences {
    Text(String),
    Pair(String, String),
    Many(Vec<Vec<String>>),
}

/// What to label.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct PredictBody {
    inputs: Sequences,
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Side,
    #[serde(default)]
    raw_scores: bool,
    #[serde(flatten)]
    which: Which,
}

/// A label and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Label {
    score: f32,
    label: String,
}

/// The labels of one input, or of several.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Predicted {
    /// Of one.
    One(Vec<Label>),
    /// Of several.
    Many(Vec<Vec<Label>>),
}

impl Sequences {
    /// The texts; whether it is a list; or the item that is no text and no pair.
    fn texts(self) -> Result<(Vec<Input>, bool), Failure> {
        let one = |(i, item): (usize, Vec<String>)| {
            let mut item = item.into_iter();
            match (item.next(), item.next(), item.next()) {
                (Some(text), pair, None) => Ok((Text::Words(text), pair)),
                _ => {
                    let why = "expected [text] or [text, pair]";
                    Err(Failure::invalid("inputs", why).at("inputs", i))
                }
            }
        };
        match self {
            Sequences::Text(text) => Ok((vec![(Text::Words(text), None)], false)),
            Sequences::Pair(a, b) => Ok((vec![(Text::Words(a), Some(b))], false)),
            Sequences::Many(all) => {
                let all: Result<_, _> = all.into_iter().enumerate().map(one).collect();
                Ok((all?, true))
            }
        }
    }
}

/// Labels with scores, the best first; of several inputs or adapters a list each
#[utoipa::path(post, path = "/predict", tag = "TEI", request_body = PredictBody,
    responses((status = 200, body = Predicted)))]
pub(super) async fn predict(
    State(app): State<App>,
    Asked { body, headers }: Asked<PredictBody>,
) -> Result<Reply<Predicted>, Failure> {
    let choice = choose(&app, &body.which, &headers, None).await?;
    let (texts, is_list) = body.inputs.texts()?;
    let many = is_list || choice.is_list();
    let ask = Ask {
        field: "inputs",
        texts,
        choice,
        want: Want::Classes,
        limit: app.limit(body.truncate, body.truncation_direction == Side::Left),
        deadline: app.deadline(&headers)?,
    };
    let answers = submit::answer(&app, ask).await?;
    let sorted = |answer| sorted(&classes(answer), body.raw_scores);
    let mut labels: Vec<Vec<Label>> = answers.answers.into_iter().map(sorted).collect();
    let predicted = match many {
        true => Predicted::Many(labels),
        false => Predicted::One(labels.pop().expect("one text, one answer")),
    };
    Ok(Reply(answers.stats, predicted))
}

pub(super) fn classes(answer: Answer) -> Classes {
    match answer {
        Answer::Classes(classes) => classes,
        _ => unreachable!("classes were asked for"),
    }
}

fn sorted(classes: &Classes, raw: bool) -> Vec<Label> {
    let scores = if raw {
        &classes.logits
    } else {
        &classes.scores
    };
    let mut all: Vec<(f32, Label)> = Vec::with_capacity(scores.len());
    for ((label, &score), &logit) in classes.labels.iter().zip(scores).zip(&classes.logits) {
        let label = label.clone();
        all.push((logit, Label { score, label }));
    }
    // By logit: of two large logits the scores may be the same number. Stable: of equals the first stays first.
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, label)| label).collect()
}

/// What to compare.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct SimilarityBody {
    inputs: SimilarityInputs,
    #[serde(default)]
    parameters: Option<SimilarityParameters>,
    #[serde(flatten)]
    which: Which,
}

#[derive(Debug, Deserialize, ToSchema)]
struct SimilarityInputs {
    source_sentence: String,
    sentences: Vec<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
struct SimilarityParameters {
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Side,
    prompt_name: Option<String>,
}

/// The cosine of a sentence's vector with those of others
#[utoipa::path(post, path = "/similarity", tag = "TEI", request_body = SimilarityBody,
    responses((status = 200, body = Vec<f32>)))]
pub(super) async fn similarity(
    State(app): State<App>,
    Asked { body, headers }: Asked<SimilarityBody>,
) -> Result<Reply<Vec<f32>>, Failure> {
    let parameters = body.parameters.unwrap_or_default();
    let chosen = choose(&app, &body.which, &headers, None).await?.one()?;
    if body.inputs.sentences.is_empty() {
        return Err(Failure::new(
            super::failure::Kind::Empty,
            "sentences is empty",
        ));
    }
    let prompt = app.prompt(parameters.prompt_name.as_deref())?;
    let mut texts = body.inputs.sentences;
    texts.insert(0, body.inputs.source_sentence);
    let texts = texts
        .into_iter()
        .map(|t| (Text::Words(format!("{prompt}{t}")), None));
    let ask = Ask {
        field: "sentences with source_sentence before them",
        texts: texts.collect(),
        choice: super::select::Choice::One(chosen),
        want: Want::Pooled,
        limit: app.limit(
            parameters.truncate,
            parameters.truncation_direction == Side::Left,
        ),
        deadline: app.deadline(&headers)?,
    };
    let answers = submit::answer(&app, ask).await?;
    let unit = |answer| {
        let Answer::Embedding(mut vector) = answer else {
            unreachable!("a vector was asked for")
        };
        pool::normalize(&mut vector);
        vector
    };
    let mut vectors = answers.answers.into_iter().map(unit);
    let source = vectors.next().expect("the source is the first text");
    let cosine = |v: Vec<f32>| source.iter().zip(&v).map(|(a, b)| a * b).sum();
    Ok(Reply(answers.stats, vectors.map(cosine).collect()))
}

/// SageMaker's one door: labels where the task has a classifier of texts, else vectors
#[utoipa::path(post, path = "/invocations", tag = "Health", responses((status = 200)))]
async fn invocations(
    State(app): State<App>,
    Asked { body, headers }: Asked<serde_json::Value>,
) -> Result<axum::response::Response, Failure> {
    use axum::response::IntoResponse;
    let wrong =
        |e: serde_json::Error| Failure::new(super::failure::Kind::Validation, e.to_string());
    if body.get("query").is_some() {
        let body = serde_json::from_value(body).map_err(wrong)?;
        return rerank::rerank(State(app), Asked { body, headers }).await;
    }
    let which: Which = serde_json::from_value(body.clone()).map_err(wrong)?;
    let choice = choose(&app, &which, &headers, None).await?;
    let labels = choice.rows(1).is_ok_and(|rows| {
        let classifier = |c: &super::select::Chosen| c.resident.classifier.is_some();
        rows.iter().all(|(_, chosen)| classifier(chosen))
    });
    Ok(match labels {
        true => {
            let body = serde_json::from_value(body).map_err(wrong)?;
            predict(State(app), Asked { body, headers })
                .await
                .into_response()
        }
        false => {
            let body = serde_json::from_value(body).map_err(wrong)?;
            embed(State(app), Asked { body, headers })
                .await
                .into_response()
        }
    })
}

/// An answer without numbers of its own.
type Plain<T> = Result<Json<T>, Failure>;
