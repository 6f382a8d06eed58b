//! ELECTRA (the discriminator): BERT with narrower embedding tables and a projection, and a two-layer head with GELU.
//!
//! Facts: `modeling_electra.py`. The norm of the embedding layer is as wide as the tables and comes before the projection.

use serde_json::json;

use super::{
    EncoderSpec, Names,
    bert::{self, Facts},
    config::Config,
    roberta::two_layer_head,
};
use crate::{Result, kernel::activation::Activation};

const NAMES: Names = Names {
    class: "Electra",
    prefixes: &["electra.", ""],
    embed_project: "embeddings_project",
    ..bert::NAMES
};

/// The head for multiple choice has settings of its own; it is not one of those here.
pub(super) const HARMLESS: &[&str] = &[
    "summary_activation",
    "summary_first_dropout",
    "summary_last_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
];

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([30522, 256, 12, 4, 1024])?;
    config.only("position_embedding_type", &[json!("absolute")])?;
    let facts = Facts {
        rows: config.size("max_position_embeddings", 512)?,
        types: config.size("type_vocab_size", 2)?,
        activation: config.activation("hidden_act", Activation::Gelu)?,
        norm_eps: config.epsilon("layer_norm_eps", 1e-12)?,
    };
    let mut spec = bert::like(sizes, facts, NAMES);
    spec.pad_id = config.pad_id(0, sizes.vocab)?;
    spec.embed.width = config.size("embedding_size", 128)?;
    spec.embed.project = spec.embed.width != spec.hidden;
    spec.sequence_head = two_layer_head(Activation::Gelu);
    Ok(spec)
}
