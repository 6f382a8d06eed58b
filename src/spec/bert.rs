//! BERT: learned positions from 0, token types, post-norm, exact GELU, a tanh pooler in the encoder.
//!
//! Facts: `modeling_bert.py` and `configuration_bert.py` of transformers. [`like`] is the skeleton that most families
//! start from.

use serde_json::json;

use super::{
    DenseSpec, EmbedSpec, EncoderSpec, HeadSpec, LayerSpec, Mlp, Names, Order, Pooling, Position,
    Positions,
    config::{Config, Sizes},
};
use crate::{Result, kernel::activation::Activation};

pub(super) const NAMES: Names = Names {
    class: "Bert",
    prefixes: &["bert.", ""],
    word: "embeddings.word_embeddings",
    position: "embeddings.position_embeddings",
    types: "embeddings.token_type_embeddings",
    embed_norm: "embeddings.LayerNorm",
    embed_project: "",
    qkv: &[
        "encoder.layer.{}.attention.self.query",
        "encoder.layer.{}.attention.self.key",
        "encoder.layer.{}.attention.self.value",
    ],
    attn_out: "encoder.layer.{}.attention.output.dense",
    mlp_in: &["encoder.layer.{}.intermediate.dense"],
    mlp_out: "encoder.layer.{}.output.dense",
    attn_norm: "encoder.layer.{}.attention.output.LayerNorm",
    mlp_norm: "encoder.layer.{}.output.LayerNorm",
    final_norm: "",
    relative: "",
    relative_norm: "",
    relative_projections: &[],
    modules: &[],
    in_modules: false,
    aliases: &[("gamma", "weight"), ("beta", "bias")],
    // Buffers that old versions of transformers saved.
    ignored: &["embeddings.position_ids", "embeddings.token_type_ids"],
};

/// Only the output layer.
pub(super) const PLAIN_HEAD: HeadSpec = HeadSpec {
    pool: Pooling::Cls,
    dense: None,
    out: "classifier",
    saved_as: &["classifier"],
};

const SEQUENCE_HEAD: HeadSpec = HeadSpec {
    dense: Some(DenseSpec {
        name: "pooler.dense",
        in_encoder: true,
        bias: true,
        activation: Activation::Tanh,
        norm: None,
    }),
    ..PLAIN_HEAD
};

/// Keys of BERT that do nothing: remains of the multilingual checkpoints' first pooler.
pub(super) const HARMLESS: &[&str] = &[
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
];

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([30522, 768, 12, 12, 3072])?;
    let rows = config.size("max_position_embeddings", 512)?;
    config.only("position_embedding_type", &[json!("absolute")])?;
    Ok(EncoderSpec {
        pad_id: config.pad_id(0, sizes.vocab)?,
        sequence_head: SEQUENCE_HEAD,
        ..like(
            sizes,
            Facts {
                rows,
                types: config.size("type_vocab_size", 2)?,
                activation: config.activation("hidden_act", Activation::Gelu)?,
                norm_eps: config.epsilon("layer_norm_eps", 1e-12)?,
            },
            NAMES,
        )
    })
}

/// What varies between encoders built like BERT.
pub(super) struct Facts {
    /// Rows of the position table.
    pub(super) rows: usize,
    pub(super) types: usize,
    pub(super) activation: Activation,
    pub(super) norm_eps: f32,
}

/// A post-norm encoder with learned positions from 0, biases everywhere, full attention and plain heads. What the
/// configuration says of the checkpoint's own head is filled in for every family alike (`EncoderSpec::parse`).
pub(super) fn like(sizes: Sizes, facts: Facts, names: Names) -> EncoderSpec {
    let layer = |index| LayerSpec {
        order: Order::Post,
        position: Position::Absolute,
        window: None,
        mlp: Mlp::Plain,
        activation: facts.activation,
        bias: true,
        mlp_in_bias: true,
        attn_norm: true,
        weights_of: index,
    };
    EncoderSpec {
        family: String::new(),
        vocab: sizes.vocab,
        hidden: sizes.hidden,
        heads: sizes.heads,
        ffn: sizes.ffn,
        max_tokens: facts.rows,
        pad_id: 0,
        norm_eps: facts.norm_eps,
        embed: EmbedSpec {
            width: sizes.hidden,
            project: false,
            positions: Positions::FromZero { rows: facts.rows },
            types: facts.types,
            norm: true,
            norm_bias: true,
        },
        layers: (0..sizes.layers).map(layer).collect(),
        final_norm: false,
        names,
        sequence_head: PLAIN_HEAD,
        token_head: PLAIN_HEAD,
        own_head: None,
        labels: Vec::new(),
        problem: None,
    }
}
