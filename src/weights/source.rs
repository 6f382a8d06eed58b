//! Where a model's files come from: a directory, or files embedded in the binary.
//!
//! Two ways to read: [`Source::read`] for small files (configurations, tokenizers), with a size cap so that a
//! sparse giant cannot eat the memory, and [`Source::map`] for weights. Only regular files are opened: a FIFO
//! would block, a device never ends. Symlinks are followed, since the Hugging Face cache is made of them.
//!
//! Names come from code or, for shards, from an index file; a name that could leave the directory is refused.
#![allow(unsafe_code)] // memory maps

use std::{
    fs::File,
    io::Read,
    ops::Deref,
    path::{Component, Path, PathBuf},
};

use crate::{Error, Result};

/// The largest file that [`Source::read`] takes: the largest tokenizers are under 40 MB.
pub const READ_LIMIT: u64 = 256 << 20;

/// The largest file of weights that is opened: the largest encoders take 43 GB, and a sparse file costs nobody anything
/// until somebody reads it.
pub const WEIGHTS_LIMIT: u64 = 64 << 30;

/// Files that stand beside a model's weights and configuration and say how texts become its input and what is made of its
/// output: whoever writes the model anew copies them as they are.
pub const COMPANIONS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "sentencepiece.bpe.model",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
];

/// Files embedded in the binary, by name.
pub type Embedded = &'static [(&'static str, &'static [u8])];

/// Where a model's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory, as Hugging Face tools write it.
    Dir(PathBuf),
    /// Files embedded in the binary.
    Embedded(Embedded),
}

/// The bytes of a file.
#[derive(Debug)]
pub enum Bytes {
    /// A read-only memory map.
    Mapped(memmap2::Mmap),
    /// Part of the binary.
    Static(&'static [u8]),
    /// Read into memory.
    Heap(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Heap(bytes) => bytes,
        }
    }
}

/// What identifies the content of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified: i64,
}

impl Source {
    /// A directory.
    ///
    /// # Errors
    /// When `path` is not a directory.
    pub fn dir(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let meta = std::fs::metadata(&path).map_err(Error::io(&path))?;
        if !meta.is_dir() {
            return Err(Error::format(&path, "expected the directory of a model"));
        }
        Ok(Source::Dir(path))
    }

    /// The name of a file for messages; also its path where there is one.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Source::Dir(dir) => dir.join(name),
            Source::Embedded(_) => Path::new("<embedded>").join(name),
        }
    }

    /// The directory, unless the files are embedded.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Source::Dir(dir) => Some(dir),
            Source::Embedded(_) => None,
        }
    }

    /// The whole of a small file; `None` where there is no such file.
    ///
    /// # Errors
    /// When it is not a regular file, is larger than [`READ_LIMIT`], or cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.read_at_most(name, READ_LIMIT)
    }

    /// As [`Source::read`], of a file that has no business being larger than `limit` bytes.
    ///
    /// # Errors
    /// When it is not a regular file, is larger than `limit`, or cannot be read.
    pub fn read_at_most(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        if let Source::Embedded(files) = self {
            return Ok(find(files, name).map(<[u8]>::to_vec));
        }
        match self.open(name)? {
            Some((file, id)) => read_all(&file, id.size, limit, &self.path(name)).map(Some),
            None => Ok(None),
        }
    }

    /// A file as a memory map, with what identifies it; `None` where there is no such file.
    ///
    /// # Errors
    /// When it is not a regular file, is larger than [`WEIGHTS_LIMIT`], or cannot be mapped.
    pub fn map(&self, name: &str) -> Result<Option<(Bytes, Option<FileId>)>> {
        self.bytes(name, true)
    }

    /// As [`Source::map`], but read into memory: for file systems on which a mapped file may change under the reader.
    ///
    /// # Errors
    /// When it is not a regular file, is larger than [`WEIGHTS_LIMIT`], or cannot be read.
    pub fn load(&self, name: &str) -> Result<Option<(Bytes, Option<FileId>)>> {
        self.bytes(name, false)
    }

    fn bytes(&self, name: &str, map: bool) -> Result<Option<(Bytes, Option<FileId>)>> {
        if let Source::Embedded(files) = self {
            return Ok(find(files, name).map(|bytes| (Bytes::Static(bytes), None)));
        }
        let Some((file, id)) = self.open(name)? else {
            return Ok(None);
        };
        let path = self.path(name);
        if id.size > WEIGHTS_LIMIT {
            return Err(too_large(&path, id.size, WEIGHTS_LIMIT));
        }
        let bytes = if !map {
            Bytes::Heap(read_all(&file, id.size, WEIGHTS_LIMIT, &path)?)
        } else if id.size == 0 {
            Bytes::Heap(Vec::new()) // an empty map is an error on some systems
        } else {
            // SAFETY: the map is read-only and private to this process; that nobody changes the file in place
            // while it is mapped is the contract stated at the head of `weights/`.
            Bytes::Mapped(unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&path))?)
        };
        Ok(Some((bytes, Some(id))))
    }

    /// Opens a regular file of the directory.
    fn open(&self, name: &str) -> Result<Option<(File, FileId)>> {
        let path = self.path(name);
        let plain = |c: Component| matches!(c, Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(plain) {
            return Err(Error::format(
                &path,
                format!("{name:?} is not the name of a file inside the directory"),
            ));
        }
        // Asked before opening, since opening a FIFO waits for a writer.
        match std::fs::metadata(&path) {
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(Error::io(&path)(e)),
            Ok(meta) if !meta.is_file() => {
                return Err(Error::format(&path, "expected a regular file"));
            }
            Ok(_) => {}
        }
        let file = File::open(&path).map_err(Error::io(&path))?;
        let meta = file.metadata().map_err(Error::io(&path))?;
        Ok(Some((file, FileId::of(&meta))))
    }
}

