//! `sorank classify`: labels and scores, or a regression's value, of each row.

use super::{
    Failure,
    output::ClassifyLine,
    rows::{RowArgs, answer_all, write_line},
    setup::ModelArgs,
};
use crate::{
    engine::{Answer, Classes, Want},
    spec::Problem,
};

/// Writes {"index", "adapter", "label", "score", "scores", "logits"} for each row; for a regression
/// {"index", "adapter", "score", "logits"}.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rows: RowArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let engine = args.model.engine()?;
    answer_all(
        &args.rows,
        &engine,
        Want::Classes,
        args.model.quiet,
        |out, index, adapter, answer| {
            let Answer::Classes(classes) = answer else {
                unreachable!("classes were asked for")
            };
            write_line(out, &line(index, adapter, classes))
        },
    )
}

fn line<'a>(index: usize, adapter: Option<&'a str>, c: &'a Classes) -> ClassifyLine<'a> {
    match c.problem {
        Problem::Regression => ClassifyLine::regression(index, adapter, &c.logits),
        Problem::SingleLabelClassification => {
            ClassifyLine::single_label(index, adapter, &c.labels, &c.scores, &c.logits)
        }
        Problem::MultiLabelClassification => {
            ClassifyLine::multi_label(index, adapter, &c.labels, &c.scores, &c.logits)
        }
    }
}
