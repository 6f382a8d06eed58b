//! MPNet: RoBERTa's positions, no token types, and one table of bucketed biases that every layer adds to its scores.
//!
//! Facts: `modeling_mpnet.py`. The padding id of its positions is 1 in the code, whatever the configuration says, and
//! buckets end at a distance of 128.

use super::{
    EncoderSpec, Names, Position,
    bert::{self, Facts},
    config::Config,
    roberta::{positions_after, two_layer_head},
};
use crate::{Result, kernel::activation::Activation};

const NAMES: Names = Names {
    class: "MPNet",
    prefixes: &["mpnet.", ""],
    types: "",
    qkv: &[
        "encoder.layer.{}.attention.attn.q",
        "encoder.layer.{}.attention.attn.k",
        "encoder.layer.{}.attention.attn.v",
    ],
    attn_out: "encoder.layer.{}.attention.attn.o",
    attn_norm: "encoder.layer.{}.attention.LayerNorm",
    relative: "encoder.relative_attention_bias",
    ..bert::NAMES
};

const PAD: u32 = 1;
const MAX_DISTANCE: usize = 128;

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([30527, 768, 12, 12, 3072])?;
    let rows = config.size("max_position_embeddings", 512)?;
    let facts = Facts {
        rows,
        types: 0,
        activation: config.activation("hidden_act", Activation::Gelu)?,
        norm_eps: config.epsilon("layer_norm_eps", 1e-12)?,
    };
    // A quarter of the buckets is for exact distances, which must be fewer than those told apart in all.
    let buckets = config.number(
        "relative_attention_num_buckets",
        Some(32),
        4,
        4 * MAX_DISTANCE - 4,
    )?;
    let mut spec = bert::like(sizes, facts, NAMES);
    for layer in &mut spec.layers {
        layer.position = Position::Bucketed {
            buckets,
            max_distance: MAX_DISTANCE,
        };
    }
    spec.sequence_head = two_layer_head(Activation::Tanh);
    config.only("pad_token_id", &[PAD.into()])?;
    positions_after(config, spec, PAD, rows)
}
