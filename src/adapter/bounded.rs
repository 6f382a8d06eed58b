//! Reading a whole file with a ceiling on its size.
//!
//! Adapter files are small and are read to the heap, never mapped: a file that is cut short or rewritten
//! while it is served then cannot change or fault an answer. Only regular files are opened, since opening a
//! pipe would wait for ever and a device has no end.

use std::{fs::File, io::Read, path::Path};

use crate::{Error, Result};

/// The most bytes of a configuration or label file.
pub(super) const MAX_CONFIG: u64 = 1 << 20;
/// The most bytes of a weight file.
pub(super) const MAX_WEIGHTS: u64 = 2 << 30;

/// Whether there is something at `path`. What cannot be known (a link that leads to itself, a directory that may not be
/// entered) is an error: a file that is there and passed over would change an answer in silence.
pub(super) fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::io(path))
}

/// The bytes of the regular file at `path`; more than `max` of them is an error.
pub(super) fn read(path: &Path, max: u64) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(Error::io(path))?;
    if !meta.is_file() {
        return Err(Error::format(path, "expected a regular file"));
    }
    let too_long = |found: u64| {
        Error::format(
            path,
            format!("{found} bytes, and at most {max} are read of such a file"),
        )
    };
    if meta.len() > max {
        return Err(too_long(meta.len()));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    // The file may have grown since: one byte past the ceiling tells.
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    if bytes.len() as u64 > max {
        return Err(too_long(bytes.len() as u64));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_holds_for_sparse_giants_and_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("giant");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let message = read(&path, MAX_WEIGHTS).unwrap_err().to_string();
        assert!(message.contains("1099511627776 bytes"), "{message}");
        let message = read(dir.path(), 10).unwrap_err().to_string();
        assert!(message.contains("regular file"), "{message}");
        std::fs::write(&path, b"0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        assert!(read(&path, 9).is_err());
    }
}
