//! `sorank completions` and `sorank man`: what shells and `man` want to know, from the parser's own description.

use std::path::PathBuf;

use super::{Failure, output::Output, rows::go_on};
use crate::error::Error;

/// Prints a script that completes commands and flags. For bash: sorank completions bash > ~/.local/share/bash-completion/completions/sorank
#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Writes sorank.1 and a page for each command (sorank-serve.1 has every flag with its environment variable).
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The directory, made where it is not there: ~/.local/share/man/man1, say
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn completions(
    args: &CompletionArgs,
    mut command: clap::Command,
) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "sorank", &mut script);
    let mut out = Output::stdout();
    go_on(out.text(&String::from_utf8_lossy(&script))?)?;
    go_on(out.flush()?)
}

pub(super) fn man(args: &ManArgs, command: clap::Command) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.dir).map_err(Error::io(&args.dir))?;
    clap_mangen::generate_to(command, &args.dir).map_err(Error::io(&args.dir))?;
    eprintln!("wrote {}", args.dir.display());
    Ok(())
}
