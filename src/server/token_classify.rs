//! `POST /token_classify`: entities with character offsets, in the shape of the `transformers` pipeline.

use axum::{Router, extract::State, routing::post};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::{Asked, Side, Strings},
    failure::Failure,
    select::{Which, choose},
    state::App,
    submit::{self, Ask, Reply, Text},
};
use crate::engine::{Aggregation, Answer, Entity, Want};

pub(super) fn router() -> Router<App> {
    Router::new().route("/token_classify", post(token_classify))
}

/// Where to look for entities.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct TokenClassifyBody {
    inputs: Strings,
    #[serde(default)]
    aggregation_strategy: Strategy,
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Side,
    #[serde(flatten)]
    which: Which,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    None,
    #[default]
    Simple,
    First,
    Average,
    Max,
}

impl From<Strategy> for Aggregation {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::None => Aggregation::None,
            Strategy::Simple => Aggregation::Simple,
            Strategy::First => Aggregation::First,
            Strategy::Average => Aggregation::Average,
            Strategy::Max => Aggregation::Max,
        }
    }
}

/// An entity; without aggregation a token, whose label is `entity`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Found {
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<String>,
    score: f32,
    word: String,
    start: usize,
    end: usize,
}

/// What was found in one text, or in each of several.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Entities {
    /// In one.
    One(Vec<Found>),
    /// In several.
    Many(Vec<Vec<Found>>),
}

/// Entities of texts, with character offsets
#[utoipa::path(post, path = "/token_classify", tag = "NER", request_body = TokenClassifyBody,
    responses((status = 200, body = Entities)))]
pub(super) async fn token_classify(
    State(app): State<App>,
    Asked { body, headers }: Asked<TokenClassifyBody>,
) -> Result<Reply<Entities>, Failure> {
    let choice = choose(&app, &body.which, &headers, None).await?;
    let many = matches!(body.inputs, Strings::Many(_)) || choice.is_list();
    let texts = body.inputs.list().into_iter();
    let ask = Ask {
        field: "inputs",
        texts: texts.map(|text| (Text::Words(text), None)).collect(),
        choice,
        want: Want::Tags(body.aggregation_strategy.into()),
        limit: app.limit(body.truncate, body.truncation_direction == Side::Left),
        deadline: app.deadline(&headers)?,
    };
    let answers = submit::answer(&app, ask).await?;
    let grouped = body.aggregation_strategy != Strategy::None;
    let of = |answer: Answer| {
        let Answer::Tags(found) = answer else {
            unreachable!("tags were asked for")
        };
        found
            .into_iter()
            .map(|entity| one(entity, grouped))
            .collect()
    };
    let mut all: Vec<Vec<Found>> = answers.answers.into_iter().map(of).collect();
    let entities = match many {
        true => Entities::Many(all),
        false => Entities::One(all.pop().expect("one text, one answer")),
    };
    Ok(Reply(answers.stats, entities))
}

fn one(entity: Entity, grouped: bool) -> Found {
    let Entity {
        label,
        score,
        word,
        start,
        end,
    } = entity;
    let (group, token) = if grouped {
        (Some(label), None)
    } else {
        (None, Some(label))
    };
    Found {
        entity_group: group,
        entity: token,
        score,
        word,
        start,
        end,
    }
}
