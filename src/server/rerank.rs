//! Ranking texts by a query: TEI's bare list, and the shape that Cohere, Jina, vLLM and infinity share. `/rerank` takes
//! both and tells them apart by key, as llama.cpp does: `texts` or `documents`.

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::{Asked, Side},
    failure::{Failure, Kind},
    openai::{Usage, made_up_id},
    select::{Which, choose},
    state::App,
    submit::{self, Answers, Ask, Reply, Text},
};
use crate::{
    engine::{Answer, Want},
    kernel::softmax,
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/rerank", post(rerank_v1))
        .route("/v2/rerank", post(rerank_v1))
}

/// What to rank: `texts` for TEI's answer, `documents` for Cohere's.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RerankBody {
    query: String,
    texts: Option<Vec<String>>,
    documents: Option<Vec<Document>>,
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Side,
    #[serde(default)]
    raw_scores: bool,
    #[serde(default)]
    return_text: bool,
    top_n: Option<usize>,
    return_documents: Option<bool>,
    /// vLLM's: the most tokens of a pair that are kept, special ones counted; -1: as many as the model takes.
    truncate_prompt_tokens: Option<i64>,
    #[serde(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or {\"text\": \"..\"}")]
enum Document {
    Text(String),
    Object { text: String },
}

/// A text's place.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rank {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Cohere's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reranked {
    id: String,
    model: String,
    usage: Usage,
    results: Vec<Relevance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_generation: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Relevance {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentOut>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DocumentOut {
    text: String,
}

/// Texts by how well they answer a query, the best first
#[utoipa::path(post, path = "/rerank", tag = "TEI", request_body = RerankBody,
    responses((status = 200, body = Vec<Rank>)))]
pub(super) async fn rerank(
    State(app): State<App>,
    Asked { body, headers }: Asked<RerankBody>,
) -> Result<Response, Failure> {
    let raw = body.raw_scores;
    match (&body.texts, &body.documents) {
        (Some(texts), None) => {
            let texts = texts.clone();
            let return_text = body.return_text;
            let (ranked, answers) = ranked(&app, &body, texts.clone(), &headers, raw).await?;
            let rank = |(index, score): (usize, f32)| Rank {
                index,
                score,
                text: return_text.then(|| texts[index].clone()),
            };
            let ranks: Vec<Rank> = ranked.into_iter().map(rank).collect();
            Ok(Reply(answers.stats, ranks).into_response())
        }
        (None, Some(_)) => rerank_v1(State(app), Asked { body, headers }).await,
        _ => {
            let why = "expected either texts or documents";
            Err(Failure::invalid("texts", why))
        }
    }
}

/// Documents by relevance to a query, the best first
#[utoipa::path(post, path = "/v1/rerank", tag = "Rerank", request_body = RerankBody,
    responses((status = 200, body = Reranked)))]
pub(super) async fn rerank_v1(
    State(app): State<App>,
    Asked { body, headers }: Asked<RerankBody>,
) -> Result<Response, Failure> {
    let missing = || Failure::invalid("documents", "missing field `documents`");
    let documents = body.documents.clone().ok_or_else(missing)?;
    let text = |d: Document| match d {
        Document::Text(text) | Document::Object { text } => text,
    };
    let texts: Vec<String> = documents.into_iter().map(text).collect();
    let (mut ranked, answers) =
        ranked(&app, &body, texts.clone(), &headers, body.raw_scores).await?;
    ranked.truncate(body.top_n.unwrap_or(usize::MAX));
    let return_documents = body.return_documents.unwrap_or(false);
    let relevance = |(index, relevance_score): (usize, f32)| Relevance {
        index,
        relevance_score,
        document: return_documents.then(|| DocumentOut {
            text: texts[index].clone(),
        }),
    };
    let reranked = Reranked {
        id: made_up_id("rerank"),
        model: body
            .which
            .model
            .clone()
            .unwrap_or(app.model_name().to_owned()),
        usage: Usage::of(answers.stats.tokens),
        results: ranked.into_iter().map(relevance).collect(),
        adapter_generation: answers.stats.generation(),
    };
    Ok(Reply(answers.stats, reranked).into_response())
}

/// Index and score of each text, the best first.
async fn ranked(
    app: &App,
    body: &RerankBody,
    texts: Vec<String>,
    headers: &axum::http::HeaderMap,
    raw: bool,
) -> Result<(Vec<(usize, f32)>, Answers), Failure> {
    if texts.is_empty() {
        return Err(Failure::new(Kind::Empty, "there are no texts to rank"));
    }
    let chosen = choose(app, &body.which, headers, None).await?.one()?;
    let query = || Text::Words(body.query.clone());
    let limit = match body.truncate {
        Some(_) => app.limit(body.truncate, body.truncation_direction == Side::Left),
        None => app.limit_of(body.truncate_prompt_tokens)?,
    };
    let ask = Ask {
        field: "texts",
        texts: texts.into_iter().map(|t| (query(), Some(t))).collect(),
        choice: super::select::Choice::One(chosen),
        want: Want::Relevance,
        limit,
        deadline: app.deadline(headers)?,
    };
    let mut answers = submit::answer(app, ask).await?;
    let logits = std::mem::take(&mut answers.answers).into_iter().enumerate();
    let mut logits: Vec<(usize, f32)> = logits
        .map(|(index, answer)| (index, relevance(&answer)))
        .collect();
    // Sorted by logit: the sigmoid of two large logits may be the same number. Stable: of equals the first stays first.
    logits.sort_by(|a, b| b.1.total_cmp(&a.1));
    if !raw {
        let mut scores: Vec<f32> = logits.iter().map(|(_, logit)| *logit).collect();
        softmax::sigmoid(&mut scores);
        (logits.iter_mut().zip(scores)).for_each(|(ranked, score)| ranked.1 = score);
    }
    Ok((logits, answers))
}

/// The logit of a pair.
pub(super) fn relevance(answer: &Answer) -> f32 {
    match answer {
        Answer::Relevance(logit) => *logit,
        _ => unreachable!("relevance was asked for"),
    }
}
