//! GTE (the "new" architecture of Alibaba-NLP's models): post-norm, rotary positions, a gated MLP whose second half is
//! activated, biases but on its first linear, one fused q|k|v tensor.
//!
//! Facts: `modeling_gte.py` of transformers; `model_type` is `gte` there and `new` in the models' own older code, whose
//! tensors have the same names under another prefix. Its NTK scaling of
//! frequencies (`rope_scaling`) is fixed: the same for every text.

use serde_json::json;

use super::{
    EncoderSpec, LayerSpec, Mlp, ModulePart, Names, Position, Positions,
    bert::{self, Facts},
    config::Config,
    modernbert::rotatable,
    nomic::POOLER_HEAD,
    rope,
};
use crate::{Result, kernel::activation::Activation};

const QKV: &str = "encoder.layer.{}.attention.qkv_proj";
const UP_GATE: &str = "encoder.layer.{}.mlp.up_gate_proj";

const NAMES: Names = Names {
    class: "Gte",
    prefixes: &["gte.", "new.", ""],
    position: "",
    qkv: &[QKV],
    attn_out: "encoder.layer.{}.attention.o_proj",
    mlp_in: &[UP_GATE],
    mlp_out: "encoder.layer.{}.mlp.down_proj",
    attn_norm: "encoder.layer.{}.attn_ln",
    mlp_norm: "encoder.layer.{}.mlp_ln",
    modules: &[
        ModulePart::new("layers.{}.self_attn.q_proj", QKV, 0, 3),
        ModulePart::new("layers.{}.self_attn.k_proj", QKV, 1, 3),
        ModulePart::new("layers.{}.self_attn.v_proj", QKV, 2, 3),
        ModulePart::whole(
            "layers.{}.self_attn.o_proj",
            "encoder.layer.{}.attention.o_proj",
        ),
        ModulePart::new("layers.{}.mlp.up_proj", UP_GATE, 0, 2),
        ModulePart::new("layers.{}.mlp.gate_proj", UP_GATE, 1, 2),
        ModulePart::whole("layers.{}.mlp.down_proj", "encoder.layer.{}.mlp.down_proj"),
    ],
    in_modules: true,
    ..bert::NAMES
};

/// How the older code computes, not what. `auto_map` names that code, of which the facts are here.
pub(super) const HARMLESS: &[&str] =
    &["auto_map", "unpad_inputs", "use_memory_efficient_attention"];

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    family(config, NAMES)
}

pub(super) fn parse_new(config: &Config<'_>) -> Result<EncoderSpec> {
    config.only("pack_qkv", &[json!(true)])?;
    config.only("layer_norm_type", &[json!("layer_norm")])?;
    config.only("logn_attention_scale", &[json!(false)])?;
    config.only("logn_attention_clip1", &[json!(false)])?;
    config.only("position_embedding_type", &[json!("rope")])?;
    let factor = rope::ntk(config)?;
    let mut spec = family(
        config,
        Names {
            class: "New",
            prefixes: &["new.", "gte.", ""],
            in_modules: false,
            ..NAMES
        },
    )?;
    let width = (spec.hidden / spec.heads) as f64;
    for layer in &mut spec.layers {
        if let Position::Rotary { theta, stretch } = &mut layer.position {
            *theta = (f64::from(*theta) * factor) as f32;
            *stretch = factor.powf(2.0 / width) as f32;
        }
    }
    Ok(spec)
}

fn family(config: &Config<'_>, names: Names) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([250048, 768, 12, 12, 3072])?;
    rotatable(config, sizes.hidden / sizes.heads)?;
    config.only("head_dim", &[(sizes.hidden / sizes.heads).into()])?;
    let facts = Facts {
        rows: config.positions("max_position_embeddings", 8192)?,
        types: config.count("type_vocab_size", 1)?,
        activation: config.activation("hidden_act", Activation::Gelu)?,
        norm_eps: config.epsilon("layer_norm_eps", 1e-12)?,
    };
    let (new, old) = (
        rope::theta(config, None)?,
        rope::theta_at(config, "rope_theta", 160_000.0)?,
    );
    let theta = new.unwrap_or(old);
    let mut spec = bert::like(sizes, facts, names);
    spec.pad_id = config.pad_id(1, sizes.vocab)?;
    spec.embed.positions = Positions::None;
    for layer in &mut spec.layers {
        *layer = LayerSpec {
            position: Position::Rotary {
                theta,
                stretch: 1.0,
            },
            mlp: Mlp::GatedSecond,
            mlp_in_bias: false,
            ..layer.clone()
        };
    }
    spec.sequence_head = POOLER_HEAD;
    Ok(spec)
}
