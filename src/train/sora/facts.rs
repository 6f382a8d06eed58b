//! What is asked of a run: the method and what it trains, sites, ranks, labels. Plain data; drawing initial values is
//! `Live`'s.

use crate::{
    model::{Level, parameters::BaseKinds},
    spec::Problem,
};

/// What is trained besides the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A, B and gates, closed by proximal steps.
    Sora,
    /// A and B of one rank.
    Lora,
    /// Singular vectors and values under a falling budget of ranks (`train::adalora`).
    Adalora,
    /// The biases of the base's linears and norms, and the norms' weights.
    Bitfit,
    /// Everything, but tables of relative positions.
    Full,
    /// Nothing.
    Head,
}

/// What a method trains besides the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trainable {
    /// A and B of the chosen sites.
    pub low_rank: bool,
    /// A gate a rank.
    pub gates: bool,
    /// Of the base itself.
    pub base: BaseKinds,
}

impl Method {
    /// What it trains.
    pub fn trainable(self) -> Trainable {
        let mut out = Trainable::default();
        match self {
            Method::Sora | Method::Adalora => (out.low_rank, out.gates) = (true, true),
            Method::Lora => out.low_rank = true,
            Method::Bitfit => (out.base.biases, out.base.norms) = (true, true),
            Method::Full => {
                out.base = BaseKinds {
                    biases: true,
                    norms: true,
                    weights: true,
                    embeddings: true,
                };
            }
            Method::Head => {}
        }
        out
    }
}

/// How SoRA's gates start.
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
    /// How SoRA's gates start.
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
