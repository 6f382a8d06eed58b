//! What may stand where a directory may stand: a directory, or a repository of the Hugging Face hub, which is pulled.
//!
//! The one place that decides which: a directory that exists wins; what is shaped like `owner/name[@revision]` and is no
//! directory is a repository; anything else is a path, and its absence whoever opens it complains of.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::Failure;
#[cfg(feature = "hub")]
use super::progress::Download;
#[cfg(feature = "hub")]
use crate::hub::{Hub, Repository, Settings, Want};

/// What the command line said, and the directory that it turned out to be.
#[derive(Debug, Clone)]
pub(super) struct Place {
    given: PathBuf,
    found: OnceLock<PathBuf>,
}

impl From<OsString> for Place {
    fn from(given: OsString) -> Self {
        Self {
            given: given.into(),
            found: OnceLock::new(),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.given.display().fmt(f)
    }
}

impl Place {
    /// The directory of a base.
    pub(super) fn base(&self, quiet: bool) -> Result<&Path, Failure> {
        self.directory(Sought::Base, quiet)
    }

    /// The directory of an adapter.
    pub(super) fn adapter(&self, quiet: bool) -> Result<&Path, Failure> {
        self.directory(Sought::Adapter, quiet)
    }

    /// The directory of either.
    pub(super) fn either(&self, quiet: bool) -> Result<&Path, Failure> {
        self.directory(Sought::Either, quiet)
    }

    /// What to call it: the directory's name, or the repository's `owner/name`.
    pub(super) fn name(&self) -> String {
        #[cfg(feature = "hub")]
        if let Some(repository) = self.repository() {
            return repository.id().to_owned();
        }
        let path = self.given.canonicalize();
        let path = path.unwrap_or_else(|_| self.given.clone());
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// The path itself: no answer of the hub's is waited for.
    fn directory(&self, sought: Sought, quiet: bool) -> Result<&Path, Failure> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let found = self.find(sought, quiet)?;
        Ok(self.found.get_or_init(|| found))
    }
}

#[derive(Debug, Clone, Copy)]
enum Sought {
    Base,
    Adapter,
    Either,
}

#[cfg(not(feature = "hub"))]
impl Place {
    fn find(&self, _: Sought, _: bool) -> Result<PathBuf, Failure> {
        Ok(self.given.clone())
    }
}

#[cfg(feature = "hub")]
impl Place {
    fn repository(&self) -> Option<Repository> {
        match self.given.is_dir() {
            true => None,
            false => Repository::parse(self.given.to_str()?),
        }
    }

    fn find(&self, sought: Sought, quiet: bool) -> Result<PathBuf, Failure> {
        let Some(repository) = self.repository() else {
            return Ok(self.given.clone());
        };
        let want = match sought {
            Sought::Base => Want::Base,
            Sought::Adapter => Want::Adapter,
            Sought::Either => Want::Any,
        };
        pull(Settings::from_env()?, &repository, want, quiet).map_err(|error| {
            let why = "is no directory here, so it was looked for on the hub";
            Failure::Failed(format!("{self} {why}: {error}"))
        })
    }
}

/// Pulls a repository, with a bar for each file.
#[cfg(feature = "hub")]
pub(super) fn pull(
    settings: Settings,
    repository: &Repository,
    want: Want,
    quiet: bool,
) -> crate::Result<PathBuf> {
    let bar = Download::new(quiet);
    let hub = Hub::new(settings)?;
    hub.pull(repository, want, &|file, done, total| {
        bar.set(file, done, total);
    })
}

/// `NAME=DIR`
pub(super) fn named(arg: &str) -> Result<(String, Place), String> {
    match arg.split_once('=') {
        Some(("", _)) => Err("the name before '=' is empty".to_owned()),
        Some((_, "")) => Err("the directory after '=' is empty".to_owned()),
        Some((name, place)) => Ok((name.to_owned(), Place::from(OsString::from(place)))),
        None => Err("expected NAME=DIR".to_owned()),
    }
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_exists_is_never_looked_for_on_the_hub() {
        // Relative, since what is absolute is no repository's name: the crate's own src/cli.
        let here = Place::from(OsString::from("src/cli"));
        assert!(here.repository().is_none());
        assert_eq!(here.base(true).unwrap(), Path::new("src/cli"));
        assert_eq!(here.name(), "cli");
        let there = Place::from(OsString::from("owner/name@v1"));
        assert_eq!(there.name(), "owner/name");
        assert_eq!(there.to_string(), "owner/name@v1");
    }

    #[test]
    fn what_is_no_repository_stays_a_path() {
        for path in ["./owner/name", "/owner/name", "name", "a/b/c"] {
            let place = Place::from(OsString::from(path));
            assert_eq!(place.either(true).unwrap(), Path::new(path));
        }
    }
}
