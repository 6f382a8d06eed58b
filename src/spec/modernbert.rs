//! ModernBERT: pre-norm, rotary positions with two bases, local attention but in every third layer, a gated MLP,
//! one fused q|k|v, no biases, no norm before the first attention (the embedding layer has just been normed).
//!
//! Facts: `modeling_modernbert.py`; both spellings of the configuration (`layer_types` and `rope_parameters`, or
//! `global_attn_every_n_layers` and two `..._rope_theta`).

use serde_json::Value;

use super::{
    DenseSpec, EmbedSpec, EncoderSpec, HeadSpec, LayerSpec, Mlp, Names, Order, Pooling, Position,
    Positions,
    bert::{self, PLAIN_HEAD},
    config::Config,
    rope,
};
use crate::{Result, kernel::activation::Activation};

const NAMES: Names = Names {
    class: "ModernBert",
    prefixes: &["model.", ""],
    word: "embeddings.tok_embeddings",
    position: "",
    types: "",
    embed_norm: "embeddings.norm",
    qkv: &["layers.{}.attn.Wqkv"],
    attn_out: "layers.{}.attn.Wo",
    mlp_in: &["layers.{}.mlp.Wi"],
    mlp_out: "layers.{}.mlp.Wo",
    attn_norm: "layers.{}.attn_norm",
    mlp_norm: "layers.{}.mlp_norm",
    final_norm: "final_norm",
    aliases: &[],
    ignored: &[],
    ..bert::NAMES
};

/// The last three are read by no class of this family; its first checkpoints have them all the same.
pub(super) const HARMLESS: &[&str] = &[
    "decoder_bias",
    "deterministic_flash_attn",
    "embedding_dropout",
    "initializer_cutoff_factor",
    "mlp_dropout",
    "reference_compile",
    "repad_logits_with_grad",
    "sparse_pred_ignore_index",
    "sparse_prediction",
    "layer_norm_eps",
    "position_embedding_type",
    "type_vocab_size",
];

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([50368, 768, 22, 12, 1152])?;
    rotatable(config, sizes.hidden / sizes.heads)?;
    let bias = config.flag("attention_bias", false)?;
    if config.flag("mlp_bias", false)? != bias {
        return Err(config.error("mlp_bias", "expected the same as attention_bias"));
    }
    let global = thetas(config, "full_attention", "global_rope_theta", 160_000.0)?;
    // Written as null by transformers 4, it is the global one.
    let default = if config.is_null("local_rope_theta") {
        f64::from(global)
    } else {
        10_000.0
    };
    let local = thetas(config, "sliding_attention", "local_rope_theta", default)?;
    let window = config.size("local_attention", 128)? / 2;
    let activation = config.activation("hidden_activation", Activation::Gelu)?;
    let layer = |index: usize, is_local: bool| LayerSpec {
        order: Order::Pre,
        position: Position::Rotary {
            theta: if is_local { local } else { global },
            stretch: 1.0,
        },
        window: is_local.then_some(window),
        mlp: Mlp::Gated,
        activation,
        bias,
        mlp_in_bias: bias,
        attn_norm: index > 0,
        weights_of: index,
    };
    let kinds = kinds(config, sizes.layers)?;
    Ok(EncoderSpec {
        family: String::new(),
        vocab: sizes.vocab,
        hidden: sizes.hidden,
        heads: sizes.heads,
        ffn: sizes.ffn,
        max_tokens: config.positions("max_position_embeddings", 8192)?,
        // A tokenizer's affair here: nothing depends on it, and small vocabularies keep the large default.
        pad_id: config.number("pad_token_id", Some(0), 0, u32::MAX as usize)? as u32,
        norm_eps: config.epsilon("norm_eps", 1e-5)?,
        embed: EmbedSpec {
            width: sizes.hidden,
            project: false,
            positions: Positions::None,
            types: 0,
            norm: true,
            norm_bias: config.flag("norm_bias", false)?,
        },
        layers: kinds
            .into_iter()
            .enumerate()
            .map(|(i, local)| layer(i, local))
            .collect(),
        final_norm: true,
        names: NAMES,
        sequence_head: head(config)?,
        token_head: head(config)?,
        own_head: None,
        labels: Vec::new(),
        problem: None,
    })
}

fn thetas(config: &Config<'_>, kind: &str, old: &'static str, default: f64) -> Result<f32> {
    let new = rope::theta(config, Some(kind))?;
    let old = rope::theta_at(config, old, default)?;
    Ok(new.unwrap_or(old))
}

/// Rotated halves need an even width.
pub(super) fn rotatable(config: &Config<'_>, width: usize) -> Result<()> {
    if width.is_multiple_of(2) {
        return Ok(());
    }
    let why = format!("heads are {width} wide, and rotary positions need an even width");
    Err(config.error("num_attention_heads", why))
}

/// Which layers are local.
fn kinds(config: &Config<'_>, layers: usize) -> Result<Vec<bool>> {
    const KEY: &str = "layer_types";
    let every = config.size("global_attn_every_n_layers", 3)?;
    let Some(types) = config.get(KEY) else {
        return Ok((0..layers).map(|i| !i.is_multiple_of(every)).collect());
    };
    let types = types.as_array().filter(|t| t.len() == layers);
    let types = types
        .ok_or_else(|| config.error(KEY, format!("expected a list of {layers}, one a layer")))?;
    let one = |t: &Value| match t.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(config.error(
            KEY,
            format!("expected full_attention or sliding_attention, found {t}"),
        )),
    };
    types.iter().map(one).collect()
}

fn head(config: &Config<'_>) -> Result<HeadSpec> {
    Ok(HeadSpec {
        pool: config.choice(
            "classifier_pooling",
            Pooling::Cls,
            &[("cls", Pooling::Cls), ("mean", Pooling::Mean)],
        )?,
        dense: Some(DenseSpec {
            name: "head.dense",
            in_encoder: false,
            bias: config.flag("classifier_bias", false)?,
            activation: config.activation("classifier_activation", Activation::Gelu)?,
            norm: Some("head.norm"),
        }),
        saved_as: &["head", "classifier"],
        ..PLAIN_HEAD
    })
}
