//! Texts to tokens and back. Told apart by key: TEI's `inputs`, vLLM's `prompt`.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Plain, yes};
use crate::{
    Error,
    server::{
        body::{Asked, Strings},
        failure::{Failure, Kind},
        state::App,
    },
    text::{Encoded, Limit, Truncate},
};

/// What to tokenise.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::server) struct TokenizeBody {
    inputs: Option<Strings>,
    /// vLLM's field: `{"count", "max_model_len", "tokens"}` comes back.
    prompt: Option<String>,
    #[serde(default = "yes")]
    add_special_tokens: bool,
}

/// A token of a text.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct Token {
    id: u32,
    text: String,
    special: bool,
    /// First character in the text; `null` for a special token.
    start: Option<usize>,
    /// One past its last character.
    stop: Option<usize>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Counted {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
}

/// The tokens of texts
#[utoipa::path(post, path = "/tokenize", tag = "TEI", request_body = TokenizeBody,
    responses((status = 200, body = Vec<Vec<Token>>)))]
pub(in crate::server) async fn tokenize(
    State(app): State<App>,
    Asked { body, .. }: Asked<TokenizeBody>,
) -> Result<Response, Failure> {
    let special = body.add_special_tokens;
    let (texts, counted) = match (body.inputs, body.prompt) {
        (Some(inputs), None) => (inputs.list(), false),
        (None, Some(prompt)) => (vec![prompt], true),
        _ => return Err(Failure::invalid("inputs", "expected inputs, or prompt")),
    };
    let all = off_thread(&app, texts.len(), move |app| {
        let encode =
            |(i, text): (usize, String)| encode(app, &text, special).map_err(|e| e.at("inputs", i));
        texts.into_iter().enumerate().map(encode).collect()
    })
    .await?;
    if !counted {
        return Ok(Json(all).into_response());
    }
    let tokens: Vec<u32> = all.iter().flatten().map(|t| t.id).collect();
    Ok(Json(Counted {
        count: tokens.len(),
        max_model_len: app.engine.model().max_tokens(),
        tokens,
    })
    .into_response())
}

fn encode(app: &App, text: &str, special: bool) -> Result<Vec<Token>, Failure> {
    let tokenizer = app.engine.tokenizer();
    let limit = Limit {
        max: usize::MAX,
        truncate: Truncate::No,
    };
    let encoded: Encoded = match tokenizer.encode(text, None, limit) {
        Err(Error::EmptyInput) => Encoded::default(),
        other => other?,
    };
    let characters: Vec<char> = text.chars().collect();
    let token = |t: usize| {
        let (special, (start, stop)) = (encoded.special[t], encoded.offsets[t]);
        let spelled: String = match special {
            true => tokenizer.id_to_token(encoded.ids[t]).unwrap_or_default(),
            false => characters[start.min(characters.len())..stop.min(characters.len())]
                .iter()
                .collect(),
        };
        Token {
            id: encoded.ids[t],
            text: spelled,
            special,
            start: (!special).then_some(start),
            stop: (!special).then_some(stop),
        }
    };
    let kept = (0..encoded.len()).filter(|&t| special || !encoded.special[t]);
    Ok(kept.map(token).collect())
}

/// What to turn back into text.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::server) struct DecodeBody {
    ids: Ids,
    #[serde(default = "yes")]
    skip_special_tokens: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a list of token ids, or a list of such lists"
)]
enum Ids {
    One(Vec<u32>),
    Many(Vec<Vec<u32>>),
}

/// The texts of token ids
#[utoipa::path(post, path = "/decode", tag = "TEI", request_body = DecodeBody,
    responses((status = 200, body = Vec<String>)))]
pub(in crate::server) async fn decode(
    State(app): State<App>,
    Asked { body, .. }: Asked<DecodeBody>,
) -> Plain<Vec<String>> {
    let all = match body.ids {
        Ids::One(ids) => vec![ids],
        Ids::Many(all) => all,
    };
    let texts = off_thread(&app, all.len(), move |app| {
        let decode = |(i, ids): (usize, &Vec<u32>)| {
            let text = (app.engine.tokenizer()).decode(ids, body.skip_special_tokens);
            text.map_err(|e| Failure::from(e).at("ids", i))
        };
        all.iter().enumerate().map(decode).collect()
    });
    Ok(Json(texts.await?))
}

/// Runs `work` on `items` inputs off the async threads, within the limits of a request.
async fn off_thread<T: Send + 'static>(
    app: &App,
    items: usize,
    work: impl FnOnce(&App) -> Result<Vec<T>, Failure> + Send + 'static,
) -> Result<Vec<T>, Failure> {
    app.ready()?;
    let most = app.options.max_client_batch_size;
    if items > most {
        let why = format!("{items} inputs, at most {most} in one request");
        return Err(Failure::new(Kind::BatchTooLarge, why));
    }
    let _place = (app.places.try_acquire())
        .map_err(|_| Failure::new(Kind::Overloaded, "too many requests are under way"))?;
    let state = app.clone();
    tokio::task::spawn_blocking(move || work(&state))
        .await
        .map_err(|_| Failure::new(Kind::Backend, "tokenising failed"))?
}
