//! Names to tasks. A lookup hands out an `Arc`: whoever holds it keeps that task, whatever is replaced later.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock, RwLockReadGuard},
};

use crate::{
    error::{Error, Result},
    model::Task,
};

/// The tasks of one model.
#[derive(Debug)]
pub struct Registry {
    base: Arc<Task>,
    named: RwLock<BTreeMap<String, Arc<Task>>>,
}

impl Registry {
    /// A registry with the bare base and no adapter.
    pub fn new(base: Task) -> Self {
        Self {
            base: Arc::new(base),
            named: RwLock::default(),
        }
    }

    /// The task named `name`; the base for `None`.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`]: an unknown name is never answered by the base.
    pub fn get(&self, name: Option<&str>) -> Result<Arc<Task>> {
        let Some(name) = name else {
            return Ok(self.base.clone());
        };
        let named = self.read();
        named
            .get(name)
            .cloned()
            .ok_or_else(|| Error::UnknownAdapter {
                name: name.to_owned(),
                known: match named.is_empty() {
                    true => "none is loaded".to_owned(),
                    false => named.keys().cloned().collect::<Vec<_>>().join(", "),
                },
            })
    }

    /// Adds or replaces the task under `name`; what stood there before.
    pub fn insert(&self, name: &str, task: Task) -> Option<Arc<Task>> {
        let mut named = self
            .named
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        named.insert(name.to_owned(), Arc::new(task))
    }

    /// Every task with its name, in name order; not the base.
    pub fn list(&self) -> Vec<(String, Arc<Task>)> {
        self.read()
            .iter()
            .map(|(name, task)| (name.clone(), task.clone()))
            .collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Task>>> {
        // The map is replaced entry by entry: a panic cannot leave it half written.
        self.named
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
