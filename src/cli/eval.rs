//! `sorank eval`: the scores of any base and adapter on a labelled file, one JSON object on stdout.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Map, json};

use super::{
    Failure,
    labelled::{ColumnArgs, examples},
    output::Output,
    place::Place,
    setup::Dtype,
};
use crate::{
    adapter::Adapter,
    engine::{Answer, DEFAULT_BATCH_TOKENS, Engine, Request, Want},
    error::Error,
    mat::Matrix,
    model::{Batch, Level, LoadOptions, Model, Sequence, Task},
    text::{Tokenizer, Truncate},
    train::{
        Example,
        data::{Labels, Row, Split},
        metrics::scores,
    },
    weights::{PackOptions, Source},
};

/// Answers every row as the server would and compares with its label.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the base, or its repository (owner/name[@revision])
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    model: Place,
    /// Directory of the adapter, or its repository; the base's own head without it
    #[arg(long, value_name = "DIR")]
    adapter: Option<Place>,
    /// Labelled rows: .tsv (without quotes), .csv, .jsonl, .parquet, .conll
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the files of --task are, or of several tasks
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Which of the files of --task is scored
    #[arg(long, value_enum, default_value_t = SplitArg::Dev)]
    split: SplitArg,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Precision of the base's linears
    #[arg(long, value_enum, default_value_t = Dtype::F32, env = "SORANK_DTYPE")]
    dtype: Dtype,
    /// Threads; by default the cores this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitArg {
    /// Training rows
    Train,
    /// Development rows
    Dev,
    /// Test rows, where the task has labelled ones
    Test,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.map_or(0, usize::from))
        .build_global()
        .map_err(|e| Failure::Failed(format!("starting threads: {e}")))?;
    let split = match args.split {
        SplitArg::Train => Split::Train,
        SplitArg::Dev => Split::Dev,
        SplitArg::Test => Split::Test,
    };
    let (dir, input) = (args.data_dir.as_deref(), args.input.as_ref());
    let (path, rows) = args.columns.rows(input, dir, split, "--input")?;
    let options = LoadOptions {
        precision: Some(args.dtype.into()),
        pack: PackOptions::default(),
    };
    let model = Model::load(Source::dir(args.model.base(false)?)?, &options)?;
    let source = model.source().clone();
    let tokenizer = Tokenizer::load(&|name| source.read(name), &source.path(""))?;
    let engine = Engine::new(model, tokenizer, DEFAULT_BATCH_TOKENS)?;
    let name = "adapter";
    if let Some(place) = &args.adapter {
        let adapter = Adapter::read(place.adapter(false)?)?;
        let task = engine.model().bind(name, &adapter)?;
        engine.registry().insert(name, task);
    }
    let used = args.adapter.is_some().then_some(name);
    let task = engine.registry().get(used)?;
    let Some(classifier) = &task.classifier else {
        return Err(Failure::Failed(format!(
            "{} has no classifier",
            task.shown()
        )));
    };
    let asked = args.columns.level()?;
    if classifier.level != asked {
        let (has, wants) = match asked {
            Level::Sequence => ("a label a word", "one a text; --tags is for words"),
            Level::Token => ("a label a text", "one a word"),
        };
        let why = format!("{} gives {has}, and the rows have {wants}", task.shown());
        return Err(Failure::Failed(why));
    }
    let labels = Labels {
        names: classifier.labels.to_vec(),
        problem: classifier.problem,
        level: classifier.level,
    };
    let mut targets = labels.targets(&rows, &path)?;
    let logits = match labels.level {
        Level::Sequence => classes(&engine, used, args, &path, &rows)?,
        Level::Token => {
            let (tokenizer, model) = (engine.tokenizer(), engine.model());
            let limit = args.columns.limit(model);
            let rows = examples(tokenizer, model, limit, &path, &rows, targets)?;
            targets = rows.iter().map(|r| r.target.clone()).collect();
            tags(&engine, &task, &rows)
        }
    };
    let mut found: Map<_, _> = scores(&labels, &logits, &targets)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    found.insert("rows".into(), json!(rows.len()));
    let mut out = Output::stdout();
    super::rows::write_line(&mut out, &found)?;
    super::rows::go_on(out.flush()?)
}

/// The logits of each text, through the engine as a request would go.
fn classes(
    engine: &Engine,
    used: Option<&str>,
    args: &Args,
    path: &Path,
    rows: &[Row],
) -> Result<Vec<Matrix>, Failure> {
    let texts: Vec<_> = rows
        .iter()
        .map(|r| (r.text.as_str(), r.pair.as_deref()))
        .collect();
    let limit = args.columns.limit(engine.model());
    let encoded = engine.tokenizer().encode_batch(&texts, limit, &|_| {});
    let mut admitted = Vec::with_capacity(rows.len());
    for (encoded, row) in encoded.into_iter().zip(rows) {
        let at = |e: Error| Error::Row {
            source_name: path.display().to_string(),
            line: row.line,
            why: e.to_string(),
        };
        let request = Request {
            text: &row.text,
            pair: row.pair.as_deref(),
            adapter: used,
            want: Want::Classes,
        };
        let mut one = engine.admit(&request, Truncate::Right).map_err(at)?;
        one.encoded = encoded.map_err(at)?.into(); // cut at the same length as in training
        admitted.push(one);
    }
    let logits = engine
        .run(&admitted)
        .into_iter()
        .map(|answer| match answer {
            Answer::Classes(c) => Matrix::from_vec(c.logits.to_vec(), 1, c.logits.len()),
            _ => unreachable!("classes were asked for"),
        });
    Ok(logits.collect())
}

/// The logits of each token: an answer to a request holds entities only.
fn tags(engine: &Engine, task: &Task, rows: &[Example]) -> Vec<Matrix> {
    const AT_ONCE: usize = 32;
    let head = &task.classifier.as_ref().expect("it was looked for").head;
    let mut out = Vec::with_capacity(rows.len());
    for rows in rows.chunks(AT_ONCE) {
        let batch = Batch::pack(rows.iter().map(|r| Sequence {
            ids: &r.ids,
            types: &r.types,
            task: 0,
        }));
        let encoded = engine.model().forward(&batch, &[task], &mut ());
        for s in 0..batch.sequences() {
            let hidden = encoded.view().row_range(batch.rows(s));
            out.push(engine.model().tag(head, hidden));
        }
    }
    out
}
