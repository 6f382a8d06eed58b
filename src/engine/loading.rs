//! From an adapter's files to a resident that a name may be given to: hash, share, parse, bind, self test.

use std::{path::Path, sync::Arc, time::Instant};

use super::{Engine, Resident, selftest::SelfTest};
use crate::{
    adapter::{AdapterFiles, SELFTEST},
    error::{Error, Result},
};

impl Engine {
    /// The resident of `files`: the one that is there where the same files are in memory already, else a new one whose
    /// self test, where it brings one, was right. No name is touched. Messages call its place `shown_as`.
    ///
    /// # Errors
    /// Anything that is wrong with the files, alone or for this base; [`Error::Format`] about `selftest.json`.
    pub fn prepare(&self, files: &AdapterFiles, shown_as: &Path) -> Result<Arc<Resident>> {
        let start = Instant::now();
        let generation = files.generation();
        if let Some(shared) = self.registry.find(&generation) {
            return Ok(shared);
        }
        let name = shown_as.to_string_lossy();
        let task = self.model.bind(&name, &files.adapter(shown_as)?)?;
        let resident = Resident::new(task, generation);
        let Some(bytes) = &files.selftest else {
            return Ok(Arc::new(resident.measured(start.elapsed(), None)));
        };
        let path = shown_as.join(SELFTEST);
        let resident = Arc::new(resident);
        let outcome = SelfTest::parse(bytes, &path)?.run(self, &resident, &path)?;
        if !outcome.problems.is_empty() {
            return Err(Error::format(&path, outcome.problems.join("; ")));
        }
        let resident = Arc::into_inner(resident).expect("the self test has let it go");
        Ok(Arc::new(
            resident.measured(start.elapsed(), Some(outcome.right)),
        ))
    }
}
