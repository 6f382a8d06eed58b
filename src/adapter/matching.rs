//! Which modules a PEFT configuration names: targets, exclusions, layer choices, and the per-module patterns of
//! rank and alpha.
//!
//! PEFT matches with Python's `re`, and the rules differ by key:
//! - `target_modules`, `exclude_modules` as a list: the path itself, or a suffix of it after a dot; as a string:
//!   `re.fullmatch`, but `"all-linear"` is every linear module.
//! - `rank_pattern`, `alpha_pattern`: the first key in file order with `re.match(r"(.*\.)?(KEY)$", path)`. A key is
//!   a regular expression even when it looks like a path, so its dots match any character.
//! - `layers_to_transform`: only for suffix hits of a list; the index is the first number between dots.
//!
//! Keys of plain letters, digits, `_`, `-` and `.` are compared without an engine; the rest is compiled (`expression`).
//! Knows nothing of any base: paths are strings.

use std::collections::BTreeSet;

use super::expression::{Compiler, Expression};

/// How many entries of one pattern table may need the engine.
const MAX_EXPRESSIONS: usize = 256;
/// How many entries one pattern table may have.
const MAX_ENTRIES: usize = 8192;

/// Which linear modules a configuration says it adapts.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    /// `target_modules`; `None`: every linear module.
    include: Option<Selector>,
    /// `exclude_modules`
    exclude: Option<Selector>,
    /// `modules_to_save`, which are never adapted.
    saved: Vec<String>,
    /// `layers_to_transform`
    layers: Option<Layers>,
    /// Modules that are targeted and of whose ranks nothing is left: no tensors of them are to be missed.
    pruned: BTreeSet<String>,
}

/// A list of suffixes or a regular expression over whole paths.
#[derive(Debug, Clone)]
pub(super) enum Selector {
    /// Paths and no suffixes of them: for adapters that sorank itself made.
    Exact(BTreeSet<String>),
    Suffixes(BTreeSet<String>),
    Whole(Expression),
}

/// A choice of layers by index.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    indexes: BTreeSet<i64>,
    /// Each has a group `idx`; the first that matches a path gives its index.
    patterns: Vec<Expression>,
}

impl Targets {
    /// Targets as a configuration spells them; `include: None` is every linear module.
    pub(super) fn new(
        include: Option<Selector>,
        exclude: Option<Selector>,
        saved: Vec<String>,
        layers: Option<Layers>,
    ) -> Self {
        Self {
            include,
            exclude,
            saved,
            layers,
            pruned: BTreeSet::new(),
        }
    }

    /// These paths, and nothing else.
    pub fn exactly(paths: impl IntoIterator<Item = String>) -> Self {
        Self {
            include: Some(Selector::Exact(paths.into_iter().collect())),
            ..Self::default()
        }
    }

    /// The same targets without `paths`, whose ranks were all pruned away.
    pub(super) fn without(self, paths: BTreeSet<String>) -> Self {
        Self {
            pruned: paths,
            ..self
        }
    }

    /// Whether the configuration targets the linear module at `path` (without `base_model.model.`).
    ///
    /// For `"all-linear"` this is true of every path that is not excluded or saved whole, heads included:
    /// what is a head is known at bind.
    pub fn matches(&self, path: &str) -> bool {
        if self.pruned.contains(path)
            || self.exclude.as_ref().is_some_and(|e| e.hits(path))
            || self
                .saved
                .iter()
                .any(|module| contains_module(path, module))
        {
            return false;
        }
        match &self.include {
            None => true,
            Some(Selector::Suffixes(list)) if list.contains(path) => true,
            Some(selector) => {
                selector.hits(path) && self.layers.as_ref().is_none_or(|l| l.hits(path))
            }
        }
    }

    /// Bytes of the compiled expressions that a path is matched against.
    pub(super) fn compiled(&self) -> usize {
        let selectors = [&self.include, &self.exclude].into_iter().flatten();
        let selected: usize = selectors.map(Selector::compiled).sum();
        let layers = self.layers.iter().flat_map(|l| &l.patterns);
        selected + layers.map(|p| p.size).sum::<usize>()
    }

    /// Whether every linear module is targeted, so that one without tensors is no sign of a fault.
    pub fn is_everything(&self) -> bool {
        self.include.is_none()
    }
}

/// Whether `module` names `path` or a module that contains it.
fn contains_module(path: &str, module: &str) -> bool {
    path.match_indices(module).any(|(at, _)| {
        let end = at + module.len();
        (at == 0 || path.as_bytes()[at - 1] == b'.')
            && (end == path.len() || path.as_bytes()[end] == b'.')
    })
}

impl Selector {
    /// A list of paths or suffixes of paths.
    pub(super) fn list(names: Vec<String>) -> Self {
        Self::Suffixes(names.into_iter().collect())
    }

