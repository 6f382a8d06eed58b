//! Reading a checkpoint's tensors by the names of a spec, remembering what was missing and what was used.

use std::{cell::RefCell, collections::BTreeSet};

use super::norm::Norm;
use crate::{
    error::{Error, Result},
    mat::Matrix,
    spec::EncoderSpec,
    weights::{Table, Tensors},
};

/// The checkpoint's own spelling of `name`, if it holds that tensor.
pub(super) fn find(tensors: &Tensors, spec: &EncoderSpec, name: &str) -> Option<String> {
    if tensors.get(name).is_some() {
        return Some(name.to_owned());
    }
    let alias = |(found, meant): &(&str, &str)| {
        let alias = format!("{}{found}", name.strip_suffix(meant)?);
        tensors.get(&alias).is_some().then_some(alias)
    };
    spec.names.aliases.iter().find_map(alias)
}

/// Reads tensors. A missing or wrong one reads as nothing, and [`Reader::finish`] reports all of them.
pub(super) struct Reader<'a> {
    tensors: &'a Tensors,
    spec: &'a EncoderSpec,
    prefix: &'static str,
    missing: RefCell<BTreeSet<String>>,
    used: RefCell<BTreeSet<String>>,
    wrong: RefCell<Option<Error>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(tensors: &'a Tensors, spec: &'a EncoderSpec) -> Self {
        let has = |prefix: &&&str| {
            find(
                tensors,
                spec,
                &format!("{prefix}{}.weight", spec.names.word),
            )
            .is_some()
        };
        let prefix = spec.names.prefixes.iter().find(has).copied().unwrap_or("");
        Self {
            tensors,
            spec,
            prefix,
            missing: RefCell::default(),
            used: RefCell::default(),
            wrong: RefCell::default(),
        }
    }

    /// What stands before the encoder's names in this checkpoint.
    pub(super) fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// Notes that `name` is needed with `shape`; the checkpoint's spelling of it where it is there and right.
    pub(super) fn expect(&self, name: &str, shape: &[usize]) -> Option<String> {
        let full = format!("{}{name}", self.prefix);
        let Some(found) = find(self.tensors, self.spec, &full) else {
            self.missing.borrow_mut().insert(full);
            return None;
        };
        self.used.borrow_mut().insert(found.clone());
        let tensor = self.tensors.get(&found)?;
        if tensor.shape != shape {
            self.wrong.borrow_mut().get_or_insert_with(|| Error::Shape {
                path: self.tensors.path().to_owned(),
                name: found,
                expected: format!("{shape:?} as the configuration says"),
                found: tensor.shape.to_vec(),
            });
            return None;
        }
        Some(found)
    }

    /// A vector of `n`; empty where there is none.
    pub(super) fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        let found = self.expect(name, &[n]);
        match found.and_then(|found| self.tensors.get(&found)) {
            // Complained of at the end, so that everything else is asked for before.
            Some(tensor) => tensor.values(&[n]).or_else(|error| {
                self.wrong.borrow_mut().get_or_insert(error);
                Ok(Vec::new())
            }),
            None => Ok(Vec::new()),
        }
    }

    /// A matrix, whole.
    pub(super) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Matrix>> {
        let found = self.expect(name, &[rows, cols]);
        let tensor = found.and_then(|found| self.tensors.get(&found));
        tensor.map(|tensor| tensor.matrix(rows, cols)).transpose()
    }

    /// A matrix whose rows are looked up where they lie.
    pub(super) fn table(&self, name: &str, rows: usize, cols: usize) -> Result<Option<Table>> {
        let found = self.expect(&format!("{name}.weight"), &[rows, cols]);
        let tensor = found.and_then(|found| self.tensors.get(&found));
        tensor.map(|tensor| tensor.table()).transpose()
    }

    /// A layer norm of width `n`.
    pub(super) fn norm(&self, name: &str, n: usize) -> Result<Norm> {
        let gamma = self.vector(&format!("{name}.weight"), n)?.into();
        let beta = match self.spec.embed.norm_bias {
            true => Some(self.vector(&format!("{name}.bias"), n)?.into()),
            false => None,
        };
        Ok(Norm {
            gamma,
            beta,
            eps: self.spec.norm_eps,
        })
    }

    /// The error that names what is missing so far.
    pub(super) fn missing_error(&self) -> Error {
        Error::Tensors {
            path: self.tensors.path().to_owned(),
            missing: self.missing.borrow().iter().cloned().collect(),
            unused: self.unused(),
        }
    }

    /// Tensors beside those that were used, under the same top-level modules: parts of an encoder that is
    /// not the one the configuration describes. Other modules (heads of other tasks) are not the encoder's.
    fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let top = |name: &str| {
            name.strip_prefix(self.prefix)?
                .split('.')
                .next()
                .map(str::to_owned)
        };
        let tops: BTreeSet<String> = used.iter().filter_map(|n| top(n)).collect();
        let ignored = |name: &str| {
            let inner = name.strip_prefix(self.prefix).unwrap_or(name);
            self.spec.names.ignored.iter().any(|i| inner.starts_with(i))
        };
        let inside = |name: &str| top(name).is_some_and(|t| tops.contains(&t));
        let names = self.tensors.names();
        names
            .filter(|n| !used.contains(*n) && !ignored(n) && inside(n))
            .map(str::to_owned)
            .collect()
    }

    /// All complaints at once.
    pub(super) fn finish(self) -> Result<()> {
        if !self.missing.borrow().is_empty() || !self.unused().is_empty() {
            return Err(self.missing_error());
        }
        self.wrong.into_inner().map_or(Ok(()), Err)
    }
}
