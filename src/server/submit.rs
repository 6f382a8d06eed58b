//! From texts with their adapters to answers: tokenise off the async threads, queue, wait until the deadline.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    batcher::{Done, Lost},
    failure::{Failure, Kind},
    select::{Choice, Chosen},
    state::{App, State},
};
use crate::{
    engine::{Admitted, Answer, Request, Want},
    text::{Encoded, Limit, Truncate},
};

/// A text, or its token ids.
#[derive(Debug, Clone)]
pub(super) enum Text {
    Words(String),
    Ids(Vec<u32>),
}

/// A text and, where it is a pair, the second one.
pub(super) type Input = (Text, Option<String>);

/// What a handler asks for: each text once for each of its adapters.
#[derive(Debug)]
pub(super) struct Ask {
    /// What a message calls the list of texts.
    pub(super) field: &'static str,
    pub(super) texts: Vec<Input>,
    pub(super) choice: Choice,
    pub(super) want: Want,
    pub(super) limit: Limit,
    pub(super) deadline: Instant,
}

/// What answering took, for headers and metrics.
#[derive(Debug, Clone, Default)]
pub(super) struct Stats {
    pub(super) rows: usize,
    pub(super) characters: usize,
    pub(super) tokens: usize,
    pub(super) tokenization: Duration,
    /// The longest of its rows.
    pub(super) queue: Duration,
    /// The longest of its batches.
    pub(super) inference: Duration,
    /// Rows by adapter.
    pub(super) adapters: Vec<(Option<String>, usize)>,
    /// Generations that answered, in order of first use; the base's not among them.
    pub(super) generations: Vec<String>,
}

/// Answers in the order of the rows, and what they took.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) answers: Vec<Answer>,
    pub(super) rows: Vec<Chosen>,
    pub(super) stats: Stats,
}

/// A header by which a client asks for a shorter life than the server's own.
const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

impl State {
    /// When a request with `headers` that came now is given up.
    pub(super) fn deadline(&self, headers: &HeaderMap) -> Result<Instant, Failure> {
        let longest = self.options.request_timeout;
        let asked = headers.get(TIMEOUT).map(|value| {
            let ms = value.to_str().ok().and_then(|v| v.parse::<u64>().ok());
            let wrong = || Failure::new(Kind::Validation, format!("{TIMEOUT}: expected a number"));
            ms.map(Duration::from_millis).ok_or_else(wrong)
        });
        Ok(Instant::now() + asked.transpose()?.map_or(longest, |ms| ms.min(longest)))
    }

    /// Cut, or refuse: what a request says, else the option.
    pub(super) fn limit(&self, truncate: Option<bool>, left: bool) -> Limit {
        Limit::from(
            match (truncate.unwrap_or(self.options.auto_truncate), left) {
                (false, _) => Truncate::No,
                (true, false) => Truncate::Right,
                (true, true) => Truncate::Left,
            },
        )
    }

    /// vLLM's `truncate_prompt_tokens`: the most tokens that are kept, special ones counted; -1 for as many as the model
    /// takes. Without it, the option.
    pub(super) fn limit_of(&self, truncate_prompt_tokens: Option<i64>) -> Result<Limit, Failure> {
        let field = "truncate_prompt_tokens";
        let longest = self.engine.model().max_tokens();
        let Some(asked) = truncate_prompt_tokens else {
            return Ok(self.limit(None, false));
        };
        let max = match usize::try_from(asked) {
            Err(_) if asked == -1 => longest,
            Ok(n) if (1..=longest).contains(&n) => n,
            _ => {
                let why = format!("expected -1 or 1 to {longest}, found {asked}");
                return Err(Failure::invalid(field, why));
            }
        };
        let truncate = Truncate::Right;
        Ok(Limit { max, truncate })
    }
}

/// Answers `ask`.
pub(super) async fn answer(app: &App, ask: Ask) -> Result<Answers, Failure> {
    app.ready()?;
    let _place = (app.places.try_acquire())
        .map_err(|_| Failure::new(Kind::Overloaded, "too many requests are under way"))?;
    let (field, deadline) = (ask.field, ask.deadline);
    let plan = Arc::new(plan(app, &ask)?);
    let characters = ask.texts.iter().map(characters).sum();
    let start = Instant::now();
    let state = app.clone();
    let rows: Vec<Chosen> = plan.iter().map(|(_, chosen)| chosen.clone()).collect();
    let planned = plan.clone();
    let work = tokio::task::spawn_blocking(move || admit(&state, &ask, &planned));
    let late = || Failure::new(Kind::Deadline, "not done by its deadline");
    let admitted = tokio::time::timeout_at(deadline.into(), work)
        .await
        .map_err(|_| late())?
        .map_err(|_| Failure::new(Kind::Backend, "tokenising failed"))?
        .map_err(|(text, failure)| failure.at(field, text))?;
    let mut stats = Stats {
        rows: admitted.len(),
        characters,
        tokens: admitted.iter().map(|row| row.encoded.len()).sum(),
        tokenization: start.elapsed(),
        ..Stats::default()
    };
    stats.note(&rows);
    let replies = (app.batcher.submit(admitted))
        .map_err(|_| Failure::new(Kind::Overloaded, "the queue is full"))?;
    let mut answers = Vec::with_capacity(replies.len());
    for reply in replies {
        let reply = tokio::time::timeout_at(deadline.into(), reply);
        let Done {
            answer,
            queued,
            inference,
        } = match reply.await.map_err(|_| late())? {
            Ok(Ok(done)) => done,
            Ok(Err(Lost::BaseChanged)) => {
                app.base_changed();
                return Err(app.ready().err().unwrap_or_else(late));
            }
            Ok(Err(Lost::Panicked)) | Err(_) => {
                let why = "the batch that this request was in failed; others are not affected";
                return Err(Failure::new(Kind::Backend, why));
            }
        };
        if answer == Answer::Overflow {
            let (text, chosen) = &plan[answers.len()];
            let who = chosen.name.as_deref().unwrap_or("the base");
            let why = format!("{who} has no answer: its weights overflow on this text");
            return Err(Failure::new(Kind::Overflow, why).at(field, *text));
        }
        stats.queue = stats.queue.max(queued);
        stats.inference = stats.inference.max(inference);
        answers.push(answer);
    }
    Ok(Answers {
        answers,
        rows,
        stats,
    })
}

