//! The cache on disk, in the layout of Python's `huggingface_hub`, so that either uses what the other has downloaded.
//!
//! ```text
//! models--owner--name/refs/main               the commit that the branch was at
//! models--owner--name/blobs/<etag>            contents, by the hub's checksum
//! models--owner--name/snapshots/<commit>/...  links to them under their names
//! .locks/models--owner--name/<etag>.lock      flock'ed while a blob is written
//! ```
//!
//! A blob takes its name when it is whole and checked, never before. What a download has got so far is `<etag>.incomplete`.

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
};

use super::repo::{Repository, is_inside};
use crate::{Error, Result, weights::durable};

/// The directory of one repository in the cache.
#[derive(Debug)]
pub(super) struct Cached {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cached {
    pub(super) fn new(cache: &Path, repository: &Repository) -> Self {
        let name = format!("models--{}", repository.id().replace('/', "--"));
        Self {
            folder: cache.join(&name),
            locks: cache.join(".locks").join(&name),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The directory of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that `revision` was at when it was last pulled, or is; `None` where nothing of it is here.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        let reference = self.folder.join("refs").join(revision);
        let commit = match std::fs::read_to_string(reference) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => revision.to_owned(),
        };
        (is_commit(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Records that `revision` is at `commit`.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let reference = self.folder.join("refs").join(revision);
        make_directory(durable::directory_of(&reference))?;
        durable::replace(&reference, |out| {
            out.write_all(commit.as_bytes())
                .map_err(Error::io(&reference))
        })
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Keeps other processes from writing the same blob until the file is dropped; waits for one that does.
    pub(super) fn lock(&self, etag: &str) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_directory(&self.locks)?;
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path);
        let file = file.map_err(Error::io(&path))?;
        if file.try_lock().is_err() {
            tracing::warn!("waiting for another process that downloads the same file");
            file.lock().map_err(Error::io(&path))?;
        }
        Ok(file)
    }

    /// Gives the blob its name in the snapshot.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        make_directory(durable::directory_of(&path))?;
        #[cfg(unix)]
        {
            // Relative, so that the cache can be moved: out of the file's directory and snapshots/<commit>.
            let up = "../".repeat(2 + name.matches('/').count());
            let target = format!("{up}blobs/{etag}");
            let new = path.with_file_name(format!(".{etag}.{}", std::process::id()));
            let linked = std::os::unix::fs::symlink(&target, &new)
                .and_then(|()| std::fs::rename(&new, &path));
            linked.map_err(Error::io(&path))
        }
        #[cfg(not(unix))]
        {
            let new = path.with_extension("part");
            let copied =
                std::fs::copy(self.blob(etag), &new).and_then(|_| std::fs::rename(&new, &path));
            copied.map_err(Error::io(&path))
        }
    }
}

pub(super) fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(path))
}

/// Whether the hub's word for a commit is one: it becomes a directory's name.
pub(super) fn is_commit(text: &str) -> bool {
    const DIGITS: usize = 40;
    text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether an ETag can be a blob's name.
pub(super) fn is_blob_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= 128 && is_inside(text) && text.chars().all(plain) && !text.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cached(dir: &Path) -> Cached {
        Cached::new(dir, &Repository::parse("owner/name").unwrap())
    }

    #[test]
    fn a_link_is_relative_at_any_depth_and_replaces_a_dangling_one() {
        let dir = tempfile::tempdir().unwrap();
        let cached = cached(dir.path());
        make_directory(durable::directory_of(&cached.blob("x"))).unwrap();
        std::fs::write(cached.blob("x"), "hello").unwrap();
        cached.link(COMMIT, "config.json", "gone").unwrap();
        for name in ["config.json", "1_Pooling/config.json"] {
            cached.link(COMMIT, name, "x").unwrap();
            let read = std::fs::read_to_string(cached.snapshot(COMMIT).join(name)).unwrap();
            assert_eq!(read, "hello");
        }
        #[cfg(unix)]
        assert!(
            std::fs::read_link(cached.snapshot(COMMIT).join("config.json"))
                .unwrap()
                .is_relative()
        );
    }

    #[test]
    fn a_branch_is_where_it_was_left_and_a_commit_is_itself() {
        let dir = tempfile::tempdir().unwrap();
        let cached = cached(dir.path());
        assert_eq!(cached.commit("main"), None);
        make_directory(&cached.snapshot(COMMIT)).unwrap();
        cached.set_commit("refs/pr/1", COMMIT).unwrap();
        for revision in ["refs/pr/1", COMMIT] {
            assert_eq!(cached.commit(revision).as_deref(), Some(COMMIT));
        }
        assert_eq!(cached.commit("main"), None);
        let other = dir.path().join("models--owner--name/refs/evil");
        std::fs::write(other, "../../../etc").unwrap();
        assert_eq!(cached.commit("evil"), None);
    }

    #[test]
    fn a_blob_name_is_no_path() {
        assert!(is_blob_name("d41d8cd98f-2") && !is_blob_name("../x") && !is_blob_name(""));
        assert!(!is_blob_name("a/b") && !is_blob_name(".hidden") && !is_blob_name("W/\"x\""));
    }
}
