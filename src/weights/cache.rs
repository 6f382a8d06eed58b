//! The cache directory: where packed files live, and how processes share the work of building one.
//!
//! `$SORANK_CACHE`, else `$XDG_CACHE_HOME/sorank`, else `~/.cache/sorank`. A file's name is made from the identity of
//! the files it was packed from, so that it is found without reading them.
//!
//! A builder writes `KEY.building` under an exclusive lock, fsyncs it and renames it to `KEY.safetensors`. Others who
//! want the same file wait for the lock and then find the file. The system drops the lock with the process, so a
//! `.building` file that can be locked belongs to the dead: the next builder of that file starts it over, and every
//! builder sweeps away those of other files. Hence a kill at any moment leaves a whole file or a sweepable one.
//! A file system without locks counts as no cache.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{durable, sidecar, source::FileId};

const PACKED: &str = "safetensors";
const BUILDING: &str = "building";

/// How long a builder elsewhere may stand still before it is no longer waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The cache directory that the environment names, if it names one.
pub fn directory() -> Option<PathBuf> {
    directory_from(|name| std::env::var_os(name))
}

fn directory_from(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let var = |name: &str| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // A relative XDG path is to be ignored, says its specification; ours is the user's own word.
    var("SORANK_CACHE").or_else(|| {
        let xdg = var("XDG_CACHE_HOME").filter(|p| p.is_absolute());
        let home = || var("HOME").map(|p| p.join(".cache"));
        xdg.or_else(home).map(|p| p.join("sorank"))
    })
}

/// Path of the packed file made from `files` by `plan`.
pub(crate) fn path_of(dir: &Path, files: &[(String, FileId)], plan: &sidecar::Plan) -> PathBuf {
    let mut hash = blake3::Hasher::new();
    hash.update(plan.key().as_bytes());
    hash.update(plan.layout().as_bytes());
    for (name, id) in files {
        hash.update(name.as_bytes());
        for part in [id.device, id.inode, id.size, id.modified as u64] {
            hash.update(&part.to_le_bytes());
        }
    }
    let key = &hash.finalize().to_hex()[..32];
    dir.join(format!("{key}.{PACKED}"))
}

/// A packed file that this process alone may build.
#[derive(Debug)]
pub(crate) struct Building {
    file: File,
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Building {
    /// Claims the building of `target`; `None` when another process finished it meanwhile, as `whole` says.
    pub(crate) fn claim(target: &Path, whole: impl Fn() -> bool) -> io::Result<Option<Self>> {
        let path = target.with_extension(BUILDING);
        std::fs::create_dir_all(durable::directory_of(target))?;
        let mut seen = (0, Instant::now());
        let mut lost = 0;
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false) // it may be another's, who is writing it
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::Error(e)) => return Err(e),
                Err(TryLockError::WouldBlock) => {
                    let len = file.metadata()?.len();
                    if len != seen.0 {
                        seen = (len, Instant::now());
                    } else if seen.1.elapsed() > PATIENCE {
                        let why = "another process is building the file and makes no progress";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
            }
            // What was locked may have been renamed or swept since it was opened.
            let ours = FileId::of(&file.metadata()?);
            let there = std::fs::metadata(&path).map(|m| FileId::of(&m));
            if !there.is_ok_and(|t| (t.device, t.inode) == (ours.device, ours.inode)) {
                lost += 1;
                if lost > 1000 {
                    return Err(io::Error::other("files do not keep their identity here"));
                }
                continue;
            }
            let building = Self {
                file,
                path,
                target: target.to_owned(),
                done: false,
            };
            if whole() {
                return Ok(None); // dropping it removes the empty file
            }
            building.file.set_len(0)?;
            return Ok(Some(building));
        }
    }

    /// The file to write, empty and at its start.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the finished file its name, for good.
    pub(crate) fn finish(mut self) -> io::Result<File> {
        #[cfg(unix)]
        {
            // Others map this file: nobody should write to it again.
            use std::os::unix::fs::PermissionsExt;
            self.file
                .set_permissions(std::fs::Permissions::from_mode(0o444))?;
        }
        self.file.sync_all()?;
        std::fs::rename(&self.path, &self.target)?;
        self.done = true;
        durable::sync_directory(durable::directory_of(&self.target))?;
        self.file.unlock()?;
        self.file.try_clone()
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.done {
            // Still locked, so it is ours; if it cannot be removed it will be swept.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes what the dead left, and packed files of `origin`'s directory that `origin`'s files have taken the place of.
pub(crate) fn sweep(dir: &Path, kept: &Path, plan: &sidecar::Plan, origin: &sidecar::Origin) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        let dead = match path.extension().and_then(|e| e.to_str()) {
            Some(BUILDING) => File::open(&path).is_ok_and(|f| f.try_lock().is_ok()),
            Some(PACKED) if path != kept => superseded(&path, plan, origin).unwrap_or(false),
            _ => false,
        };
        if dead {
            tracing::debug!("removing {}", path.display());
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Whether the packed file at `path` holds the same plan for files of the same names, directory and file system
/// that are no longer there.
fn superseded(path: &Path, plan: &sidecar::Plan, now: &sidecar::Origin) -> Option<bool> {
    let file = File::open(path).ok()?;
    let map = super::packed::map_shared(&file).ok()?;
    let then = sidecar::check(&map, path).ok()?;
    let place = |o: &sidecar::Origin| -> Option<Vec<(String, u64)>> {
        let files = o.files.as_ref()?.iter();
        Some(files.map(|(name, id)| (name.clone(), id.device)).collect())
    };
    Some(
        then.plan == plan.key()
            && then.origin.directory == now.directory
            && place(&then.origin)? == place(now)?
            && then.origin.files != now.files,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_directory() {
        let from = |vars: &[(&str, &str)]| {
            let get = |name: &str| vars.iter().find(|v| v.0 == name).map(|v| v.1.into());
            directory_from(get).map(|p| p.display().to_string())
        };
        let home = ("HOME", "/home/a");
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(from(&[home]), some("/home/a/.cache/sorank"));
        assert_eq!(from(&[home, ("XDG_CACHE_HOME", "/x")]), some("/x/sorank"));
        assert_eq!(
            from(&[home, ("XDG_CACHE_HOME", "x")]),
            some("/home/a/.cache/sorank")
        );
        assert_eq!(from(&[home, ("SORANK_CACHE", "here")]), some("here"));
        assert_eq!(
            from(&[home, ("SORANK_CACHE", "")]),
            some("/home/a/.cache/sorank")
        );
        assert_eq!(from(&[]), None);
    }

    #[test]
    fn a_claim_is_exclusive_and_leaves_nothing_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("below/key.safetensors");
        let first = Building::claim(&target, || false).unwrap().unwrap();
        let path = first.path.clone();
        assert!(File::open(&path).unwrap().try_lock().is_err());
        drop(first);
        assert!(!path.exists());
        assert!(Building::claim(&target, || true).unwrap().is_none());
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_builders_file_is_started_over() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("key.safetensors");
        std::fs::write(target.with_extension(BUILDING), "half a file").unwrap();
        let mut building = Building::claim(&target, || false).unwrap().unwrap();
        io::Write::write_all(building.file(), b"whole").unwrap();
        building.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
