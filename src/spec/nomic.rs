//! NomicBERT: post-norm, rotary positions, a gated MLP with SiLU, no biases but in norms, one fused q|k|v tensor.
//!
//! Facts: `modeling_nomic_bert.py` of transformers, and the configuration of the models' own older code, which is in
//! the words of GPT-2. Tensors in files are named as that code names its modules; the classes of transformers name
//! them otherwise, and so do adapters made with those.

use serde_json::{Value, json};

use super::{
    DenseSpec, EncoderSpec, HeadSpec, LayerSpec, Mlp, ModulePart, Names, Position, Positions,
    bert::{self, Facts, PLAIN_HEAD},
    config::Config,
    modernbert::rotatable,
    rope,
};
use crate::{Result, kernel::activation::Activation};

const QKV: &str = "encoder.layers.{}.attn.Wqkv";

const NAMES: Names = Names {
    class: "NomicBert",
    prefixes: &["nomic_bert.", "bert.", ""],
    position: "",
    embed_norm: "emb_ln",
    qkv: &[QKV],
    attn_out: "encoder.layers.{}.attn.out_proj",
    // The activated half first.
    mlp_in: &["encoder.layers.{}.mlp.fc12", "encoder.layers.{}.mlp.fc11"],
    mlp_out: "encoder.layers.{}.mlp.fc2",
    attn_norm: "encoder.layers.{}.norm1",
    mlp_norm: "encoder.layers.{}.norm2",
    modules: &[
        ModulePart::new("layers.{}.self_attn.q_proj", QKV, 0, 3),
        ModulePart::new("layers.{}.self_attn.k_proj", QKV, 1, 3),
        ModulePart::new("layers.{}.self_attn.v_proj", QKV, 2, 3),
        ModulePart::whole(
            "layers.{}.self_attn.o_proj",
            "encoder.layers.{}.attn.out_proj",
        ),
        ModulePart::whole("layers.{}.mlp.gate_proj", "encoder.layers.{}.mlp.fc12"),
        ModulePart::whole("layers.{}.mlp.up_proj", "encoder.layers.{}.mlp.fc11"),
        ModulePart::whole("layers.{}.mlp.down_proj", "encoder.layers.{}.mlp.fc2"),
    ],
    in_modules: true,
    ..bert::NAMES
};

/// The older code's class, whose modules are named as the files name tensors.
const OLDER: Names = Names {
    prefixes: &["bert.", "nomic_bert.", ""],
    in_modules: false,
    ..NAMES
};

/// The tanh pooler of BERT.
pub(super) const POOLER_HEAD: HeadSpec = HeadSpec {
    dense: Some(DenseSpec {
        name: "pooler.dense",
        in_encoder: true,
        bias: true,
        activation: Activation::Tanh,
        norm: None,
    }),
    ..PLAIN_HEAD
};

/// `auto_map` names the older code, of which the facts are here.
pub(super) const HARMLESS: &[&str] = &[
    "attn_pdrop",
    "auto_map",
    "dense_seq_output",
    "embd_pdrop",
    "fused_bias_fc",
    "fused_dropout_add_ln",
    "n_ctx",
    "parallel_block_tied_norm",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "use_flash_attn",
    "use_xentropy",
];

pub(super) fn parse(config: &Config<'_>) -> Result<EncoderSpec> {
    let older = config.get("n_embd").is_some();
    let mut spec = if older {
        parse_older(config)?
    } else {
        parse_transformers(config)?
    };
    rotatable(config, spec.hidden / spec.heads)?;
    spec.pad_id = config.pad_id(0, spec.vocab)?;
    spec.sequence_head = POOLER_HEAD;
    Ok(spec)
}

fn parse_transformers(config: &Config<'_>) -> Result<EncoderSpec> {
    let sizes = config.usual_sizes([30528, 768, 12, 12, 3072])?;
    config.only("head_dim", &[(sizes.hidden / sizes.heads).into()])?;
    let facts = Facts {
        rows: config.positions("max_position_embeddings", 2048)?,
        types: config.size("type_vocab_size", 2)?,
        activation: config.activation("hidden_act", Activation::Silu)?,
        norm_eps: config.epsilon("layer_norm_eps", 1e-12)?,
    };
    let theta = rope::theta(config, None)?.unwrap_or(1000.0);
    Ok(rotary(bert::like(sizes, facts, NAMES), theta))
}

fn parse_older(config: &Config<'_>) -> Result<EncoderSpec> {
    let ffn = 4 * config.size("n_embd", 768)?;
    let keys = ["vocab_size", "n_embd", "n_layer", "n_head", "n_inner"];
    let mut sizes = config.sizes(keys, [50257, 768, 12, 12, ffn])?;
    sizes.vocab = sizes
        .vocab
        .next_multiple_of(config.size("pad_vocab_size_multiple", 1)?);
    let activation = config.choice(
        "activation_function",
        None,
        &[
            ("swiglu", Some(Activation::Silu)),
            ("geglu", Some(Activation::Gelu)),
        ],
    )?;
    let Some(activation) = activation else {
        return Err(config.error(
            "activation_function",
            "expected swiglu or geglu, and it is not there",
        ));
    };
    let required: [(&str, Value); 5] = [
        ("rotary_emb_fraction", json!(1.0)),
        ("qkv_proj_bias", json!(false)),
        ("mlp_fc1_bias", json!(false)),
        ("mlp_fc2_bias", json!(false)),
        ("scale_attn_weights", json!(true)),
    ];
    for (key, value) in required {
        config.only(key, &[value])?;
    }
    // Those of the five whose default in that code is another must be there.
    for key in [
        "rotary_emb_fraction",
        "qkv_proj_bias",
        "mlp_fc1_bias",
        "mlp_fc2_bias",
    ] {
        if config.get(key).is_none() {
            return Err(config.error(key, "expected it, since its default is not supported"));
        }
    }
    let mut rows = config.positions("n_positions", 2048)?;
    let trained = config.positions("max_trained_positions", 2048)?;
    if config.get("rotary_scaling_factor").is_some() {
        // Beyond these the base would grow with each text's length.
        rows = rows.min(trained);
    }
    let facts = Facts {
        rows,
        types: config.count("type_vocab_size", 2)?,
        activation,
        norm_eps: config.epsilon("layer_norm_epsilon", 1e-5)?,
    };
    let theta = rope::theta_at(config, "rotary_emb_base", 10_000.0)?;
    Ok(rotary(bert::like(sizes, facts, OLDER), theta))
}

fn rotary(mut spec: EncoderSpec, theta: f32) -> EncoderSpec {
    spec.embed.positions = Positions::None;
    for layer in &mut spec.layers {
        *layer = LayerSpec {
            position: Position::Rotary {
                theta,
                stretch: 1.0,
            },
            mlp: Mlp::Gated,
            bias: false,
            mlp_in_bias: false,
            ..layer.clone()
        };
    }
    spec
}
