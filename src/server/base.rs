//! Whether the mapped files of the base are still what they were.
//!
//! A file that is cut or rewritten in place under a map would change answers, or end the process by SIGBUS. So the files
//! are looked at before and after every batch and by every probe: once one has changed, no answer is given any more, the
//! server says 503 and stays so until it is restarted. A file that was replaced by renaming another one over it is no
//! such case: the map keeps the old one. What a look cannot prevent is a file cut short while a batch reads it: that ends
//! the process, without an answer. Who cannot rule that out reads the base into private memory (`--no-mmap`).

use std::path::PathBuf;

use super::{batcher::Lost, options::Options};
use crate::{model::Model, weights::source::FileId};

/// The files that are mapped.
#[derive(Debug, Default)]
pub(super) struct Base {
    files: Vec<(PathBuf, FileId)>,
}

impl Base {
    pub(super) fn of(model: &Model, options: &Options) -> Self {
        if !options.base_is_mapped {
            return Self::default();
        }
        let checkpoint = model.tensors().files().unwrap_or_default().into_iter();
        let mut files: Vec<_> = checkpoint
            .map(|(name, id)| (model.source().path(&name), id))
            .collect();
        let packed = model.packed().path().map(PathBuf::from);
        files.extend(packed.and_then(|path| FileId::at(&path).map(|id| (path, id))));
        Self { files }
    }

    /// # Errors
    /// [`Lost::BaseChanged`]
    pub(super) fn check(&self) -> Result<(), Lost> {
        let changed = |(path, was): &(PathBuf, FileId)| {
            let same_file = |now: &FileId| (now.device, now.inode) == (was.device, was.inode);
            FileId::at(path)
                .filter(same_file)
                .is_some_and(|now| now != *was)
        };
        match self.files.iter().any(changed) {
            true => Err(Lost::BaseChanged),
            false => Ok(()),
        }
    }
}
