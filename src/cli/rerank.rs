//! `sorank rerank`: a query's texts, sorted by how well they answer it.
//!
//! A cross-encoder reads query and text as one pair and puts out one logit. Not here: finding the texts.

use std::io::BufRead;

use super::{
    Failure,
    input::{Queries, Query, RowAdapter},
    output::{Output, Ranked, RerankLine},
    progress::Progress,
    rows::{RowArgs, go_on, report, truncate, write_line},
    setup::ModelArgs,
};
use crate::{
    engine::{Answer, Engine, Request, Want},
    error::Result,
    kernel::softmax,
};

/// Writes {"index", "adapter", "results": [{"index", "score"}]} for each query, the best text first (of equals, the
/// first). Queries come from JSONL lines {"query", "texts": [..], "adapter"?}, or one from --query with its texts as
/// arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rows: RowArgs,
    /// The query that the texts are sorted by
    #[arg(long, value_name = "TEXT", conflicts_with = "input")]
    query: Option<String>,
    /// Logits instead of their sigmoid
    #[arg(long)]
    raw_scores: bool,
}

/// Pairs gathered before any is answered; a query's texts stay together.
const WINDOW: usize = 1024;

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut queries = match (&args.rows.input, &args.query) {
        (Some(path), _) => Queries::open(path)?,
        (None, Some(query)) if !args.rows.texts.is_empty() => {
            Queries::one(query.clone(), args.rows.texts.clone())
        }
        _ => {
            let why = "expected --query with texts, or --input FILE (- is stdin)";
            return Err(Failure::Usage(why.to_owned()));
        }
    };
    let engine = args.model.engine()?;
    let progress = Progress::new(None, args.model.quiet);
    let mut out = Output::stdout();
    let mut index = 0;
    loop {
        let mut window: Vec<Result<Query>> = Vec::new();
        let mut pairs = 0;
        while pairs < WINDOW {
            let Some(query) = queries.next() else { break };
            pairs += query.as_ref().map_or(1, |q| q.texts.len());
            window.push(query);
        }
        if window.is_empty() {
            break;
        }
        let (mut done, mut tokens) = (0, 0);
        for (adapter, answer) in
            answer_window(&args.rows, args.raw_scores, &engine, &queries, window)
        {
            match answer {
                Ok((results, n)) => {
                    let adapter = adapter.as_deref();
                    let line = RerankLine {
                        index,
                        adapter,
                        results,
                    };
                    write_line(&mut out, &line)?;
                    tokens += n;
                }
                Err(error) => report(&mut out, args.rows.keep_going, index, error)?,
            }
            index += 1;
            done += 1;
        }
        go_on(out.flush()?)?;
        progress.add(done, tokens as u64);
    }
    progress.finish();
    Ok(())
}

/// Who was asked; the sorted texts, and how many tokens they and the query had.
type Answered = (Option<String>, Result<(Vec<Ranked>, usize)>);

/// What this command makes of queries that are in memory, without its arguments and its output: for fuzzing. All are
/// read; the first are answered while they have no more than `most` texts. The numbers of their texts, the best first.
#[doc(hidden)]
pub fn answer_queries(
    engine: &Engine,
    reader: Box<dyn BufRead + Send>,
    most: usize,
) -> Vec<Result<Vec<usize>>> {
    let mut queries = Queries::read("-".to_owned(), reader);
    let mut left = most;
    let mut enough = |query: &Result<Query>| {
        let texts = query.as_ref().map_or(1, |query| query.texts.len());
        left.checked_sub(texts).map(|rest| left = rest).is_some()
    };
    let window = queries.by_ref().filter(&mut enough).collect();
    let answered = answer_window(&RowArgs::default(), false, engine, &queries, window);
    let order = |(results, _): (Vec<Ranked>, usize)| results.iter().map(|r| r.index).collect();
    answered.into_iter().map(|(_, a)| a.map(order)).collect()
}

fn answer_window(
    args: &RowArgs,
    raw: bool,
    engine: &Engine,
    queries: &Queries,
    window: Vec<Result<Query>>,
) -> Vec<Answered> {
    let requests: Vec<Request<'_>> = window
        .iter()
        .flatten()
        .flat_map(|query| {
            query.texts.iter().map(|text| Request {
                text: &query.query,
                pair: Some(text),
                adapter: adapter_of(args, query),
                want: Want::Relevance,
            })
        })
        .collect();
    let mut answers = engine.answer(&requests, truncate(args)).into_iter();
    let mut out = Vec::with_capacity(window.len());
    for query in window {
        let query = match query {
            Ok(query) => query,
            Err(error) => {
                out.push((None, Err(error)));
                continue;
            }
        };
        let all: Vec<Result<(Answer, usize)>> = answers.by_ref().take(query.texts.len()).collect();
        let sorted = sorted(all, raw)
            .map_err(|(at, e)| queries.error_at(query.line, format!("texts[{at}]: {e}")));
        out.push((adapter_of(args, &query).map(str::to_owned), sorted));
    }
    out
}

/// The texts by score, or the first one that failed, by number.
fn sorted(
    answers: Vec<Result<(Answer, usize)>>,
    raw: bool,
) -> Result<(Vec<Ranked>, usize), (usize, crate::Error)> {
    let mut results = Vec::with_capacity(answers.len());
    let mut tokens = 0;
    for (index, answer) in answers.into_iter().enumerate() {
        let (answer, n) = answer.map_err(|e| (index, e))?;
        let Answer::Relevance(logit) = answer else {
            unreachable!("relevance was asked for")
        };
        let mut score = [logit];
        if !raw {
            softmax::sigmoid(&mut score);
        }
        let score = score[0];
        // Sorted by logit: the sigmoid of two large logits may be the same number.
        results.push((logit, Ranked { index, score }));
        tokens += n;
    }
    results.sort_by(|a, b| b.0.total_cmp(&a.0)); // stable: of equals the first stays first
    Ok((
        results.into_iter().map(|(_, ranked)| ranked).collect(),
        tokens,
    ))
}

fn adapter_of<'a>(args: &'a RowArgs, query: &'a Query) -> Option<&'a str> {
    match &query.adapter {
        RowAdapter::One(name) => name.as_deref(),
        RowAdapter::NotGiven | RowAdapter::Many(_) => args.default_adapter.as_deref(),
    }
}