/// Rows: which text, for whom.
type Plan = Vec<(usize, Chosen)>;

fn plan(app: &State, ask: &Ask) -> Result<Plan, Failure> {
    let texts = ask.texts.len();
    if texts == 0 {
        return Err(Failure::new(Kind::Empty, format!("{} is empty", ask.field)));
    }
    let plan = ask.choice.rows(texts)?;
    let most = app.options.max_client_batch_size;
    if plan.len() > most {
        let rows = plan.len();
        let why = format!("{rows} rows (texts times adapters), at most {most} in one request");
        return Err(Failure::new(Kind::BatchTooLarge, why));
    }
    Ok(plan)
}

fn characters((text, pair): &Input) -> usize {
    let first = match text {
        Text::Words(words) => words.chars().count(),
        Text::Ids(_) => 0,
    };
    first + pair.as_ref().map_or(0, |p| p.chars().count())
}

/// Tokenises; a failure comes with the number of its text. Rows of one text that stand together share its tokens.
fn admit(app: &State, ask: &Ask, plan: &Plan) -> Result<Vec<Admitted>, (usize, Failure)> {
    let mut admitted = Vec::with_capacity(plan.len());
    let mut last: (usize, Option<Arc<Encoded>>) = (0, None);
    for (text, chosen) in plan {
        if last.0 != *text {
            last = (*text, None);
        }
        let (words, pair) = &ask.texts[*text];
        let task = &chosen.resident;
        let row = match words {
            Text::Ids(ids) => (app.engine).admit_ids(task, ids, ask.want, ask.limit),
            Text::Words(words) => {
                let request = Request {
                    text: words,
                    pair: pair.as_deref(),
                    adapter: None,
                    want: ask.want,
                };
                (app.engine).admit_to(task, &request, ask.limit, &mut last.1)
            }
        };
        admitted.push(row.map_err(|error| (*text, error.into()))?);
    }
    Ok(admitted)
}

impl Stats {
    fn note(&mut self, rows: &[Chosen]) {
        for row in rows {
            match self.adapters.iter_mut().find(|(name, _)| *name == row.name) {
                Some((_, rows)) => *rows += 1,
                None => self.adapters.push((row.name.clone(), 1)),
            }
            let generation = row.resident.generation();
            if row.name.is_some() && !self.generations.iter().any(|g| g == generation) {
                self.generations.push(generation.to_owned());
            }
        }
    }

    /// The generation that answered, several with commas between them; `None` where it was the base.
    pub(super) fn generation(&self) -> Option<String> {
        (!self.generations.is_empty()).then(|| self.generations.join(","))
    }

    fn headers(&self, headers: &mut HeaderMap) {
        let number = |n: usize| n.to_string();
        let ms = |d: Duration| format!("{:.3}", d.as_secs_f64() * 1e3);
        let compute = self.tokenization + self.queue + self.inference;
        for (name, value) in [
            ("x-compute-type", "cpu".to_owned()),
            ("x-compute-time", ms(compute)),
            ("x-compute-characters", number(self.characters)),
            ("x-compute-tokens", number(self.tokens)),
            ("x-tokenization-time", ms(self.tokenization)),
            ("x-queue-time", ms(self.queue)),
            ("x-inference-time", ms(self.inference)),
            (
                "x-adapter-generation",
                self.generation().unwrap_or_default(),
            ),
        ] {
            let empty = value.is_empty();
            if let (Ok(value), false) = (HeaderValue::from_str(&value), empty) {
                headers.insert(name, value);
            }
        }
    }
}

/// A JSON body with what it took in its headers, and as an extension for the metrics.
#[derive(Debug)]
pub(super) struct Reply<T>(pub(super) Stats, pub(super) T);

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.1).into_response();
        self.0.headers(response.headers_mut());
        response.extensions_mut().insert(self.0);
        response
    }
}
