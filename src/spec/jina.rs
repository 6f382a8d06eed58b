//! Jina embeddings v3: XLM-RoBERTa's layers and heads with rotary positions and one fused q|k|v tensor.
//!
//! Facts: `modeling_jina_embeddings_v3.py` of transformers and the names in its files. Not here: the models' own older
//! code, whose configuration calls itself xlm-roberta and whose checkpoint holds adapters inside (`adapter/parametrized`).

use super::{
    EncoderSpec, ModulePart, Names, Position, Positions,
    bert::{self, Facts},
    config::Config,
    modernbert::rotatable,
    roberta, rope,
};
use crate::{Result, kernel::activation::Activation};

const QKV: &str = "encoder.layers.{}.mixer.Wqkv";

const NAMES: Names = Names {
    class: "JinaEmbeddingsV3",
    prefixes: &["roberta.", ""],
    position: "",
    embed_norm: "emb_ln",
    qkv: &[QKV],
    attn_out: "encoder.layers.{}.mixer.out_proj",
    mlp_in: &["encoder.layers.{}.mlp.fc1"],
    mlp_out: "encoder.layers.{}.mlp.fc2",
    attn_norm: "encoder.layers.{}.norm1",
    mlp_norm: "encoder.layers.{}.norm2",
    modules: &[
        ModulePart::new("layers.{}.self_attn.q_proj", QKV, 0, 3),
        ModulePart::new("layers.{}.self_attn.k_proj", QKV, 1, 3),
        ModulePart::new("layers.{}.self_attn.v_proj", QKV, 2, 3),
        ModulePart::whole(
            "layers.{}.self_attn.o_proj",
            "encoder.layers.{}.mixer.out_proj",
        ),
        ModulePart::whole("layers.{}.mlp.fc1", "encoder.layers.{}.mlp.fc1"),
        ModulePart::whole("layers.{}.mlp.fc2", "encoder.layers.{}.mlp.fc2"),
    ],
    in_modules: true,
    ..bert::NAMES
};

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([250_002, 1024, 24, 16, 4096])?;
    rotatable(config, sizes.hidden / sizes.heads)?;
    config.only("head_dim", &[(sizes.hidden / sizes.heads).into()])?;
    let facts = Facts {
        rows: config.positions("max_position_embeddings", 8194)?,
        types: config.count("type_vocab_size", 1)?,
        activation: config.activation("hidden_act", Activation::Gelu)?,
        norm_eps: config.epsilon("layer_norm_eps", 1e-5)?,
    };
    let position = Position::Rotary {
        theta: rope::theta(config, None)?.unwrap_or(20_000.0),
        stretch: 1.0,
    };
    let mut spec = bert::like(sizes, facts, NAMES);
    spec.pad_id = config.pad_id(1, sizes.vocab)?;
    spec.embed.positions = Positions::None;
    for layer in &mut spec.layers {
        layer.position = position;
    }
    spec.sequence_head = roberta::two_layer_head(Activation::Tanh);
    Ok(spec)
}
