//! From input rows to answers, a window at a time: memory does not grow with the input, output keeps its order.

use clap::{Args, ValueEnum};

use super::{
    Failure,
    input::{self, Row, RowAdapter},
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
    pub(super) input: Option<String>,
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

/// Answers every row and hands it to `write` in input order, with its index and adapter.
pub(super) fn answer_all(
    args: &RowArgs,
    engine: &Engine,
    want: Want,
    quiet: bool,
    mut write: impl FnMut(&mut Output, usize, Option<&str>, Answer) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if let Some(name) = &args.default_adapter {
        engine.registry().get(Some(name))?;
    }
    let truncate = match args.truncate {
        None => Truncate::No,
        Some(Side::Right) => Truncate::Right,
        Some(Side::Left) => Truncate::Left,
    };
    let (source_name, mut rows) = match &args.input {
        Some(path) => (path.clone(), input::open(path)?),
        None if args.texts.is_empty() => {
            return Err(Failure::Usage("no text given; pass texts or --input FILE (- is stdin)".into()));
        }
        None => ("arguments".to_owned(), input::from_texts(args.texts.clone())),
    };
    let progress = Progress::rows(quiet);
    let mut output = Output::stdout();
    let mut index = 0;
    loop {
        let window: Vec<Result<Row>> = rows.by_ref().take(WINDOW).collect();
        if window.is_empty() {
            break;
        }
        let answers = answer_window(args, engine, want, truncate, &source_name, &window);
        for (row, answer) in window.iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    let adapter = row.as_ref().ok().and_then(|row| adapter_of(args, row));
                    write(&mut output, index, adapter, answer)?;
                }
                Err(error) if args.keep_going => {
                    let line = line_of(row, index);
                    output.line(&ErrorLine { index, line, error: &error.to_string() })?;
                }
                Err(error) => {
                    output.flush()?;
                    return Err(error.into());
                }
            }
            index += 1;
        }
        output.flush()?;
        progress.rows_done(index);
    }
    Ok(())
}

fn answer_window(
    args: &RowArgs,
    engine: &Engine,
    want: Want,
    truncate: Truncate,
    source_name: &str,
    window: &[Result<Row>],
) -> Vec<Result<Answer>> {
    // Without --keep-going nothing after the first unreadable row is worth answering.
    let mut requests = Vec::with_capacity(window.len());
    let mut places = Vec::with_capacity(window.len());
    let mut out: Vec<Option<Result<Answer>>> = Vec::with_capacity(window.len());
    for (place, row) in window.iter().enumerate() {
        match row {
            Ok(Row { adapters: RowAdapter::Many(_), line, .. }) => out.push(Some(Err(Error::Row {
                source_name: source_name.to_owned(),
                line: *line,
                why: "\"adapters\" (one text, many adapters) is not supported; give a row for each".into(),
            }))),
            Ok(row) => {
                let pair = row.text_pair.as_deref();
                requests.push(Request { text: &row.text, pair, adapter: adapter_of(args, row), want });
                places.push(place);
                out.push(None);
            }
            Err(error) => out.push(Some(Err(Error::clone_row(error)))),
        }
    }
    for (place, result) in places.into_iter().zip(engine.answer(&requests, truncate)) {
        let line = window[place].as_ref().map_or(0, |row| row.line);
        out[place] = Some(result.map_err(|error| match error {
            Error::Row { .. } => error,
            other => Error::Row {
                source_name: source_name.to_owned(),
                line,
                why: other.to_string(),
            },
        }));
    }
    out.into_iter().map(|r| r.expect("every place was answered or refused")).collect()
}

/// The adapter of a row: its own word, or `--use`.
fn adapter_of<'a>(args: &'a RowArgs, row: &'a Row) -> Option<&'a str> {
    match &row.adapters {
        RowAdapter::Unsaid => args.default_adapter.as_deref(),
        RowAdapter::Base => None,
        RowAdapter::One(name) => Some(name),
        RowAdapter::Many(_) => None,
    }
}

fn line_of(row: &Result<Row>, index: usize) -> usize {
    match row {
        Ok(row) => row.line,
        Err(Error::Row { line, .. }) => *line,
        Err(_) => index + 1,
    }
}
