//! `sorank eval`: the scores of any base and adapter on a labelled file, one JSON object on stdout.

use std::path::PathBuf;

use serde_json::{Map, json};

use super::{
    Failure,
    labelled::{ColumnArgs, file},
    output::Output,
};
use crate::{
    adapter::Adapter,
    engine::{Answer, DEFAULT_BATCH_TOKENS, Engine, Request, Want},
    error::Error,
    mat::Matrix,
    model::{LoadOptions, Model},
    text::{Tokenizer, Truncate},
    train::{data::Labels, metrics::scores},
    weights::Source,
};

/// Answers every row as the server would and compares with its label.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the base
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    model: PathBuf,
    /// Directory of the adapter; the base's own head without it
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Labelled rows: .tsv (without quotes), .csv, .jsonl
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the files of --task are: its development file is scored
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Threads; by default the cores this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.map_or(0, usize::from))
        .build_global()
        .map_err(|e| Failure::Failed(format!("starting threads: {e}")))?;
    let preset = args.columns.preset()?;
    let dev = preset.as_ref().map(|p| p.dev);
    let path = file(args.input.as_ref(), args.data_dir.as_ref(), dev, "--input")?;
    let rows = args.columns.rows(&path)?;
    let model = Model::load(Source::dir(&args.model)?, &LoadOptions::default())?;
    let source = model.source().clone();
    let tokenizer = Tokenizer::load(&|name| source.read(name), &args.model)?;
    let limit = args.columns.limit(&model);
    let engine = Engine::new(model, tokenizer, DEFAULT_BATCH_TOKENS)?;
    let name = "adapter";
    if let Some(dir) = &args.adapter {
        let task = engine.model().bind(name, &Adapter::read(dir)?)?;
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
    let labels = Labels {
        names: classifier.labels.to_vec(),
        problem: classifier.problem,
    };
    let targets = labels.targets(&rows, &path)?;
    let texts: Vec<_> = rows
        .iter()
        .map(|r| (r.text.as_str(), r.pair.as_deref()))
        .collect();
    let encoded = engine.tokenizer().encode_batch(&texts, limit, &|_| {});
    let mut admitted = Vec::with_capacity(rows.len());
    for (encoded, row) in encoded.into_iter().zip(&rows) {
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
    let logits: Vec<Matrix> = engine
        .run(&admitted)
        .into_iter()
        .map(|answer| match answer {
            Answer::Classes(c) => Matrix::from_vec(c.logits.to_vec(), 1, c.logits.len()),
            _ => unreachable!("classes were asked for"),
        })
        .collect();
    let mut found: Map<_, _> = scores(&labels, &logits, &targets)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    found.insert("rows".into(), json!(rows.len()));
    let mut out = Output::stdout();
    super::rows::write_line(&mut out, &found)?;
    super::rows::go_on(out.flush()?)
}
