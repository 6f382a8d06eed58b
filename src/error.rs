//! The library's one error type, grouped by who must act.
//!
//! A message names the file and the thing, and says what was expected and what was found. How an error
//! becomes an exit code or an HTTP status is decided at the roof, in `cli/` and `server/`, not here.

use std::path::{Path, PathBuf};

/// What can go wrong: a file, a configuration, a request. The forward pass itself cannot fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // -- the caller must change the request --
    /// A text without a token to work on.
    #[error("the text is empty")]
    EmptyInput,
    /// More tokens than the model has positions.
    #[error(
        "the text has {tokens} tokens and the model takes {max}; shorten it or ask for truncation"
    )]
    TooLong {
        /// Tokens of the text, special tokens included.
        tokens: usize,
        /// The most this model takes.
        max: usize,
    },
    /// A name that no adapter bears. It is never answered by the base instead.
    #[error("no adapter is named {name:?}; known: {known}")]
    UnknownAdapter {
        /// The name asked for.
        name: String,
        /// The names there are, comma-separated.
        known: String,
    },
    /// The row asks for something that this task does not do.
    #[error("{task} cannot {wanted}: {why}")]
    WrongTask {
        /// The adapter, or the base.
        task: String,
        /// What was asked, as a verb phrase.
        wanted: &'static str,
        /// Why it cannot.
        why: String,
    },
    /// An output of the row is not a finite number.
    #[error("{task} has no answer: its weights overflow on this text")]
    Overflow {
        /// The adapter, or the base.
        task: String,
    },
    /// An input row that cannot be read.
    #[error("{source_name}:{line}: {why}")]
    Row {
        /// File name, or `-`.
        source_name: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },

    // -- the operator must change a file --
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configuration file says something that cannot be honoured.
    #[error("{}: {key}: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, dotted when nested.
        key: String,
        /// What was expected and what was found.
        why: String,
    },
    /// A file that is not what its name says.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        why: String,
    },
    /// Tensors that the configuration calls for and the file lacks, and those that nothing uses.
    #[error("{}: {}", path.display(), tensors_message(missing, unused))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// Needed and not there.
        missing: Vec<String>,
        /// There and not used by anything.
        unused: Vec<String>,
    },
    /// A tensor of the wrong shape.
    #[error("{}: tensor {name} has shape {found:?}, expected {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape it must have, with the reason.
        expected: String,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A classifier whose head is neither in the adapter nor in the base. Answering with an untrained or a
    /// foreign head instead would be a silent wrong answer.
    #[error(
        "{}: no classification head: neither the adapter nor the base holds {}; save it with the adapter \
         (PEFT: modules_to_save)",
        path.display(),
        missing.join(", ")
    )]
    HeadMissing {
        /// The adapter.
        path: PathBuf,
        /// The tensors it lacks.
        missing: Vec<String>,
    },
    /// An adapter made for another base.
    #[error("{}: made for another base: {why}", path.display())]
    BaseMismatch {
        /// The adapter.
        path: PathBuf,
        /// What differs, expected and found.
        why: String,
    },
    /// A repository of the Hugging Face hub, or a file of it, that cannot be had.
    #[error("{repository}{}: {why}", file.as_deref().map(|f| format!(": {f}")).unwrap_or_default())]
    Hub {
        /// `owner/name@revision`
        repository: String,
        /// The file, where it is about one.
        file: Option<String>,
        /// What happened, with the HTTP status where there is one, and what to do.
        why: String,
    },
    /// Something real that sorank does not do.
    #[error("{}: {feature} is not supported: {why}", path.display())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// What it asks for.
        feature: String,
        /// What to do instead, or why not.
        why: String,
    },
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::Io`] about `path`; made for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        move |source| Error::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// An [`Error::Config`].
    pub fn config(path: &Path, key: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Config {
            path: path.to_owned(),
            key: key.into(),
            why: why.into(),
        }
    }

    /// An [`Error::Format`].
    pub fn format(path: &Path, why: impl Into<String>) -> Error {
        Error::Format {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(path: &Path, feature: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Unsupported {
            path: path.to_owned(),
            feature: feature.into(),
            why: why.into(),
        }
    }
}

fn tensors_message(missing: &[String], unused: &[String]) -> String {
    let part = |what: &str, names: &[String]| match names {
        [] => None,
        names => Some(format!(
            "{} tensor(s) {what}: {}",
            names.len(),
            names.join(", ")
        )),
    };
    let parts: Vec<_> = [part("missing", missing), part("unused", unused)]
        .into_iter()
        .flatten()
        .collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_error_lists_every_name() {
        let error = Error::Tensors {
            path: "m/model.safetensors".into(),
            missing: vec!["a.weight".into(), "b.bias".into()],
            unused: vec!["c".into()],
        };
        assert_eq!(
            error.to_string(),
            "m/model.safetensors: 2 tensor(s) missing: a.weight, b.bias; 1 tensor(s) unused: c"
        );
    }
}
