//! `sorank embed`: one vector a row.

use super::{
    Failure,
    output::EmbedLine,
    rows::{RowArgs, answer_all, write_line},
    setup::ModelArgs,
};
use crate::engine::{Answer, Want};

/// Writes {"index", "adapter", "embedding"} for each row, pooled and normalised as the model's
/// sentence-transformers files say (by default: mean over tokens, not normalised).
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
        Want::Embedding,
        args.model.quiet,
        |out, index, adapter, answer| {
            let Answer::Embedding(embedding) = answer else {
                unreachable!("an embedding was asked for")
            };
            write_line(
                out,
                &EmbedLine {
                    index,
                    adapter,
                    embedding,
                },
            )
        },
    )
}
