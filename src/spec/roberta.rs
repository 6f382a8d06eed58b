//! RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions counted from the padding id on, and a two-layer head.
//!
//! Facts: `modeling_roberta.py`; the other two are the same classes under other names.

use serde_json::json;

use super::{
    DenseSpec, EncoderSpec, HeadSpec, Names, Positions,
    bert::{self, Facts, PLAIN_HEAD},
    config::Config,
};
use crate::{Result, kernel::activation::Activation};

const NAMES: Names = Names {
    class: "Roberta",
    prefixes: &["roberta.", ""],
    ..bert::NAMES
};

/// `classifier.dense`, an activation, `classifier.out_proj`.
pub(super) const fn two_layer_head(activation: Activation) -> HeadSpec {
    HeadSpec {
        dense: Some(DenseSpec {
            name: "classifier.dense",
            in_encoder: false,
            bias: true,
            activation,
            norm: None,
        }),
        out: "classifier.out_proj",
        ..PLAIN_HEAD
    }
}

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    family(config, NAMES, 50265)
}

pub(super) fn parse_xlm(config: &Config<'_>) -> Result<EncoderSpec> {
    family(
        config,
        Names {
            class: "XLMRoberta",
            ..NAMES
        },
        30522,
    )
}

pub(super) fn parse_camembert(config: &Config<'_>) -> Result<EncoderSpec> {
    family(
        config,
        Names {
            class: "Camembert",
            ..NAMES
        },
        30522,
    )
}

fn family(config: &Config<'_>, names: Names, vocab: usize) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([vocab, 768, 12, 12, 3072])?;
    config.only("position_embedding_type", &[json!("absolute")])?;
    let rows = config.size("max_position_embeddings", 512)?;
    let facts = Facts {
        rows,
        types: config.size("type_vocab_size", 2)?,
        activation: config.activation("hidden_act", Activation::Gelu)?,
        norm_eps: config.epsilon("layer_norm_eps", 1e-12)?,
    };
    let spec = EncoderSpec {
        sequence_head: two_layer_head(Activation::Tanh),
        ..bert::like(sizes, facts, names)
    };
    let pad = config.pad_id(1, sizes.vocab)?;
    positions_after(config, spec, pad, rows)
}

/// Learned positions that begin after row `pad`.
pub(super) fn positions_after(
    config: &Config<'_>,
    mut spec: EncoderSpec,
    pad: u32,
    rows: usize,
) -> Result<EncoderSpec> {
    spec.pad_id = pad;
    spec.embed.positions = Positions::FromPad { rows };
    spec.max_tokens = rows.saturating_sub(pad as usize + 1);
    if spec.max_tokens == 0 {
        let why = format!("{rows} rows leave no position after the padding id {pad}");
        return Err(config.error("max_position_embeddings", why));
    }
    Ok(spec)
}
