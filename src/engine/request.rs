//! A request before and after admission.

use std::sync::Arc;

use super::{
    resident::Resident,
    tags::{Aggregation, Piece},
};
use crate::text::Encoded;

/// What is asked of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// One vector.
    Embedding,
    /// The same, not normalised even where the model normalises.
    Pooled,
    /// A vector a token, special tokens included: the last hidden states.
    Tokens,
    /// Labels and scores of the sequence classifier.
    Classes,
    /// Entities, by the token classifier.
    Tags(Aggregation),
    /// How well a text answers a query: the one logit of a pair.
    Relevance,
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
    /// Its tokens; shared by the rows of one text for several adapters.
    pub encoded: Arc<Encoded>,
    /// Its task, held for the request's life.
    pub task: Arc<Resident>,
    /// What is asked.
    pub want: Want,
    /// The text's tokens for [`Want::Tags`]; empty for anything else.
    pub(super) pieces: Vec<Piece>,
}
