//! Replacing a file so that a crash at any moment leaves the old one or the whole new one.
//!
//! The new content goes to a temporary file in the same directory, is fsynced, takes the name by rename, and the
//! directory is fsynced too. Any failure before the rename removes the temporary file. A process that is killed
//! outright may leave `.NAME.*.tmp` behind, never a file of the name itself that is not whole.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::{Error, Result};

/// Replaces the file at `path` by what `write` writes.
///
/// # Errors
/// When the directory cannot be written or the disk is full, and those of `write`; the old file stands then.
pub fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let dir = directory_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut builder = tempfile::Builder::new();
    let prefix = format!(".{name}.");
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        // What an ordinary new file gets (the umask applies), not the private mode of temporary files.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let temp = builder.tempfile_in(dir).map_err(Error::io(path))?;
    let mut out = BufWriter::with_capacity(1 << 20, temp);
    write(&mut out)?;
    let temp = out
        .into_inner()
        .map_err(|e| Error::io(path)(e.into_error()))?;
    temp.as_file().sync_all().map_err(Error::io(path))?;
    temp.persist(path).map_err(|e| Error::io(path)(e.error))?;
    sync_directory(dir).map_err(Error::io(path))
}

/// Makes the directory `path`, which must not exist, with what `fill` puts into it: all of it or nothing.
///
/// # Errors
/// When something stands at `path`, or the disk cannot be written, and those of `fill`; nothing is left then.
pub fn directory(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::format(
            path,
            "exists already; nothing is overwritten",
        ));
    }
    let parent = directory_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let temp = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".tmp")
        .tempdir_in(parent)
        .map_err(Error::io(path))?;
    // What is inside is made by the ordinary calls, so the umask applies; the temporary directory itself is private.
    let inside = temp.path().join("new");
    std::fs::create_dir(&inside).map_err(Error::io(path))?;
    fill(&inside)?;
    publish(&inside, path)
}

/// Gives the directory `made`, which is on the same disk, the name `path`, which nothing has: after all that is below it
/// has been made to last.
///
/// # Errors
/// What the file system says.
pub fn publish(made: &Path, path: &Path) -> Result<()> {
    sync_tree(made).map_err(Error::io(path))?;
    std::fs::rename(made, path).map_err(Error::io(path))?;
    sync_directory(directory_of(path)).map_err(Error::io(path))
}

/// Makes everything below `dir` last.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
        }
    }
    sync_directory(dir)
}

/// The directory of a path, `.` for a bare name.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Makes a rename in `dir` last. Systems that cannot open a directory as a file do without.
pub(crate) fn sync_directory(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, "old").unwrap();
        let failed = replace(&path, |out| {
            out.write_all(b"half of").map_err(Error::io(&path))?;
            Err(Error::EmptyInput)
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        replace(&path, |out| out.write_all(b"new").map_err(Error::io(&path))).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn the_new_file_is_readable_like_any_other() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|n| dir.path().join(n));
        std::fs::write(&theirs, "x").unwrap();
        replace(&ours, |out| out.write_all(b"x").map_err(Error::io(&ours))).unwrap();
        let mode = |p| std::fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&theirs));
    }

    #[test]
    fn a_directory_comes_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("below/merged");
        let failed = directory(&out, |new| {
            std::fs::write(new.join("half"), "x").unwrap();
            Err(Error::EmptyInput)
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read_dir(out.parent().unwrap()).unwrap().count(), 0);
        let fill = |new: &Path| {
            std::fs::create_dir(new.join("1_Pooling")).unwrap();
            std::fs::write(new.join("1_Pooling/config.json"), "{}").map_err(Error::io(new))
        };
        directory(&out, fill).unwrap();
        assert!(out.join("1_Pooling/config.json").is_file());
        assert_eq!(std::fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);
        assert!(
            directory(&out, fill)
                .unwrap_err()
                .to_string()
                .contains("exists already")
        );
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = replace(Path::new("no-such-directory/x"), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no-such-directory"), "{error}");
    }
}
