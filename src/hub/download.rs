//! One file into the cache: from where an earlier download stopped, checked before it takes its name.
//!
//! A connection that breaks is taken up again where it stood, as long as each one brings something further. A process that
//! is killed leaves the blob's `.incomplete`, which the next one goes on with.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
};

use ureq::http::{StatusCode, header};

use super::{
    Progress, Repository,
    cache::{Cached, is_blob_name, make_directory},
    checksum::Checksum,
    client::{ATTEMPTS, Client, Entry, pause, text},
    error,
    refusal::Trouble,
};
use crate::{Error, Result, weights::durable};

/// A repository at a commit, on its way into the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snapshot<'a> {
    pub(super) client: &'a Client,
    pub(super) cached: &'a Cached,
    pub(super) repository: &'a Repository,
    pub(super) commit: &'a str,
}

/// Where a file comes from and what it must be.
struct Wanted<'a> {
    name: &'a str,
    url: String,
    size: Option<u64>,
    checksum: Option<Checksum>,
}

/// How one connection ended.
enum Pass {
    Whole,
    Cut(Trouble),
}

impl Snapshot<'_> {
    /// Puts a file into the cache and links it into the snapshot, unless it is there.
    pub(super) fn fetch(&self, entry: &Entry, progress: Progress<'_>) -> Result<()> {
        let name = entry.name.as_str();
        if self.cached.snapshot(self.commit).join(name).is_file() {
            return Ok(());
        }
        let url = self.client.url(self.repository, self.commit, name);
        let said = self
            .client
            .metadata(&url)
            .map_err(|t| self.trouble(&t, name))?;
        if let Some(other) = said.commit.filter(|commit| commit != self.commit) {
            let why = format!(
                "expected the file of commit {}, the hub gives that of {other}",
                self.commit
            );
            return Err(error(self.repository, Some(name), why));
        }
        let etag = said.etag.filter(|etag| is_blob_name(etag)).ok_or_else(|| {
            let why = "the hub, or the mirror at HF_ENDPOINT, sends no ETag that could name it in the cache";
            error(self.repository, Some(name), why)
        })?;
        let large = entry.lfs.as_ref().and_then(|large| large.sha256.as_deref());
        let listed = match (large, &entry.lfs) {
            (Some(sha256), _) => Checksum::of_etag(sha256),
            (None, None) => entry.git_blob.as_deref().and_then(Checksum::of_etag),
            (None, Some(_)) => None,
        };
        let wanted = Wanted {
            name,
            url,
            size: entry.size.or(said.size),
            checksum: listed.or_else(|| Checksum::of_etag(&etag)),
        };
        let _lock = self.cached.lock(&etag)?;
        let blob = self.cached.blob(&etag);
        let whole = |length| wanted.size.is_none_or(|size| size == length);
        if !std::fs::metadata(&blob).is_ok_and(|meta| whole(meta.len())) {
            make_directory(durable::directory_of(&blob))?;
            self.download(&wanted, &self.cached.incomplete(&etag), &blob, progress)?;
        }
        self.cached.link(self.commit, name, &etag)
    }

    fn trouble(&self, trouble: &Trouble, name: &str) -> Error {
        trouble.about(self.repository, Some(name), self.client.settings())
    }

    fn download(
        &self,
        wanted: &Wanted<'_>,
        incomplete: &Path,
        blob: &Path,
        progress: Progress<'_>,
    ) -> Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let mut file = options.open(incomplete).map_err(Error::io(incomplete))?;
        let mut have = file.metadata().map_err(Error::io(incomplete))?.len();
        let mut resumed = have > 0;
        loop {
            self.all(wanted, &mut file, &mut have, progress)
                .map_err(|e| e.at(incomplete))?;
            let wrong = wanted.checksum.as_ref().map(|sum| sum.differs(incomplete));
            let Some(why) = wrong.transpose()?.flatten() else {
                break;
            };
            // What an earlier process left may have been damaged since; what came just now is what the hub gives.
            cut(&mut file, &mut have, 0).map_err(Error::io(incomplete))?;
            if !resumed {
                std::fs::remove_file(incomplete).map_err(Error::io(incomplete))?;
                let why = format!(
                    "{why}: damaged on the way, or by a mirror; nothing of it was kept, run it again"
                );
                return Err(error(self.repository, Some(wanted.name), why));
            }
            resumed = false;
        }
        file.sync_all().map_err(Error::io(incomplete))?;
        std::fs::rename(incomplete, blob).map_err(Error::io(blob))?;
        durable::sync_directory(durable::directory_of(blob)).map_err(Error::io(blob))
    }

    /// Connection after connection until all of the file is here.
    fn all(
        &self,
        wanted: &Wanted<'_>,
        file: &mut File,
        have: &mut u64,
        progress: Progress<'_>,
    ) -> Result<(), Stopped> {
        let (mut failures, mut furthest) = (0, *have);
        while wanted.size != Some(*have) {
            match self.pass(wanted, file, have, progress)? {
                Pass::Whole => break,
                Pass::Cut(trouble) => {
                    failures = match *have > furthest {
                        true => 1,
                        false => failures + 1,
                    };
                    furthest = furthest.max(*have);
                    if failures >= ATTEMPTS || !trouble.may_pass() {
                        return Err(Stopped::Error(self.stopped(wanted, *have, &trouble)));
                    }
                    pause(failures, &trouble);
                }
            }
        }
        Ok(())
    }

    fn stopped(&self, wanted: &Wanted<'_>, have: u64, trouble: &Trouble) -> Error {
        if !trouble.may_pass() {
            return self.trouble(trouble, wanted.name);
        }
        let of = wanted
            .size
            .map_or(String::new(), |size| format!(" of {size}"));
        let why =
            format!("{have}{of} bytes have arrived and are kept, run it again to go on: {trouble}");
        error(self.repository, Some(wanted.name), why)
    }

    /// One connection's worth of bytes.
    fn pass(
        &self,
        wanted: &Wanted<'_>,
        file: &mut File,
        have: &mut u64,
        progress: Progress<'_>,
    ) -> Result<Pass, Stopped> {
        if wanted.size.is_some_and(|size| *have > size) {
            cut(file, have, 0)?; // left over from something else
        }
        let response = match self.client.bytes(&wanted.url, *have) {
            Ok(response) => response,
            Err(trouble) => return Ok(Pass::Cut(trouble)),
        };
        let lost = |why: &dyn std::fmt::Display| Ok(Pass::Cut(Trouble::lost(&wanted.url, why)));
        let range = text(response.headers(), header::CONTENT_RANGE.as_str()).unwrap_or_default();
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range.starts_with(&format!("bytes {have}-")) => {}
            StatusCode::OK => cut(file, have, 0)?, // from its beginning, whatever was asked for
            status => {
                cut(file, have, 0)?;
                return lost(&format!(
                    "HTTP {}, with the range {range:?}",
                    status.as_u16()
                ));
            }
        }
        file.seek(SeekFrom::Start(*have))?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return lost(&e),
            };
            if wanted.size.is_some_and(|size| *have + n as u64 > size) {
                cut(file, have, 0)?;
                let why = "longer than the hub says it is; nothing of it was kept";
                return Err(Stopped::Error(error(
                    self.repository,
                    Some(wanted.name),
                    why,
                )));
            }
            file.write_all(&buffer[..n])?;
            *have += n as u64;
            progress(wanted.name, *have, wanted.size);
        }
        match wanted.size.is_none_or(|size| size == *have) {
            true => Ok(Pass::Whole),
            false => lost(&"the connection ended early"),
        }
    }
}

/// Why a download ended: the file system's word, whose path is known further up, or a whole error.
enum Stopped {
    Io(std::io::Error),
    Error(Error),
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Stopped {
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Io(error) => Error::io(path)(error),
            Self::Error(error) => error,
        }
    }
}

/// Shortens the file to `length` bytes.
fn cut(file: &mut File, have: &mut u64, length: u64) -> std::io::Result<()> {
    *have = length;
    file.set_len(length)
}
