//! `sorank pull`: repositories of the Hugging Face hub, downloaded into its cache.

use super::{Failure, output::Output, place, rows::go_on};
use crate::hub::{Repository, Settings, Want};

/// Downloads what sorank reads of a base or an adapter and prints its directory. Files that are here already, also those
/// that Python's huggingface_hub has put there, are used; a download that was cut short goes on where it stopped; every file
/// is checked against the hub's checksum. Other commands take owner/name[@revision] wherever a directory may stand, and
/// pull it themselves.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Repositories
    #[arg(value_name = "OWNER/NAME[@REVISION]", required = true)]
    repositories: Vec<String>,
    /// The branch, tag or commit; by default main
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
    /// The token of private and gated repositories; by default HF_TOKEN, else what `hf auth login` has left
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// No progress on stderr
    #[arg(long, short, env = "SORANK_QUIET")]
    quiet: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut settings = Settings::from_env()?;
    if let Some(token) = &args.token {
        settings.token = Some(token.clone());
    }
    let mut out = Output::stdout();
    let repositories = args.repositories.iter();
    let repositories = repositories.map(|text| repository(text, args.revision.as_deref()));
    for repository in repositories.collect::<Result<Vec<_>, Failure>>()? {
        let directory = place::pull(settings.clone(), &repository, Want::Any, args.quiet)?;
        go_on(out.text(&format!("{}\n", directory.display()))?)?;
        go_on(out.flush()?)?;
    }
    Ok(())
}

fn repository(text: &str, revision: Option<&str>) -> Result<Repository, Failure> {
    let usage = |why: String| Failure::Usage(format!("{text}: {why}"));
    let expected = "expected owner/name or owner/name@revision";
    let repository = Repository::parse(text).ok_or_else(|| usage(expected.to_owned()))?;
    match revision {
        None => Ok(repository),
        Some(_) if text.contains('@') => Err(usage(
            "--revision is for names without @revision".to_owned(),
        )),
        Some(revision) => {
            let at = repository.at(revision);
            at.ok_or_else(|| usage(format!("--revision {revision:?} cannot be the name of one")))
        }
    }
}
