//! The command line: one file a subcommand; this file parses, sets up logging and turns errors into exit codes.
//!
//! Results go to stdout (one JSON line a row, written by `output`), everything else to stderr.
//! Exit codes: 0; 1 when something failed, with a message that names the file, the row and the reason; 2 for usage; 130
//! when Ctrl-C ended a run that can be gone on with.

mod bench;
mod classify;
mod config;
mod embed;
mod eval;
#[cfg(feature = "server")]
mod health;
mod import;
mod input;
mod inspect;
mod labelled;
mod merge;
mod output;
mod pack;
mod pages;
mod place;
mod progress;
mod prune;
#[cfg(feature = "hub")]
mod pull;
mod rerank;
mod rows;
#[cfg(feature = "server")]
mod serve;
mod setup;
mod sweep;
mod tag;
mod train;
mod verify;

use std::{io::IsTerminal, process::ExitCode};

#[doc(hidden)]
pub use self::{rerank::answer_queries, rows::answer_input};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  # No model at hand: a small one is built in, with the adapters sentiment, question and intent
  sorank classify --use sentiment 'what a wonderful trip' 'the soup was cold'
  # Embeddings of a sentence-transformers model
  sorank embed --model ./all-MiniLM-L6-v2 'a text' 'another text'
  # One of the Hugging Face hub: owner/name[@revision] may stand wherever a directory may
  sorank embed --model sentence-transformers/all-MiniLM-L6-v2 'a text'
  # Rows that each name their adapter, in one batch
  echo '{\"text\": \"book a table for two\", \"adapter\": \"intent\"}' |
    sorank classify --model ./bert-base --adapter intent=./intent-lora --input -
  # What an adapter holds, and its rank map as a picture
  sorank inspect ./intent-lora --svg ranks.svg

Environment: SORANK_CACHE (where packed bases are kept), SORANK_SIMD (scalar, avx2, avx512),
SORANK_LOG (error, warn, info, debug); HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE as in Python's huggingface_hub.";

/// Many pruned LoRA / SoRA adapters over one frozen encoder, on the CPU.
#[derive(Debug, Parser)]
#[command(name = "sorank", version, after_long_help = EXAMPLES, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn texts into vectors
    Embed(embed::Args),
    /// Label texts (or pairs) with an adapter's classifier, or score them
    Classify(classify::Args),
    /// Find entities in texts with an adapter's token classifier
    Tag(tag::Args),
    /// Sort texts by how well they answer a query, with a cross-encoder
    Rerank(rerank::Args),
    /// Show what a base or an adapter holds: sites, ranks, parameters, bytes
    Inspect(inspect::Args),
    /// Train an adapter on labelled rows
    Train(Box<train::Args>),
    /// Train over seeds, methods and strengths, and print a table of means
    Sweep(sweep::Args),
    /// Score a base and an adapter on labelled rows
    Eval(eval::Args),
    /// Write base + adapter as one ordinary checkpoint
    Merge(merge::Args),
    /// Build a base's packed files ahead of the first start, or check them
    Pack(pack::Args),
    /// Measure what adapters cost on this machine
    Bench(bench::Args),
    /// Make an adapter smaller by its singular values, and say what was dropped
    Prune(prune::Args),
    /// Check adapters against a base without running traffic
    Verify(verify::Args),
    /// Serve a base and its adapters over HTTP
    #[cfg(feature = "server")]
    Serve(Box<serve::Args>),
    /// Ask a server on this machine whether it takes requests
    #[cfg(feature = "server")]
    Health(health::Args),
    /// Download a base or an adapter from the Hugging Face hub
    #[cfg(feature = "hub")]
    Pull(pull::Args),
    /// Turn a SoRA or OpenDelta checkpoint, or an AdaLoRA adapter, into a plain adapter
    Import(import::Args),
    /// Print a completion script for your shell
    Completions(pages::CompletionArgs),
    /// Write the manual pages of all commands
    Man(pages::ManArgs),
}

/// Why a command stopped.
#[derive(Debug)]
enum Failure {
    /// The arguments do not go together: exit code 2.
    Usage(String),
    /// Something failed: exit code 1.
    Failed(String),
    /// Ended on request, to go on later: exit code 130.
    Interrupted(String),
    /// Whoever read stdout has gone: not worth a message.
    Closed,
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// Runs the command that the arguments of this process name.
pub fn main() -> ExitCode {
    let (cli, matches) = match parse() {
        Ok(parsed) => parsed,
        Err(failure) => return exit(Err(failure)),
    };
    let level = tracing_subscriber::EnvFilter::try_from_env("SORANK_LOG");
    #[cfg(feature = "server")]
    if let Command::Serve(args) = &cli.command {
        return exit(serve::run(args, level.unwrap_or_else(|_| "info".into())));
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colours())
        .with_env_filter(level.unwrap_or_else(|_| "warn".into()))
        .with_target(false)
        .init();
    let done = match cli.command {
        Command::Embed(args) => embed::run(&args),
        Command::Classify(args) => classify::run(&args),
        Command::Tag(args) => tag::run(&args),
        Command::Rerank(args) => rerank::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Train(args) => train::run(&args, &matches),
        Command::Sweep(args) => sweep::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Prune(args) => prune::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Import(args) => import::run(&args),
        #[cfg(feature = "hub")]
        Command::Pull(args) => pull::run(&args),
        #[cfg(feature = "server")]
        Command::Health(args) => health::run(&args),
        #[cfg(feature = "server")]
        Command::Serve(_) => unreachable!("it has been run above, with a log of its own"),
        Command::Completions(args) => pages::completions(&args, command()),
        Command::Man(args) => pages::man(&args, command()),
    };
    exit(done)
}

/// The arguments of this process; usage errors end it, with code 2. The matches are those of the subcommand.
/// Whether log lines are coloured: on a terminal, unless `NO_COLOR` is set.
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

fn parse() -> Result<(Cli, ArgMatches), Failure> {
    let command = command();
    let args = config::with_config(&command, std::env::args_os().collect())?;
    let mut matches = command.get_matches_from(args);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let matches = matches.remove_subcommand().map(|(_, matches)| matches);
    Ok((cli, matches.unwrap_or_default()))
}

/// All commands and their flags.
fn command() -> clap::Command {
    let command = Cli::command();
    #[cfg(feature = "server")]
    let command = serve::with_variables(command);
    command
}

fn exit(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Failed(why)) => {
            eprintln!("sorank: {why}");
            ExitCode::from(1)
        }
        Err(Failure::Interrupted(why)) => {
            eprintln!("sorank: {why}");
            ExitCode::from(130)
        }
        Err(Failure::Usage(why)) => {
            eprintln!("sorank: {why}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_well_formed() {
        command().debug_assert();
    }

    #[cfg(feature = "server")]
    #[test]
    fn every_flag_of_serve_is_a_variable_of_its_name() {
        let command = command();
        let serve = command.find_subcommand("serve").expect("it is there");
        for arg in serve.get_arguments() {
            let long = arg.get_long().expect("serve takes flags alone");
            let variable = arg.get_env().and_then(std::ffi::OsStr::to_str);
            let expected = match long {
                "adapter" => "SORANK_ADAPTERS".to_owned(), // several, in one variable
                _ => format!("SORANK_{}", long.to_uppercase().replace('-', "_")),
            };
            assert_eq!(variable, Some(expected.as_str()));
        }
    }
}
