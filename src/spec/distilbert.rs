//! DistilBERT: BERT without token types, under its own names, with a ReLU before the classifier.
//!
//! Facts: `modeling_distilbert.py`. Epsilon is 1e-12 in the code and in no configuration. Sinusoidal positions
//! are a way to initialise the table, which the checkpoint holds either way.

use super::{
    DenseSpec, EncoderSpec, HeadSpec, Names,
    bert::{self, Facts, PLAIN_HEAD},
    config::Config,
};
use crate::{Result, kernel::activation::Activation};

const NAMES: Names = Names {
    class: "DistilBert",
    prefixes: &["distilbert.", ""],
    types: "",
    qkv: &[
        "transformer.layer.{}.attention.q_lin",
        "transformer.layer.{}.attention.k_lin",
        "transformer.layer.{}.attention.v_lin",
    ],
    attn_out: "transformer.layer.{}.attention.out_lin",
    mlp_in: &["transformer.layer.{}.ffn.lin1"],
    mlp_out: "transformer.layer.{}.ffn.lin2",
    attn_norm: "transformer.layer.{}.sa_layer_norm",
    mlp_norm: "transformer.layer.{}.output_layer_norm",
    ..bert::NAMES
};

const SEQUENCE_HEAD: HeadSpec = HeadSpec {
    dense: Some(DenseSpec {
        name: "pre_classifier",
        in_encoder: false,
        bias: true,
        activation: Activation::Relu,
        norm: None,
    }),
    saved_as: &["pre_classifier", "classifier"],
    ..PLAIN_HEAD
};

pub(super) const HARMLESS: &[&str] = &[
    "dropout",
    "qa_dropout",
    "seq_classif_dropout",
    "sinusoidal_pos_embds",
    "tie_weights_",
];

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let keys = ["vocab_size", "dim", "n_layers", "n_heads", "hidden_dim"];
    let sizes = config.sizes(keys, [30522, 768, 6, 12, 3072])?;
    let facts = Facts {
        rows: config.size("max_position_embeddings", 512)?,
        types: 0,
        activation: config.activation("activation", Activation::Gelu)?,
        norm_eps: 1e-12,
    };
    Ok(EncoderSpec {
        pad_id: config.pad_id(0, sizes.vocab)?,
        sequence_head: SEQUENCE_HEAD,
        ..bert::like(sizes, facts, NAMES)
    })
}
