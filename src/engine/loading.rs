//! From an adapter's files to a resident that a name may be given to: hash, share, parse, bind, self test.

use std::{path::Path, sync::Arc, time::Instant};

use super::{
    Admitted, Answer, Engine, Request, Resident, Want, selftest::SelfTest, tags::Aggregation,
};
use crate::{
    adapter::{AdapterFiles, SELFTEST},
    error::{Error, Result},
    model::Level,
    text::Truncate,
};

/// A text that any adapter must have a finite answer to.
const PROBE: &str = "one probe before it serves";

impl Engine {
    /// The resident of `files`: the one that is there where the same files are in memory already, else a new one that
    /// answered a probe by finite numbers and whose self test, where it brings one, was right. No name is touched.
    /// Messages call its place `shown_as`.
    ///
    /// # Errors
    /// Anything that is wrong with the files, alone or for this base; [`Error::Overflow`]; [`Error::Format`] about
    /// `selftest.json`.
    pub fn prepare(&self, files: &AdapterFiles, shown_as: &Path) -> Result<Arc<Resident>> {
        let start = Instant::now();
        let generation = files.generation();
        if let Some(shared) = self.registry.find(&generation) {
            return Ok(shared);
        }
        let name = shown_as.to_string_lossy();
        let task = self.model.bind(&name, &files.adapter(shown_as)?)?;
        let resident = Arc::new(Resident::new(task, generation));
        self.probe(&resident)?;
        let mut right = None;
        if let Some(bytes) = &files.selftest {
            let path = shown_as.join(SELFTEST);
            let outcome = SelfTest::parse(bytes, &path)?.run(self, &resident, &path)?;
            if !outcome.problems.is_empty() {
                return Err(Error::format(&path, outcome.problems.join("; ")));
            }
            right = Some(outcome.right);
        }
        let resident = Arc::into_inner(resident).expect("the tests have let it go");
        Ok(Arc::new(resident.measured(start.elapsed(), right)))
    }

    /// Asks `resident` for its kind of answer to one text.
    fn probe(&self, resident: &Arc<Resident>) -> Result<()> {
        let want = match &resident.classifier {
            None => Want::Pooled,
            Some(c) if c.level == Level::Token => Want::Tags(Aggregation::None),
            Some(_) => Want::Classes,
        };
        let request = Request {
            text: PROBE,
            pair: None,
            adapter: None,
            want,
        };
        let row: Admitted = self.admit_to(resident, &request, Truncate::Right, &mut None)?;
        match self.run(&[row])[..] {
            [Answer::Overflow] => Err(Error::Overflow {
                task: resident.shown(),
            }),
            _ => Ok(()),
        }
    }
}
