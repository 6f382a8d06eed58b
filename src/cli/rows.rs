//! From input rows to answers, a window at a time: memory does not grow with the input, output keeps its order.

use std::{io::BufRead, ops::ControlFlow, path::PathBuf};

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
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Input")]
pub(super) struct RowArgs {
    /// Texts, one row each
    #[arg(value_name = "TEXT", conflicts_with = "input")]
    pub(super) texts: Vec<String>,
    /// Rows from a file (.txt, .jsonl, .csv, .tsv) or from stdin (-).
    /// A JSONL row is {"text", "text_pair"?, "adapter"?}, or "adapters": [..] for an answer from each
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

/// What is asked of every row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) want: Want,
    /// Put before each text.
    pub(super) prompt: &'a str,
}

impl From<Want> for Question<'_> {
    fn from(want: Want) -> Self {
        Question { want, prompt: "" }
    }
}

/// Answers every row and hands it to `write` in input order, with its index and adapter; a row for several adapters
/// as often as it has adapters, in its order.
pub(super) fn answer_all<'q>(
    args: &RowArgs,
    engine: &Engine,
    question: impl Into<Question<'q>>,
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
    let question = question.into();
    let progress = Progress::new(known, quiet);
    let mut out = Output::stdout();
    let mut index = 0;
    loop {
        let window: Vec<Result<Row>> = rows.by_ref().take(WINDOW).collect();
        if window.is_empty() {
            break;
        }
        let (mut done, mut tokens) = (0, 0);
        for answers in answer_window(args, engine, question, &rows, window) {
            for (adapter, answer) in answers {
                match answer {
                    Ok((answer, n)) => {
                        write(&mut out, index, adapter.as_deref(), &answer)?;
                        tokens += n;
                    }
                    Err(error) => report(&mut out, args.keep_going, index, error)?,
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

/// A row that failed: in its place where `keep_going`, else the end.
pub(super) fn report(
    out: &mut Stdout,
    keep_going: bool,
    index: usize,
    error: Error,
) -> Result<(), Failure> {
    if !keep_going {
        go_on(out.flush()?)?;
        return Err(error.into());
    }
    let (line, why) = match &error {
        Error::Row { line, why, .. } => (*line, why.clone()),
        other => (index + 1, other.to_string()),
    };
    let error = &why;
    write_line(out, &ErrorLine { index, line, error })
}

/// What `classify`, `embed` and `tag` make of an input that is in memory, without their arguments and their output: for
/// fuzzing. `ending` is that of a file's name, or `-` for stdin. All rows are read; the first are answered, each by
/// every adapter it asks for, until `most` answers have been given.
#[doc(hidden)]
pub fn answer_input(
    engine: &Engine,
    want: Want,
    ending: &str,
    reader: Box<dyn BufRead + Send>,
    most: usize,
) -> Vec<Vec<Result<Answer>>> {
    let args = RowArgs::default();
    let rows = match ending {
        "-" => Rows::sniff(ending.to_owned(), reader),
        _ => Rows::read(ending.to_owned(), ending, reader),
    };
    let mut rows = match rows {
        Ok(rows) => rows,
        Err(error) => return vec![vec![Err(error)]],
    };
    let mut left = most;
    let mut enough = |row: &Result<Row>| {
        let asked = row.as_ref().map_or(1, |row| adapters_of(&args, row).len());
        left.checked_sub(asked).map(|rest| left = rest).is_some()
    };
    let window = rows.by_ref().filter(&mut enough).collect();
    let answered = answer_window(&args, engine, want.into(), &rows, window);
    let of_row = |row: Answered| row.into_iter().map(|(_, a)| a.map(|(a, _)| a)).collect();
    answered.into_iter().map(of_row).collect()
}

/// The answers to a row: who was asked, and the answer with the number of its tokens.
type Answered = Vec<(Option<String>, Result<(Answer, usize)>)>;

fn answer_window(
    args: &RowArgs,
    engine: &Engine,
    question: Question<'_>,
    rows: &Rows,
    window: Vec<Result<Row>>,
) -> Vec<Answered> {
    // An empty text stays empty, which is refused: its prompt alone is no text.
    let prompted = |row: &Row| match row.text.trim().is_empty() {
        true => row.text.clone(),
        false => format!("{}{}", question.prompt, row.text),
    };
    let prompted: Vec<Option<String>> = window
        .iter()
        .flatten()
        .map(|row| (!question.prompt.is_empty()).then(|| prompted(row)))
        .collect();
    let requests: Vec<Request<'_>> = window
        .iter()
        .flatten()
        .zip(&prompted)
        .flat_map(|(row, prompted)| {
            let request = move |adapter| Request {
                text: prompted.as_deref().unwrap_or(&row.text),
                pair: row.text_pair.as_deref(),
                adapter,
                want: question.want,
            };
            adapters_of(args, row).into_iter().map(request)
        })
        .collect();
    let mut answers = engine.answer(&requests, truncate(args)).into_iter();
    let answers_to = |row: Result<Row>| match row {
        Err(error) => vec![(None, Err(error))],
        Ok(row) => adapters_of(args, &row)
            .into_iter()
            .map(|adapter| {
                let answer = answers.next().expect("one answer a request");
                let answer = answer.map_err(|e| rows.error_at(row.line, e.to_string()));
                (adapter.map(str::to_owned), answer)
            })
            .collect(),
    };
    window.into_iter().map(answers_to).collect()
}

pub(super) fn truncate(args: &RowArgs) -> Truncate {
    match args.truncate {
        None => Truncate::No,
        Some(Side::Right) => Truncate::Right,
        Some(Side::Left) => Truncate::Left,
    }
}

/// The adapters of a row: its own word, or `--use`.
fn adapters_of<'a>(args: &'a RowArgs, row: &'a Row) -> Vec<Option<&'a str>> {
    match &row.adapters {
        RowAdapter::NotGiven => vec![args.default_adapter.as_deref()],
        RowAdapter::One(name) => vec![name.as_deref()],
        RowAdapter::Many(names) => names.iter().map(Option::as_deref).collect(),
    }
}
