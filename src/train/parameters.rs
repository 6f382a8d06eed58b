//! The words of training: what a parameter is, which method trains it, how gates start.

use crate::{mat::Matrix, model::Level, spec::Problem};

/// What a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `[R x in]`
    A,
    /// `[R x out]`: B transposed.
    B,
    /// `[R x 1]`
    Gate,
    /// Of the head.
    Head,
}

/// One trained matrix.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// `<module>.a`, `.b`, `.gate`, or the tensor's own name in a checkpoint.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its values.
    pub value: Matrix,
}

/// What is trained besides the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A, B and gates, closed by proximal steps.
    Sora,
    /// A and B of one rank.
    Lora,
    /// Nothing.
    Head,
}

/// How gates start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateInit {
    /// Standard normal.
    Normal,
    /// 1.
    Ones,
}

/// What is to be trained, and for what.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// How.
    pub method: Method,
    /// Module paths, or ends of them after a dot; empty is every linear.
    pub sites: &'a [String],
    /// Rank of every site at the start.
    pub r_max: usize,
    /// Scale times `r_max`.
    pub alpha: f32,
    /// How gates start.
    pub gate_init: GateInit,
    /// What outputs mean.
    pub problem: Problem,
    /// One row a text, or one a token.
    pub level: Level,
    /// Labels by output.
    pub labels: Vec<String>,
    /// Of all that is drawn at random.
    pub seed: u64,
}
