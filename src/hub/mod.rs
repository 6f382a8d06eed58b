//! Repositories of the Hugging Face hub as directories: pulled into the cache that Python's `huggingface_hub` uses.
//!
//! One list of the repository's files, then each file that a base or an adapter needs and that is not here yet. The
//! revision's reference is moved when all of them are, so that without the hub the last whole pull stands. Who may
//! ask for a pull is decided above: the command line may, requests of a server never do. Nothing is uploaded.

mod cache;
mod checksum;
mod client;
mod download;
mod refusal;
mod repo;
mod settings;
mod wanted;

use std::path::PathBuf;

pub use repo::Repository;
pub use settings::Settings;

use self::{
    cache::{Cached, is_commit, make_directory},
    client::{Client, Listing},
    download::Snapshot,
};
use crate::{Error, Result};

/// What is looked for in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A base: configuration, tokenizer, weights, what sentence-transformers says.
    Base,
    /// An adapter: configuration, weights, labels, self test.
    Adapter,
    /// Whichever it holds, or both.
    Any,
}

/// Called with a file's name, its bytes that are here, and how many it will have, where that is known.
pub type Progress<'a> = &'a dyn Fn(&str, u64, Option<u64>);

/// A hub and the cache of its files.
#[derive(Debug)]
pub struct Hub {
    client: Client,
}

impl Hub {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// When `SSL_CERT_FILE` is set and holds no certificates.
    pub fn new(settings: Settings) -> Result<Self> {
        let client = Client::new(settings)?;
        Ok(Self { client })
    }

    /// The directory of what `want` needs of a repository, all of it there: files that are in the cache are used, others
    /// downloaded. Where the hub cannot be reached, what was pulled last is used, with a warning.
    ///
    /// # Errors
    /// [`Error::Hub`]: no such repository, revision or file, no access, nothing in it that could be used, a file that is not
    /// what the hub says; the hub cannot be reached (or must not be, offline) and the cache lacks something.
    /// [`Error::Io`] when the cache cannot be written.
    pub fn pull(
        &self,
        repository: &Repository,
        want: Want,
        progress: Progress<'_>,
    ) -> Result<PathBuf> {
        let settings = self.client.settings();
        let cached = Cached::new(&settings.cache, repository);
        if settings.offline {
            return here(&cached, repository, want)?.map_err(|why| {
                error(
                    repository,
                    None,
                    format!("HF_HUB_OFFLINE is set, and {why}"),
                )
            });
        }
        match self.client.listing(repository) {
            Ok(listing) => self.complete(&cached, repository, &listing, want, progress),
            Err(trouble) if trouble.may_pass() => match here(&cached, repository, want)? {
                Ok(snapshot) => {
                    tracing::warn!("{repository}: using what was pulled before: {trouble}");
                    Ok(snapshot)
                }
                Err(why) => {
                    let why = format!("the hub cannot be reached ({trouble}), and {why}");
                    Err(error(repository, None, why))
                }
            },
            Err(trouble) => Err(trouble.about(repository, None, settings)),
        }
    }

    fn complete(
        &self,
        cached: &Cached,
        repository: &Repository,
        listing: &Listing,
        want: Want,
        progress: Progress<'_>,
    ) -> Result<PathBuf> {
        let commit = listing.sha.as_str();
        if !is_commit(commit) {
            let why = format!("expected a commit of 40 hexadecimal digits, found {commit:?}");
            return Err(error(repository, None, why));
        }
        let names: Vec<&str> = listing
            .siblings
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        let first = wanted::by_name(&names, want).map_err(|why| error(repository, None, why))?;
        let snapshot = Snapshot {
            client: &self.client,
            cached,
            repository,
            commit,
        };
        let fetch = |wanted: &[&str]| {
            let entries = listing.siblings.iter();
            let entries = entries.filter(|entry| wanted.contains(&entry.name.as_str()));
            entries
                .into_iter()
                .try_for_each(|entry| snapshot.fetch(entry, progress))
        };
        let directory = cached.snapshot(commit);
        make_directory(&directory)?;
        fetch(&first)?;
        fetch(&wanted::named_inside(&directory, &names)?)?;
        if let Some(name) = wanted::missing(&directory, want)? {
            let why = "the index of shards names it, and the repository does not hold it";
            return Err(error(repository, Some(&name), why));
        }
        cached.set_commit(repository.revision(), commit)?;
        Ok(directory)
    }
}

/// The snapshot of `repository` in the cache, or why there is none that can be used.
fn here(cached: &Cached, repository: &Repository, want: Want) -> Result<Result<PathBuf, String>> {
    let folder = cached.folder().display();
    let Some(commit) = cached.commit(repository.revision()) else {
        return Ok(Err(format!(
            "{folder} does not hold this revision; pull it once while online"
        )));
    };
    let snapshot = cached.snapshot(&commit);
    Ok(match wanted::missing(&snapshot, want)? {
        None => Ok(snapshot),
        Some(name) => Err(format!(
            "{} lacks {name}; pull it once while online",
            snapshot.display()
        )),
    })
}

fn error(repository: &Repository, file: Option<&str>, why: impl Into<String>) -> Error {
    Error::Hub {
        repository: repository.to_string(),
        file: file.map(str::to_owned),
        why: why.into(),
    }
}
