//! `sorank embed`: one vector a row.

use super::{
    Failure,
    output::EmbedLine,
    rows::{Question, RowArgs, answer_all, write_line},
    setup::ModelArgs,
};
use crate::{
    engine::{Answer, Engine, Want},
    kernel::pool,
};

/// Writes {"index", "adapter", "embedding"} for each row, pooled and normalised as the model's
/// sentence-transformers files say (by default: mean over tokens, not normalised).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    rows: RowArgs,
    /// Keep the first N numbers of each vector; a normalised vector is normalised again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    dimensions: Option<u32>,
    /// Put one of the model's prompts (config_sentence_transformers.json) before each text;
    /// by default, its default prompt where it has one
    #[arg(long, value_name = "NAME", conflicts_with = "prompt")]
    prompt_name: Option<String>,
    /// Put this before each text
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let engine = args.model.engine()?;
    let keep = dimensions(args, &engine)?;
    let normalize = engine.model().sentence().normalize;
    let question = Question {
        want: Want::Embedding,
        prompt: prompt(args, &engine)?,
    };
    answer_all(
        &args.rows,
        &engine,
        question,
        args.model.quiet,
        |out, index, adapter, answer| {
            let Answer::Embedding(embedding) = answer else {
                unreachable!("an embedding was asked for")
            };
            let mut kept = embedding[..keep].to_vec();
            if normalize && keep < embedding.len() {
                pool::normalize(&mut kept);
            }
            let embedding = &kept;
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

/// How many numbers of a vector are kept.
fn dimensions(args: &Args, engine: &Engine) -> Result<usize, Failure> {
    let whole = engine.model().spec().hidden;
    match args.dimensions.map(|n| n as usize) {
        None => Ok(whole),
        Some(n) if n <= whole => Ok(n),
        Some(n) => {
            let why = format!("--dimensions {n}: the model's vectors have {whole}");
            Err(Failure::Usage(why))
        }
    }
}

/// What stands before each text.
fn prompt<'a>(args: &'a Args, engine: &'a Engine) -> Result<&'a str, Failure> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt);
    }
    let sentence = engine.model().sentence();
    let Some(name) = args
        .prompt_name
        .as_ref()
        .or(sentence.default_prompt.as_ref())
    else {
        return Ok("");
    };
    let prompt = sentence.prompts.get(name).map(String::as_str);
    prompt.ok_or_else(|| {
        let known = match sentence.prompts.is_empty() {
            true => "the model has none".to_owned(),
            false => sentence
                .prompts
                .keys()
                .cloned()
                .collect::<Vec<_>>()
                .join(", "),
        };
        Failure::Usage(format!("no prompt is named {name:?}; known: {known}"))
    })
}
