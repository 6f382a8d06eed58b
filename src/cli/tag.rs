//! `sorank tag`: the entities of each row.

use clap::ValueEnum;

use super::{
    Failure,
    output::{EntityPart, TagLine},
    rows::{RowArgs, answer_all, write_line},
    setup::ModelArgs,
};
use crate::engine::{Aggregation, Answer, Entity, Want};

/// Writes {"index", "adapter", "entities": [{"entity", "score", "word", "start", "end"}]} for each row. Offsets count
/// characters (Unicode scalar values) of the text as given. Grouping is that of transformers' token classification
/// pipeline.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rows: RowArgs,
    /// How labels of tokens become entities
    #[arg(long, value_enum, default_value_t = How::Simple, value_name = "HOW")]
    aggregation: How,
}

/// Ways of grouping.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum How {
    /// Not at all: each labelled token, with its full label
    None,
    /// Adjacent tokens of one kind
    Simple,
    /// Adjacent words of one kind, each labelled as its first token
    First,
    /// Adjacent words of one kind, each labelled by the mean of its tokens' scores
    Average,
    /// Adjacent words of one kind, each labelled as its surest token
    Max,
}

impl From<How> for Aggregation {
    fn from(how: How) -> Self {
        match how {
            How::None => Aggregation::None,
            How::Simple => Aggregation::Simple,
            How::First => Aggregation::First,
            How::Average => Aggregation::Average,
            How::Max => Aggregation::Max,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let engine = args.model.engine()?;
    answer_all(
        &args.rows,
        &engine,
        Want::Tags(args.aggregation.into()),
        args.model.quiet,
        |out, index, adapter, answer| {
            let Answer::Tags(found) = answer else {
                unreachable!("tags were asked for")
            };
            let entities = found.iter().map(part).collect();
            write_line(
                out,
                &TagLine {
                    index,
                    adapter,
                    entities,
                },
            )
        },
    )
}

fn part(entity: &Entity) -> EntityPart<'_> {
    EntityPart {
        entity: &entity.label,
        score: entity.score,
        word: &entity.word,
        start: entity.start,
        end: entity.end,
    }
}
