//! What the hub says a file's content is: the SHA-256 of a large file, the git blob's SHA-1 of a small one.
//!
//! SHA-1 is git's choice. It finds damage; against somebody who can make collisions it is no protection.

use std::{fs::File, io::Read, path::Path};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A checksum, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Of the content.
    Sha256(String),
    /// SHA-1 of `blob <length>\0` and the content.
    GitBlob(String),
}

impl Checksum {
    /// The one that an ETag is, by its length; `None` where it is something else (a mirror's own tag).
    pub(super) fn of_etag(etag: &str) -> Option<Self> {
        let hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
        match (hex, etag.len()) {
            (true, 64) => Some(Self::Sha256(etag.to_lowercase())),
            (true, 40) => Some(Self::GitBlob(etag.to_lowercase())),
            _ => None,
        }
    }

    /// Why the file at `path` is not the expected one; `None` when it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn differs(&self, path: &Path) -> Result<Option<String>> {
        let file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let (kind, expected, found) = match self {
            Self::Sha256(hex) => ("SHA-256", hex, digest(Sha256::new(), file, path)?),
            Self::GitBlob(hex) => {
                let start = Sha1::new().chain_update(format!("blob {length}\0"));
                ("git SHA-1", hex, digest(start, file, path)?)
            }
        };
        let why = || format!("{kind} {found} of {length} bytes, expected {expected}");
        Ok((found != *expected).then(why))
    }
}

fn digest(mut state: impl Digest, mut file: File, path: &Path) -> Result<String> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer).map_err(Error::io(path))? {
            0 => break,
            n => state.update(&buffer[..n]),
        }
    }
    let bytes = state.finalize();
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_git_and_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object` and `sha256sum` of the same bytes.
        let tags = [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        ];
        for tag in tags {
            let checksum = Checksum::of_etag(tag).unwrap();
            assert_eq!(checksum.differs(&path).unwrap(), None);
        }
        std::fs::write(&path, "hellO\n").unwrap();
        for tag in tags {
            let why = Checksum::of_etag(tag).unwrap().differs(&path).unwrap();
            let why = why.unwrap();
            assert!(why.contains(tag) && why.contains("6 bytes"), "{why}");
        }
        assert_eq!(
            Checksum::of_etag("d41d8cd98f00b204e9800998ecf8427e-2"),
            None
        );
    }
}
