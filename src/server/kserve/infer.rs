//! `infer`: tensors in, tensors out.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::check_version;
use crate::{
    engine::{Aggregation, Answer, Entity, Want},
    model::Level,
    server::{
        body::Asked,
        failure::{Failure, Kind},
        select::{Chosen, Named, Parameters, Which, choose},
        state::App,
        submit::{self, Ask, Input, Reply, Text},
    },
};

/// Tensors.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::server) struct InferBody {
    id: Option<String>,
    #[serde(default)]
    parameters: InferParameters,
    inputs: Vec<InputTensor>,
    /// The outputs wanted; none: all.
    #[serde(default)]
    outputs: Vec<RequestedOutput>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
struct InferParameters {
    adapter: Option<Named>,
    adapter_id: Option<String>,
    truncate: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct InputTensor {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[schema(value_type = Vec<String>)]
    data: Vec<Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct RequestedOutput {
    name: String,
}

/// Tensors that came out.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct Inferred {
    model_name: String,
    /// The generation that answered.
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<OutputTensor>,
}

#[derive(Debug, Serialize, ToSchema)]
struct OutputTensor {
    name: &'static str,
    shape: Vec<usize>,
    datatype: &'static str,
    data: Data,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Data {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

/// Answers texts by the task of a model
#[utoipa::path(post, path = "/v2/models/{model}/infer", tag = "KServe", params(("model" = String, Path)), request_body = InferBody,
    responses((status = 200, body = Inferred), (status = 400), (status = 404)))]
pub(in crate::server) async fn infer(
    State(app): State<App>,
    Path(model): Path<String>,
    Asked { body, headers }: Asked<InferBody>,
) -> Result<Reply<Inferred>, Failure> {
    run(app, model, body, headers).await
}

pub(in crate::server) async fn infer_of(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
    Asked { body, headers }: Asked<InferBody>,
) -> Result<Reply<Inferred>, Failure> {
    check_version(&app, &model, &version)?;
    run(app, model, body, headers).await
}

async fn run(
    app: App,
    model: String,
    body: InferBody,
    headers: HeaderMap,
) -> Result<Reply<Inferred>, Failure> {
    let which = Which::with(Parameters {
        adapter_id: body.parameters.adapter_id,
        adapter: body.parameters.adapter,
    });
    let choice = choose(&app, &which, &headers, Some(&model)).await?;
    let chosen = choice.clone().one()?;
    let ask = Ask {
        field: "text",
        texts: texts(body.inputs)?,
        choice,
        want: want(&chosen),
        limit: app.limit(body.parameters.truncate, false),
        deadline: app.deadline(&headers)?,
    };
    let answers = submit::answer(&app, ask).await?;
    let mut outputs = outputs(answers.answers);
    if !body.outputs.is_empty() {
        if let Some(unknown) =
            (body.outputs.iter()).find(|o| !outputs.iter().any(|t| t.name == o.name))
        {
            let why = format!("this model has no output {:?}", unknown.name);
            return Err(Failure::new(Kind::Validation, why));
        }
        outputs.retain(|tensor| body.outputs.iter().any(|o| o.name == tensor.name));
    }
    let inferred = Inferred {
        model_name: model,
        model_version: chosen.resident.generation().to_owned(),
        id: body.id,
        outputs,
    };
    Ok(Reply(answers.stats, inferred))
}

fn want(chosen: &Chosen) -> Want {
    match &chosen.resident.classifier {
        None => Want::Embedding,
        Some(c) if c.level == Level::Token => Want::Tags(Aggregation::Simple),
        Some(_) => Want::Classes,
    }
}

/// The texts of a tensor `text`, paired with those of a tensor `text_pair`, where there is one.
fn texts(inputs: Vec<InputTensor>) -> Result<Vec<Input>, Failure> {
    let (mut text, mut pair) = (None, None);
    for tensor in inputs {
        let place = match tensor.name.as_str() {
            "text_pair" => &mut pair,
            _ => &mut text,
        };
        if place.is_some() {
            let why = format!(
                "unexpected input {:?}; expected text and text_pair",
                tensor.name
            );
            return Err(Failure::new(Kind::Validation, why));
        }
        *place = Some(strings(tensor)?);
    }
    let text = text.ok_or_else(|| Failure::new(Kind::Validation, "no input named text"))?;
    let n = text.len();
    let pairs: Vec<Option<String>> = match pair {
        None => vec![None; n],
        Some(pair) if pair.len() == n => pair.into_iter().map(Some).collect(),
        Some(pair) => {
            let why = format!("text has {n} elements and text_pair {}", pair.len());
            return Err(Failure::new(Kind::Validation, why));
        }
    };
    Ok(text.into_iter().map(Text::Words).zip(pairs).collect())
}

fn strings(tensor: InputTensor) -> Result<Vec<String>, Failure> {
    let name = &tensor.name;
    if tensor.datatype != "BYTES" {
        let why = format!("{name}: expected datatype BYTES, found {}", tensor.datatype);
        return Err(Failure::new(Kind::Validation, why));
    }
    let mut elements = Vec::with_capacity(tensor.data.len());
    tensor
        .data
        .into_iter()
        .for_each(|value| flatten(value, &mut elements));
    let expected =
        (tensor.shape.iter()).try_fold(1i64, |n, &d| (d >= 0).then(|| n.checked_mul(d))?);
    let found = elements.len();
    if expected != Some(found as i64) {
        let shape = &tensor.shape;
        let why = format!("{name}: shape {shape:?} and {found} elements do not agree");
        return Err(Failure::new(Kind::Validation, why));
    }
    let text = |(i, value)| match value {
        Value::String(text) => Ok(text),
        other => {
            let why = format!("{name}[{i}]: expected a string, found {other}");
            Err(Failure::new(Kind::Validation, why))
        }
    };
    elements.into_iter().enumerate().map(text).collect()
}

/// Elements in row-major order, however deep they are nested: the protocol has both.
fn flatten(value: Value, into: &mut Vec<Value>) {
    match value {
        Value::Array(all) => all.into_iter().for_each(|value| flatten(value, into)),
        element => into.push(element),
    }
}

fn outputs(answers: Vec<Answer>) -> Vec<OutputTensor> {
    let n = answers.len();
    let numbers = |name, rows: Vec<Vec<f32>>| {
        let width = rows.first().map_or(0, Vec::len);
        OutputTensor {
            name,
            shape: vec![n, width],
            datatype: "FP32",
            data: Data::Numbers(rows.concat()),
        }
    };
    let words = |name, data| OutputTensor {
        name,
        shape: vec![n],
        datatype: "BYTES",
        data: Data::Texts(data),
    };
    let (mut vectors, mut scores, mut logits, mut labels, mut entities) =
        (vec![], vec![], vec![], vec![], vec![]);
    for answer in answers {
        match answer {
            Answer::Embedding(vector) => vectors.push(vector),
            Answer::Classes(classes) => {
                labels.push(classes.labels[classes.best()].clone());
                scores.push(classes.scores);
                logits.push(classes.logits);
            }
            Answer::Tags(found) => entities.push(json_text(&found)),
            Answer::Tokens(_) | Answer::Relevance(_) | Answer::Overflow => {
                unreachable!("neither asked for nor let through")
            }
        }
    }
    if !vectors.is_empty() {
        return vec![numbers("embedding", vectors)];
    }
    if !entities.is_empty() {
        return vec![words("entities", entities)];
    }
    vec![
        numbers("scores", scores),
        numbers("logits", logits),
        words("label", labels),
    ]
}

fn json_text(found: &[Entity]) -> String {
    let one = |e: &Entity| {
        serde_json::json!({
            "entity_group": e.label, "score": e.score, "word": e.word, "start": e.start, "end": e.end,
        })
    };
    Value::Array(found.iter().map(one).collect()).to_string()
}
