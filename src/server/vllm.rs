//! vLLM's `/classify` and `/score`.

use axum::{Router, extract::State, routing::post};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::{Asked, Strings},
    failure::Failure,
    openai::{Usage, made_up_id, now},
    rerank::relevance,
    select::{Choice, Chosen, Which, choose},
    state::App,
    submit::{self, Ask, Reply, Text},
    tei::classes,
};
use crate::{
    engine::{Answer, Want},
    kernel::{pool, softmax},
};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/classify", post(classify))
        .route("/score", post(score))
        .route("/v1/score", post(score))
}

/// What to classify.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ClassifyBody {
    input: Strings,
    /// The most tokens that are kept, special ones counted; -1: as many as the model takes.
    truncate_prompt_tokens: Option<i64>,
    /// `false`: logits instead of probabilities.
    #[serde(alias = "activation")]
    use_activation: Option<bool>,
    #[serde(flatten)]
    which: Which,
}

/// A list of answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listed<T: ToSchema> {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    data: Vec<T>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_generation: Option<String>,
}

/// A text's label.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Classified {
    index: usize,
    label: String,
    probs: Vec<f32>,
    num_classes: usize,
    /// Who said so, where several adapters were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<String>,
}

/// The best label of each text, and the probabilities of all
#[utoipa::path(post, path = "/classify", tag = "vLLM", request_body = ClassifyBody,
    responses((status = 200, body = Listed<Classified>)))]
pub(super) async fn classify(
    State(app): State<App>,
    Asked { body, headers }: Asked<ClassifyBody>,
) -> Result<Reply<Listed<Classified>>, Failure> {
    let choice = choose(&app, &body.which, &headers, None).await?;
    let several = choice.is_list();
    let texts = body.input.list().into_iter();
    let ask = Ask {
        field: "input",
        texts: texts.map(|text| (Text::Words(text), None)).collect(),
        choice,
        want: Want::Classes,
        limit: app.limit_of(body.truncate_prompt_tokens)?,
        deadline: app.deadline(&headers)?,
    };
    let answers = submit::answer(&app, ask).await?;
    let raw = body.use_activation == Some(false);
    let one = |(index, (answer, chosen)): (usize, (Answer, Chosen))| {
        let classes = classes(answer);
        Classified {
            index,
            label: classes.labels[classes.best()].clone(),
            num_classes: classes.labels.len(),
            probs: if raw { classes.logits } else { classes.scores },
            adapter: chosen.name.filter(|_| several),
        }
    };
    let rows = answers.answers.into_iter().zip(answers.rows);
    let data = rows.enumerate().map(one).collect();
    let model = body.which.model;
    Ok(listed(&app, "classify", model, data, answers.stats))
}

/// What to score: one text against others, or as many against as many.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ScoreBody {
    #[serde(alias = "queries", alias = "data_1")]
    text_1: Strings,
    #[serde(alias = "documents", alias = "data_2")]
    text_2: Strings,
    /// As `/classify`'s, of a pair where the task reads pairs.
    truncate_prompt_tokens: Option<i64>,
    use_activation: Option<bool>,
    #[serde(flatten)]
    which: Which,
}

/// A pair's score.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scored {
    index: usize,
    object: &'static str,
    score: f32,
}

/// Scores of pairs: of a cross-encoder where the task is one, else the cosine of their vectors
#[utoipa::path(post, path = "/score", tag = "vLLM", request_body = ScoreBody,
    responses((status = 200, body = Listed<Scored>)))]
pub(super) async fn score(
    State(app): State<App>,
    Asked { body, headers }: Asked<ScoreBody>,
) -> Result<Reply<Listed<Scored>>, Failure> {
    let chosen = choose(&app, &body.which, &headers, None).await?.one()?;
    let pairs = pairs(body.text_1.list(), body.text_2.list())?;
    let crosses = chosen.resident.classifier.is_some();
    let texts = match crosses {
        true => (pairs.into_iter())
            .map(|(a, b)| (Text::Words(a), Some(b)))
            .collect(),
        false => (pairs.into_iter())
            .flat_map(|(a, b)| [a, b])
            .map(|text| (Text::Words(text), None))
            .collect(),
    };
    let ask = Ask {
        field: "pairs",
        texts,
        choice: Choice::One(chosen),
        want: if crosses {
            Want::Relevance
        } else {
            Want::Pooled
        },
        limit: app.limit_of(body.truncate_prompt_tokens)?,
        deadline: app.deadline(&headers)?,
    };
    let mut answers = submit::answer(&app, ask).await?;
    let all = std::mem::take(&mut answers.answers);
    let mut scores: Vec<f32> = match crosses {
        true => all.iter().map(relevance).collect(),
        false => all.chunks_exact(2).map(cosine).collect(),
    };
    if crosses && body.use_activation != Some(false) {
        softmax::sigmoid(&mut scores);
    }
    let one = |(index, score)| Scored {
        index,
        object: "score",
        score,
    };
    let data = scores.into_iter().enumerate().map(one).collect();
    Ok(listed(&app, "score", body.which.model, data, answers.stats))
}

/// One with each, or each with its own.
fn pairs(first: Vec<String>, second: Vec<String>) -> Result<Vec<(String, String)>, Failure> {
    match (first.len(), second.len()) {
        (1, _) => Ok(second.into_iter().map(|b| (first[0].clone(), b)).collect()),
        (n, m) if n == m => Ok(first.into_iter().zip(second).collect()),
        (n, m) => {
            let why = format!("{n} texts against {m}: expected one against any number, or as many");
            Err(Failure::invalid("text_1", why))
        }
    }
}

fn cosine(pair: &[Answer]) -> f32 {
    let unit = |answer: &Answer| {
        let Answer::Embedding(vector) = answer else {
            unreachable!("a vector was asked for")
        };
        let mut vector = vector.clone();
        pool::normalize(&mut vector);
        vector
    };
    let [a, b] = [&pair[0], &pair[1]].map(unit);
    a.iter().zip(&b).map(|(a, b)| a * b).sum()
}

fn listed<T: ToSchema>(
    app: &App,
    kind: &str,
    model: Option<String>,
    data: Vec<T>,
    stats: submit::Stats,
) -> Reply<Listed<T>> {
    let listed = Listed {
        id: made_up_id(kind),
        object: "list",
        created: now(),
        model: model.unwrap_or(app.model_name().to_owned()),
        data,
        usage: Usage::of(stats.tokens),
        adapter_generation: stats.generation(),
    };
    Reply(stats, listed)
}
