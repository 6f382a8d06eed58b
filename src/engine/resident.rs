//! A resident: one generation of an adapter in memory, a [`Task`] with what identifies and describes it.
//!
//! Its generation is the content hash of its files: the same files are the same generation under any name, on any
//! machine. Who holds the `Arc` holds a lease: replacing or dropping names never takes it away.

use std::{ops::Deref, time::Duration};

use crate::model::Task;

/// One generation of an adapter, or the bare base.
#[derive(Debug)]
pub struct Resident {
    task: Task,
    generation: String,
    bytes: u64,
    load_time: Duration,
    selftest_rows: Option<usize>,
}

impl Resident {
    /// `task` as the generation of that name.
    pub fn new(task: Task, generation: String) -> Self {
        let bytes = task.heap_bytes() as u64;
        Self {
            task,
            generation,
            bytes,
            load_time: Duration::ZERO,
            selftest_rows: None,
        }
    }

    /// The same, with how long it took to make and how many rows of its self test were right.
    pub fn measured(mut self, load_time: Duration, selftest_rows: Option<usize>) -> Self {
        (self.load_time, self.selftest_rows) = (load_time, selftest_rows);
        self
    }

    /// Content hash of the files, in hexadecimal.
    pub fn generation(&self) -> &str {
        &self.generation
    }

    /// Heap bytes of its packed factors.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long reading, checking and packing took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Rows of its self test, all right; `None` where it brought none.
    pub fn selftest_rows(&self) -> Option<usize> {
        self.selftest_rows
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Its largest rank; 0 for the base.
    pub fn max_rank(&self) -> usize {
        self.ranks.iter().map(|(_, r)| *r).max().unwrap_or(0)
    }
}

impl Deref for Resident {
    type Target = Task;
    fn deref(&self) -> &Task {
        &self.task
    }
}