    /// A regular expression over whole paths, in Python's dialect.
    pub(super) fn expression(pattern: &str) -> Result<Self, String> {
        Expression::new(pattern, r"\A(?:", r")\z").map(Self::Whole)
    }

    fn compiled(&self) -> usize {
        match self {
            Self::Exact(_) | Self::Suffixes(_) => 0,
            Self::Whole(expression) => expression.size,
        }
    }

    fn hits(&self, path: &str) -> bool {
        match self {
            Self::Exact(list) => list.contains(path),
            Self::Suffixes(list) => suffixes(path).any(|s| list.contains(s)),
            Self::Whole(expression) => expression.regex.is_match(path),
        }
    }
}

/// `a.b.c`, `b.c`, `c`
fn suffixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::once(path).chain(path.match_indices('.').map(|(at, _)| &path[at + 1..]))
}

impl Layers {
    /// The layers of `indexes`, found by `patterns`, or anywhere where there are none.
    pub(super) fn new(indexes: BTreeSet<i64>, patterns: &[String]) -> Result<Self, String> {
        let patterns = if patterns.is_empty() {
            vec![Expression::new(
                r"[^.]*",
                r"\A.*?\.(?:",
                r")\.(?P<idx>[0-9]+)\.",
            )?]
        } else if patterns.len() > MAX_EXPRESSIONS {
            return Err(format!(
                "{} patterns, at most {MAX_EXPRESSIONS}",
                patterns.len()
            ));
        } else {
            let compile =
                |p: &String| Expression::new(p, r"\A(?:|.*?\.)(?:", r")\.(?P<idx>[0-9]+)\.");
            patterns.iter().map(compile).collect::<Result<_, _>>()?
        };
        Ok(Self { indexes, patterns })
    }

    fn hits(&self, path: &str) -> bool {
        let index = self
            .patterns
            .iter()
            .find_map(|p| p.regex.captures(path)?.name("idx"));
        index
            .and_then(|i| i.as_str().parse().ok())
            .is_some_and(|i| self.indexes.contains(&i))
    }
}

/// Values by pattern of module path: `rank_pattern` or `alpha_pattern`.
#[derive(Debug, Clone)]
pub(super) struct Patterns<T> {
    entries: Vec<(Key, String, T)>,
}

#[derive(Debug, Clone)]
enum Key {
    /// Letters, digits, `_`, `-`, and dots that match any character.
    Plain,
    Expression(Expression),
}

impl<T> Patterns<T> {
    /// Compiles the keys of `entries`, in file order.
    pub(super) fn new(entries: Vec<(String, T)>) -> Result<Self, String> {
        if entries.len() > MAX_ENTRIES {
            return Err(format!("{} entries, at most {MAX_ENTRIES}", entries.len()));
        }
        let mut expressions = 0;
        let mut compiler = Compiler::default();
        let mut compiled = Vec::with_capacity(entries.len());
        for (text, value) in entries {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            let key = if text.chars().all(plain) {
                Key::Plain
            } else {
                expressions += 1;
                if expressions > MAX_EXPRESSIONS {
                    return Err(format!("more than {MAX_EXPRESSIONS} regular expressions"));
                }
                Key::Expression(compiler.compile(&text, r"\A(?:.*\.)?(?:", r")\z")?)
            };
            compiled.push((key, text, value));
        }
        Ok(Self { entries: compiled })
    }

    /// Bytes of the compiled expressions that a path is matched against.
    pub(super) fn compiled(&self) -> usize {
        let size = |(key, ..): &(Key, String, T)| match key {
            Key::Plain => 0,
            Key::Expression(expression) => expression.size,
        };
        self.entries.iter().map(size).sum()
    }

    /// The first entry whose key matches `path`, with that key.
    pub(super) fn get(&self, path: &str) -> Option<(&str, &T)> {
        let hit = |(key, text, _): &&(Key, String, T)| match key {
            Key::Plain => plain_hit(text, path),
            Key::Expression(expression) => expression.regex.is_match(path),
        };
        self.entries
            .iter()
            .find(hit)
            .map(|(_, text, value)| (text.as_str(), value))
    }
}

/// `re.match(r"(.*\.)?(KEY)$", path)` for a key without special characters but dots.
fn plain_hit(key: &str, path: &str) -> bool {
    // A dot of the key stands for one character, so for ASCII paths the match is as long as the key; in
    // other paths the comparison starts at a character or fails.
    let Some(start) = path.len().checked_sub(key.len()) else {
        return false;
    };
    let (path, key) = (path.as_bytes(), key.as_bytes());
    (start == 0 || path[start - 1] == b'.')
        && path[start..]
            .iter()
            .zip(key)
            .all(|(p, k)| p == k || *k == b'.')
}

#[cfg(test)]
mod tests;