impl FileId {
    /// Of the file that `path` means now; `None` where there is none.
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// Reads it from the metadata of an open file, so that it is the file that was read, whatever its name means later.
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        let since = |t: std::time::SystemTime| t.duration_since(std::time::UNIX_EPOCH).ok();
        let modified = meta.modified().ok().and_then(since);
        #[cfg(unix)]
        let (device, inode) = {
            use std::os::unix::fs::MetadataExt;
            (meta.dev(), meta.ino())
        };
        #[cfg(not(unix))]
        let (device, inode) = (0, 0);
        Self {
            device,
            inode,
            size: meta.len(),
            modified: modified
                .and_then(|d| i64::try_from(d.as_nanos()).ok())
                .unwrap_or(0),
        }
    }
}

fn absent(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(e.kind(), NotFound | NotADirectory)
}

fn find(files: Embedded, name: &str) -> Option<&'static [u8]> {
    files.iter().find(|f| f.0 == name).map(|f| f.1)
}

fn too_large(path: &Path, size: u64, limit: u64) -> Error {
    Error::format(
        path,
        format!("{size} bytes or more, expected at most {limit}"),
    )
}

/// The whole of `file`, which was `size` bytes when it was opened. A file that grows meanwhile is cut off at `limit`.
fn read_all(file: &File, size: u64, limit: u64, path: &Path) -> Result<Vec<u8>> {
    if size > limit {
        return Err(too_large(path, size, limit));
    }
    let mut bytes = Vec::new();
    // Asked for and not assumed: a sparse file may claim more than the machine has.
    let ask = usize::try_from(size).ok();
    if ask.is_none_or(|n| bytes.try_reserve_exact(n).is_err()) {
        return Err(Error::format(
            path,
            format!("{size} bytes do not fit in memory"),
        ));
    }
    let read = file
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    if read as u64 > limit {
        return Err(too_large(path, read as u64, limit));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("model");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::write(inside.join("config.json"), "{}").unwrap();
        let source = Source::dir(&inside).unwrap();
        for name in ["../secret", "/etc/hostname", "", ".", "a/../../secret"] {
            let error = source.read(name).unwrap_err().to_string();
            assert!(error.contains("inside the directory"), "{name}: {error}");
        }
        assert_eq!(source.read("config.json").unwrap().unwrap(), b"{}");
        assert!(source.read("absent.json").unwrap().is_none());
        assert!(source.read("config.json/below").unwrap().is_none());
        assert!(Source::dir(inside.join("config.json")).is_err());
        assert!(Source::dir(inside.join("absent")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_loops_devices_and_fifos_refused() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("blob"), "hello").unwrap();
        symlink("blob", at("link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        let source = Source::dir(dir.path()).unwrap();
        assert_eq!(source.read("link").unwrap().unwrap(), b"hello");
        assert_eq!(&*source.map("link").unwrap().unwrap().0, b"hello");
        assert_eq!(&*source.load("link").unwrap().unwrap().0, b"hello");
        for name in ["loop", "zero", "sub"] {
            let error = source.read(name).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            assert!(source.map(name).is_err());
        }
        std::process::Command::new("mkfifo")
            .arg(at("pipe"))
            .status()
            .unwrap();
        assert!(source.read("pipe").is_err());
    }

    #[test]
    fn a_sparse_giant_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("config.json")).unwrap();
        file.set_len(1 << 40).unwrap();
        let source = Source::dir(dir.path()).unwrap();
        let error = source.read("config.json").unwrap_err().to_string();
        assert!(error.contains("1099511627776 bytes"), "{error}");
    }

    #[test]
    fn embedded_files_are_found_by_name() {
        let source = Source::Embedded(&[("config.json", b"{}")]);
        assert_eq!(source.read("config.json").unwrap().unwrap(), b"{}");
        assert!(source.map("model.safetensors").unwrap().is_none());
        let (bytes, id) = source.map("config.json").unwrap().unwrap();
        assert!(matches!(bytes, Bytes::Static(b"{}")) && id.is_none());
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let source = Source::dir(dir.path()).unwrap();
        assert!(source.map("x").unwrap().unwrap().0.is_empty());
    }
}
