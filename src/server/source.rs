//! Where an adapter's files may be read from, and reading them so that nobody can trick the server into another file.
//!
//! A place is written as text (`root:many/03`), because it is kept in the state file and read back after a restart:
//! `root:` is below the root that clients may name, `dir:` a subdirectory of the resolver's directory or store, `path:` what
//! the operator named at start, `url:` an object store. Clients never see it.
//!
//! Below a root, a path is resolved first and opened after; then what was opened is compared with what the path means
//! now (device and inode), so a link swapped in between is noticed. A file with more than one hard link is refused: where
//! its other names are cannot be known.

use std::{
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
};

use super::{
    failure::{Failure, Kind, of_adapter},
    options::Options,
    store,
};
use crate::{Error, adapter::AdapterFiles};

/// Places that adapters may come from.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    root: Option<PathBuf>,
    dir: Option<PathBuf>,
    stores: Vec<String>,
    max_bytes: u64,
}

impl Sources {
    pub(super) fn new(options: &Options) -> Self {
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        Self {
            root: options.adapter_root.as_ref().map(real),
            dir: options.adapter_dir.as_ref().map(real),
            stores: options.adapter_stores.clone(),
            max_bytes: options.max_adapter_file_bytes,
        }
    }

    /// The place that a client means by `path`.
    pub(super) fn of_client(&self, path: &str) -> Result<String, Failure> {
        if path.contains("://") {
            return match store::allowed(path, &self.stores) {
                true => Ok(format!("url:{path}")),
                false => Err(forbidden()),
            };
        }
        let Some(root) = &self.root else {
            return Err(forbidden());
        };
        let path = Path::new(path);
        // What is spelled as below the root is looked at as such; any other absolute path and any `..` is not.
        let below = path.strip_prefix(root).unwrap_or(path);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        let inside = below.components().all(plain) && below.components().next().is_some();
        match below.to_str().filter(|_| inside) {
            Some(below) => Ok(format!("root:{below}")),
            None => Err(forbidden()),
        }
    }

    /// The place of `name` in the resolver's directory, if it has one; in its store, where it is not looked up before it
    /// is read.
    pub(super) fn resolver(&self, name: &str) -> Option<String> {
        let dir = self.dir.as_ref()?;
        let one = Path::new(name).components().count() == 1 && !name.contains('/');
        let there = one && (self.dir_url().is_some() || dir.join(name).is_dir());
        there.then(|| format!("dir:{name}"))
    }

    /// The resolver's store, where it is one.
    fn dir_url(&self) -> Option<&str> {
        let dir = self.dir.as_ref()?.to_str()?;
        dir.contains("://").then(|| dir.trim_end_matches('/'))
    }

    /// The files at `place`; messages call them by `name`.
    pub(super) fn read(&self, place: &str, name: &str) -> Result<AdapterFiles, Failure> {
        let shown = Path::new(name);
        let below = |root: &Option<PathBuf>, path: &str| {
            let root = root.as_deref().ok_or_else(forbidden)?;
            self.read_below(root, path, shown)
        };
        match place.split_once(':') {
            Some(("root", path)) => below(&self.root, path),
            Some(("dir", path)) => match self.dir_url() {
                Some(url) => store::read(&format!("{url}/{path}"), shown, self.max_bytes),
                None => below(&self.dir, path),
            },
            Some(("url", url)) if store::allowed(url, &self.stores) => {
                store::read(url, shown, self.max_bytes)
            }
            Some(("built-in", built_in)) => {
                let mut all = crate::embedded::adapters().into_iter();
                let found = all.find(|(name, _)| *name == built_in);
                found.map(|(_, files)| files).ok_or_else(forbidden)
            }
            Some(("path", path)) => AdapterFiles::read(Path::new(path)).map_err(|e| of_adapter(&e)),
            _ => Err(forbidden()),
        }
    }

    fn read_below(&self, root: &Path, path: &str, shown: &Path) -> Result<AdapterFiles, Failure> {
        let missing = || Failure::new(Kind::AdapterNotFound, "there is no adapter at this path");
        let dir = root.join(path).canonicalize().map_err(|_| missing())?;
        if !dir.starts_with(root) {
            return Err(forbidden());
        }
        if !dir.is_dir() {
            return Err(missing());
        }
        let mut refused = None;
        let files = AdapterFiles::read_with(shown, |file, max| {
            let max = max.min(self.max_bytes);
            match read_file(root, &dir.join(file), max, file) {
                Ok(bytes) => Ok(bytes),
                Err(failure) => {
                    refused = Some(failure);
                    Err(Error::EmptyInput) // replaced below by what was refused
                }
            }
        });
        files.map_err(|error| refused.unwrap_or_else(|| of_adapter(&error)))
    }
}

fn forbidden() -> Failure {
    let why = "adapters may not be loaded from this place";
    Failure::new(Kind::PathForbidden, why)
}

/// The regular file at `path`, which must be below `root`; `None` where there is none.
fn read_file(root: &Path, path: &Path, max: u64, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    let changed = || {
        Failure::new(
            Kind::FileChanged,
            format!("{name} changed while it was read"),
        )
    };
    let unreadable = || Failure::new(Kind::InvalidAdapter, format!("{name} cannot be read"));
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let real = path.canonicalize().map_err(|_| unreadable())?;
    if !real.starts_with(root) {
        return Err(forbidden());
    }
    let meta = real.symlink_metadata().map_err(|_| unreadable())?;
    if !meta.is_file() {
        let why = format!("{name}: expected a regular file");
        return Err(Failure::new(Kind::InvalidAdapter, why));
    }
    let file = open(&real).map_err(|_| unreadable())?;
    let opened = file.metadata().map_err(|_| unreadable())?;
    let again = path.canonicalize().map_err(|_| changed())?;
    let now = again.symlink_metadata().map_err(|_| changed())?;
    if !opened.is_file() || again != real || identity(&opened) != identity(&now) {
        return Err(changed());
    }
    if links(&opened) > 1 {
        return Err(Failure::new(
            Kind::PathForbidden,
            format!("{name} has several hard links; copy it instead"),
        ));
    }
    let too_large = || {
        let why = format!("{name} has more than {max} bytes");
        Failure::new(Kind::FileTooLarge, why)
    };
    if opened.len() > max {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(opened.len() as usize);
    // One byte past the limit tells a file that has grown since.
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|_| unreadable())?;
    match bytes.len() as u64 {
        n if n > max => Err(too_large()),
        n if n != opened.len() => Err(changed()),
        _ => Ok(Some(bytes)),
    }
}

/// Opens without waiting, should a pipe have taken the file's place.
#[cfg(target_os = "linux")]
fn open(path: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(open(path, flags, Mode::empty())?))
}

#[cfg(not(target_os = "linux"))]
fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

#[cfg(not(unix))]
fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    (meta.len(), 0)
}

#[cfg(unix)]
fn links(meta: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    meta.nlink()
}

#[cfg(not(unix))]
fn links(_: &std::fs::Metadata) -> u64 {
    1
}
