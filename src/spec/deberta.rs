//! DeBERTa-v2 and v3: disentangled attention over relative positions, in log buckets or not, with the layer's own
//! projections or separate ones; a GELU pooler beside the encoder.
//!
//! Facts: `modeling_deberta_v2.py`. Not here: the convolution beside the first layer (v2-xlarge), and embedding
//! tables of another width than the model (their norm would come after the projection).

use serde_json::{Value, json};

use super::{
    DenseSpec, EncoderSpec, HeadSpec, Names, Position, Positions, Relative,
    bert::{self, Facts, PLAIN_HEAD},
    config::Config,
};
use crate::{Result, kernel::activation::Activation};

const NAMES: Names = Names {
    class: "DebertaV2",
    prefixes: &["deberta.", ""],
    qkv: &[
        "encoder.layer.{}.attention.self.query_proj",
        "encoder.layer.{}.attention.self.key_proj",
        "encoder.layer.{}.attention.self.value_proj",
    ],
    relative: "encoder.rel_embeddings",
    relative_norm: "encoder.LayerNorm",
    relative_projections: &[
        "encoder.layer.{}.attention.self.pos_key_proj",
        "encoder.layer.{}.attention.self.pos_query_proj",
    ],
    // Checkpoints of models without absolute positions may hold an unused table of them.
    ignored: &["embeddings.position_ids", "embeddings.position_embeddings"],
    ..bert::NAMES
};

pub(super) const HARMLESS: &[&str] = &[
    "legacy", // which masked-language head
    "pooler_dropout",
];

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([128100, 1536, 24, 24, 6144])?;
    let rows = config.positions("max_position_embeddings", 512)?;
    let facts = Facts {
        rows,
        types: config.count("type_vocab_size", 0)?,
        activation: config.activation("hidden_act", Activation::Gelu)?,
        norm_eps: config.epsilon("layer_norm_eps", 1e-7)?,
    };
    config.only("embedding_size", &[sizes.hidden.into()])?;
    config.only(
        "attention_head_size",
        &[(sizes.hidden / sizes.heads).into()],
    )?;
    config.only("pooler_hidden_size", &[sizes.hidden.into()])?;
    config.only("conv_kernel_size", &[0.into()])?;
    config.get("conv_act"); // means nothing without the convolution
    let mut spec = bert::like(sizes, facts, NAMES);
    spec.pad_id = config.pad_id(0, sizes.vocab)?;
    if !config.flag("position_biased_input", true)? {
        spec.embed.positions = Positions::None;
    }
    let position = position(config, rows)?;
    for layer in &mut spec.layers {
        layer.position = position;
    }
    spec.sequence_head = HeadSpec {
        dense: Some(DenseSpec {
            name: "pooler.dense",
            in_encoder: false,
            bias: true,
            activation: config.activation("pooler_hidden_act", Activation::Gelu)?,
            norm: None,
        }),
        saved_as: &["pooler", "classifier"],
        ..PLAIN_HEAD
    };
    Ok(spec)
}

fn position(config: &Config<'_>, rows: usize) -> Result<Position> {
    let (c2p, p2c) = terms(config)?;
    // -1, or 0: not bucketed, and as many distances as positions.
    let or_none = |key| match config.get(key).and_then(Value::as_i64) {
        Some(n) if n < 1 => Ok(None),
        None if config.get(key).is_none() => Ok(None),
        _ => config.positions(key, 1).map(Some),
    };
    let buckets = or_none("position_buckets")?.unwrap_or(0);
    let max_distance = or_none("max_relative_positions")?.unwrap_or(rows);
    let norms = config.text("norm_rel_ebd", "none")?.to_lowercase();
    let shared_keys = config.flag("share_att_key", false)?;
    if !config.flag("relative_attention", false)? {
        // The scale of the scores counts the terms even where nothing is relative: nobody means that.
        return match (c2p, p2c) {
            (false, false) => Ok(Position::Absolute),
            _ => Err(config.error(
                "pos_att_type",
                "names terms while relative_attention is false",
            )),
        };
    }
    let mut norm = false;
    for word in norms.split('|').map(str::trim) {
        match word {
            "layer_norm" => norm = true,
            "none" | "" => {}
            other => {
                return Err(config.error(
                    "norm_rel_ebd",
                    format!("expected layer_norm or none, found {other:?}"),
                ));
            }
        }
    }
    // Half of the buckets are exact distances; the logarithm needs some beyond them.
    if buckets == 1 || (buckets > 0 && max_distance <= buckets / 2 + 1) {
        let why = format!("{buckets} buckets for distances up to {max_distance}");
        return Err(config.error("position_buckets", why));
    }
    Ok(Position::Relative(Relative {
        buckets,
        max_distance,
        c2p,
        p2c,
        shared_keys,
        norm,
    }))
}

/// Which terms `pos_att_type` names, as a list or as words between bars.
fn terms(config: &Config<'_>) -> Result<(bool, bool)> {
    const KEY: &str = "pos_att_type";
    let words: Vec<String> = match config.get(KEY) {
        None => Vec::new(),
        Some(Value::String(s)) => s
            .to_lowercase()
            .split('|')
            .map(|w| w.trim().to_owned())
            .collect(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        Some(other) => return Err(config.error(KEY, format!("expected words, found {other}"))),
    };
    let (mut c2p, mut p2c) = (false, false);
    for word in &words {
        match word.as_str() {
            "c2p" => c2p = true,
            "p2c" => p2c = true,
            "" => {}
            other => {
                let why = format!(
                    "expected {} or {}, found {other:?}",
                    json!("c2p"),
                    json!("p2c")
                );
                return Err(config.error(KEY, why));
            }
        }
    }
    Ok((c2p, p2c))
}
