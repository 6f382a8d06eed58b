//! A request before and after admission.

use std::sync::Arc;

use crate::{model::Task, text::Encoded};

/// What is asked of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// One vector.
    Embedding,
    /// Labels and scores of the sequence classifier.
    Classes,
}

/// One row to answer.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The text.
    pub text: &'a str,
    /// The second text of a pair.
    pub pair: Option<&'a str>,
    /// The adapter; `None` is the bare base.
    pub adapter: Option<&'a str>,
    /// What is asked.
    pub want: Want,
}

/// A request that was checked: nothing about it can fail any more.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Its tokens.
    pub encoded: Encoded,
    /// Its task, held for the request's life.
    pub task: Arc<Task>,
    /// What is asked.
    pub want: Want,
}
