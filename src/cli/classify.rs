//! `sorank classify`: labels and scores, or a regression's value, of each row.

use super::{
    Failure,
    output::classify_line,
    rows::{RowArgs, answer_all},
    setup::ModelArgs,
};
use crate::engine::{Answer, Want};

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
    answer_all(&args.rows, &engine, Want::Classes, args.model.quiet, |out, index, adapter, answer| {
        let Answer::Classes(classes) = answer else { unreachable!("classes were asked for") };
        classify_line(out, index, adapter, &classes)
    })
}
