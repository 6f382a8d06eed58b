//! From input rows to answers, a window at a time: memory does not grow with the input, output keeps its order.

use std::{ops::ControlFlow, path::PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    Failure,
    input::{Row, RowAdapter, Rows},
    output::{ErrorLine, Output},
    progress::Progress,
};
use crate::{
    engine::{Answer, Engine, Request, Want},
    error::{Error, Result},
    text::Truncate,
};

/// Where rows come from and what happens to odd ones.
#[derive(Debug, Args)]
#[command(next_help_heading = "Input")]
pub(super) struct RowArgs {
    /// Texts, one row each
    #[arg(value_name = "TEXT", conflicts_with = "input")]
    pub(super) texts: Vec<String>,
    /// Rows from a file (.txt, .jsonl, .csv, .tsv) or from stdin (-).
    /// A JSONL row is {"text", "text_pair"?, "adapter"?}
    #[arg(long, short, value_name = "FILE")]
    pub(super) input: Option<PathBuf>,
    /// The adapter of rows that name none
    #[arg(long = "use", value_name = "NAME")]
    pub(super) default_adapter: Option<String>,
    /// Cut texts that are too long instead of refusing them
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "right", value_name = "SIDE")]
    pub(super) truncate: Option<Side>,
    /// Report a bad row in its place and go on
    #[arg(long)]
    pub(super) keep_going: bool,
}

/// Which end of a text is cut off.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Side {
    /// The end
    Right,
    /// The beginning
    Left,
}

/// Rows read before any is answered: enough to fill batches on every thread.
const WINDOW: usize = 1024;

/// Where a command's lines go.
pub(super) type Stdout = Output<std::io::Stdout>;

/// Writes one line; a reader that has gone ends the command.
pub(super) fn write_line(out: &mut Stdout, line: &impl Serialize) -> Result<(), Failure> {
    go_on(out.line(line)?)
}

/// See [`write_line`].
pub(super) fn go_on(flow: ControlFlow<()>) -> Result<(), Failure> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Failure::Closed),
    }
}

/// Answers every row and hands it to `write` in input order, with its index and adapter.
pub(super) fn answer_all(
    args: &RowArgs,
    engine: &Engine,
    want: Want,
    quiet: bool,
    mut write: impl FnMut(&mut Stdout, usize, Option<&str>, &Answer) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if let Some(name) = &args.default_adapter {
        engine.registry().get(Some(name))?;
    }
    let (mut rows, known) = match &args.input {
        Some(path) => (Rows::open(path)?, None),
        None if args.texts.is_empty() => {
            let why = "no text given; pass texts or --input FILE (- is stdin)";
            return Err(Failure::Usage(why.to_owned()));
        }
        None => (
            Rows::from_arguments(args.texts.clone()),
            Some(args.texts.len() as u64),
        ),
    };
    let progress = Progress::new(known, quiet);
    let mut out = Output::stdout();
    let mut index = 0;
    loop {
        let window: Vec<Result<Row>> = rows.by_ref().take(WINDOW).collect();
        if window.is_empty() {
            break;
        }
        let (mut done, mut tokens) = (0, 0);
        for (row, answer) in answer_window(args, engine, want, &rows, window) {
            match answer {
                Ok((answer, n)) => {
                    let adapter = row.as_ref().and_then(|row| adapter_of(args, row));
                    write(&mut out, index, adapter, &answer)?;
                    tokens += n;
                }
                Err(error) if args.keep_going => {
                    let (line, why) = match &error {
                        Error::Row { line, why, .. } => (*line, why.clone()),
                        other => (index + 1, other.to_string()),
                    };
                    write_line(
                        &mut out,
                        &ErrorLine {
                            index,
                            line,
                            error: &why,
                        },
                    )?;
                }
                Err(error) => {
                    go_on(out.flush()?)?;
                    return Err(error.into());
                }
            }
            index += 1;
            done += 1;
        }
        go_on(out.flush()?)?;
        progress.add(done, tokens as u64);
    }
    let done = progress.finish();
    tracing::info!("{}", done.summary());
    Ok(())
}

/// A row, where it could be read, and its answer with the number of its tokens.
type Answered = (Option<Row>, Result<(Answer, usize)>);

fn answer_window(
    args: &RowArgs,
    engine: &Engine,
    want: Want,
    rows: &Rows,
    window: Vec<Result<Row>>,
) -> Vec<Answered> {
    let fan_out = "\"adapters\" (one text, many adapters) is not supported; give a row for each";
    let requests: Vec<Request<'_>> = window
        .iter()
        .flatten()
        .filter(|row| !matches!(row.adapters, RowAdapter::Many(_)))
        .map(|row| Request {
            text: &row.text,
            pair: row.text_pair.as_deref(),
            adapter: adapter_of(args, row),
            want,
        })
        .collect();
    let mut answers = engine.answer(&requests, truncate(args)).into_iter();
    let mut out = Vec::with_capacity(window.len());
    for row in window {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                out.push((None, Err(error)));
                continue;
            }
        };
        let answer = match row.adapters {
            RowAdapter::Many(_) => Err(rows.error_at(row.line, fan_out)),
            _ => answers
                .next()
                .expect("one answer a request")
                .map_err(|error| rows.error_at(row.line, error.to_string())),
        };
        out.push((Some(row), answer));
    }
    out
}

fn truncate(args: &RowArgs) -> Truncate {
    match args.truncate {
        None => Truncate::No,
        Some(Side::Right) => Truncate::Right,
        Some(Side::Left) => Truncate::Left,
    }
}

/// The adapter of a row: its own word, or `--use`.
fn adapter_of<'a>(args: &'a RowArgs, row: &'a Row) -> Option<&'a str> {
    match &row.adapters {
        RowAdapter::NotGiven => args.default_adapter.as_deref(),
        RowAdapter::One(name) => name.as_deref(),
        RowAdapter::Many(_) => None,
    }
}
