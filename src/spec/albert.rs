//! ALBERT: BERT with few layers' tensors used many times over, narrower embedding tables and a projection.
//!
//! Facts: `modeling_albert.py`. Layer i uses the tensors of group `i / (layers / groups)`. The projection is there even
//! where the widths are equal.

use serde_json::json;

use super::{
    DenseSpec, EncoderSpec, HeadSpec, Names,
    bert::{self, Facts, PLAIN_HEAD},
    config::Config,
};
use crate::{Result, kernel::activation::Activation};

const NAMES: Names = Names {
    class: "Albert",
    prefixes: &["albert.", ""],
    embed_project: "encoder.embedding_hidden_mapping_in",
    qkv: &[
        "encoder.albert_layer_groups.{}.albert_layers.0.attention.query",
        "encoder.albert_layer_groups.{}.albert_layers.0.attention.key",
        "encoder.albert_layer_groups.{}.albert_layers.0.attention.value",
    ],
    attn_out: "encoder.albert_layer_groups.{}.albert_layers.0.attention.dense",
    mlp_in: &["encoder.albert_layer_groups.{}.albert_layers.0.ffn"],
    mlp_out: "encoder.albert_layer_groups.{}.albert_layers.0.ffn_output",
    attn_norm: "encoder.albert_layer_groups.{}.albert_layers.0.attention.LayerNorm",
    mlp_norm: "encoder.albert_layer_groups.{}.albert_layers.0.full_layer_layer_norm",
    ..bert::NAMES
};

const SEQUENCE_HEAD: HeadSpec = HeadSpec {
    dense: Some(DenseSpec {
        name: "pooler",
        in_encoder: true,
        bias: true,
        activation: Activation::Tanh,
        norm: None,
    }),
    ..PLAIN_HEAD
};

/// Read by no class; the first checkpoints have them.
pub(super) const HARMLESS: &[&str] = &[
    "classifier_dropout_prob",
    "down_scale_factor",
    "gap_size",
    "layers_to_keep",
    "net_structure_type",
    "num_memory_blocks",
];

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([30000, 4096, 12, 64, 16384])?;
    config.only("position_embedding_type", &[json!("absolute")])?;
    config.only("inner_group_num", &[1.into()])?;
    let groups = config.number("num_hidden_groups", Some(1), 1, sizes.layers)?;
    let facts = Facts {
        rows: config.size("max_position_embeddings", 512)?,
        types: config.size("type_vocab_size", 2)?,
        activation: config.activation("hidden_act", Activation::GeluTanh)?,
        norm_eps: config.epsilon("layer_norm_eps", 1e-12)?,
    };
    let mut spec = bert::like(sizes, facts, NAMES);
    spec.pad_id = config.pad_id(0, sizes.vocab)?;
    spec.embed.width = config.size("embedding_size", 128)?;
    spec.embed.project = true;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.weights_of = i * groups / sizes.layers;
    }
    spec.sequence_head = SEQUENCE_HEAD;
    Ok(spec)
}
