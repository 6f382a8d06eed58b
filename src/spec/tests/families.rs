//! The facts of each family beside BERT, in both spellings of its configuration where there are two.

use serde_json::{Value, json};

use super::{parse, refusal, with};
use crate::spec::*;

#[test]
fn roberta_counts_positions_from_the_padding_id() {
    let config = json!({
        "model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2, "vocab_size": 50265, "layer_norm_eps": 1e-5,
    });
    let spec = parse(&config).unwrap();
    assert_eq!(
        (spec.max_tokens, spec.pad_id, spec.embed.types),
        (512, 1, 1)
    );
    assert_eq!(spec.embed.positions, Positions::FromPad { rows: 514 });
    assert_eq!(spec.sequence_head.out, "classifier.out_proj");
    assert_eq!(spec.token_head.out, "classifier");
    assert!(refusal(&with(config, "max_position_embeddings", json!(2))).contains("no position"));
}

#[test]
fn deberta_has_both_spellings_of_its_terms() {
    let v3 = json!({
        "model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "max_position_embeddings": 512, "relative_attention": true, "position_buckets": 256,
        "norm_rel_ebd": "layer_norm", "share_att_key": true, "pos_att_type": "p2c|c2p", "layer_norm_eps": 1e-7,
        "max_relative_positions": -1, "position_biased_input": false, "num_attention_heads": 12,
        "num_hidden_layers": 12, "type_vocab_size": 0, "vocab_size": 128100,
    });
    let spec = parse(&v3).unwrap();
    let relative = Relative {
        buckets: 256,
        max_distance: 512,
        c2p: true,
        p2c: true,
        shared_keys: true,
        norm: true,
    };
    assert_eq!(spec.layers[0].position, Position::Relative(relative));
    assert_eq!(
        (spec.embed.positions, spec.embed.types),
        (Positions::None, 0)
    );
    assert_eq!(
        parse(&with(v3.clone(), "pos_att_type", json!(["c2p", "p2c"]))).unwrap(),
        spec
    );
    let unbucketed = parse(&with(v3.clone(), "position_buckets", json!(-1))).unwrap();
    assert_eq!(
        unbucketed.layers[0].position,
        Position::Relative(Relative {
            buckets: 0,
            ..relative
        })
    );
    for (key, value) in [
        ("conv_kernel_size", json!(3)),
        ("pos_att_type", json!("p2p")),
        ("relative_attention", json!(false)),
        ("position_buckets", json!(2000)),
        ("embedding_size", json!(128)),
        ("norm_rel_ebd", json!("rms")),
    ] {
        let why = refusal(&with(v3.clone(), key, value));
        assert!(
            why.contains(key) || why.contains("pos_att_type"),
            "{key}: {why}"
        );
    }
}

#[test]
fn modernbert_has_two_spellings_of_one_thing() {
    let four = json!({
        "architectures": ["ModernBertForMaskedLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 50281, "classifier_activation": "gelu", "classifier_bias": false, "classifier_dropout": 0.0,
        "classifier_pooling": "mean", "cls_token_id": 50281, "decoder_bias": true, "deterministic_flash_attn": false,
        "embedding_dropout": 0.0, "eos_token_id": 50282, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0, "gradient_checkpointing": false, "hidden_activation": "gelu",
        "hidden_size": 768, "initializer_cutoff_factor": 2.0, "initializer_range": 0.02, "intermediate_size": 1152,
        "layer_norm_eps": 1e-05, "local_attention": 128, "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192, "mlp_bias": false, "mlp_dropout": 0.0, "model_type": "modernbert",
        "norm_bias": false, "norm_eps": 1e-05, "num_attention_heads": 12, "num_hidden_layers": 22,
        "pad_token_id": 50283, "position_embedding_type": "absolute", "sep_token_id": 50282,
        "tie_word_embeddings": true, "torch_dtype": "float32", "transformers_version": "4.47.0.dev0",
        "vocab_size": 50368,
    });
    let spec = parse(&four).unwrap();
    assert_eq!(
        (spec.layers.len(), spec.max_tokens, spec.final_norm),
        (22, 8192, true)
    );
    assert_eq!(spec.sequence_head.pool, Pooling::Mean);
    for (i, layer) in spec.layers.iter().enumerate() {
        let global = i % 3 == 0;
        let theta = if global { 160_000.0 } else { 10_000.0 };
        assert_eq!(
            layer.position,
            Position::Rotary {
                theta,
                stretch: 1.0
            },
            "layer {i}"
        );
        assert_eq!(layer.window, (!global).then_some(64), "layer {i}");
        assert_eq!(layer.attn_norm, i > 0);
    }
    let mut five = four.clone();
    let keys = [
        "global_attn_every_n_layers",
        "global_rope_theta",
        "local_rope_theta",
        "position_embedding_type",
    ];
    let object = five.as_object_mut().unwrap();
    object.retain(|k, _| !keys.contains(&k.as_str()));
    let kinds: Vec<&str> = (0..22)
        .map(|i| {
            if i % 3 == 0 {
                "full_attention"
            } else {
                "sliding_attention"
            }
        })
        .collect();
    five["layer_types"] = json!(kinds);
    five["rope_parameters"] = json!({
        "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    });
    assert_eq!(parse(&five).unwrap(), spec);
    // Null in the old spelling: local layers turn as global ones do.
    let null = parse(&with(four.clone(), "local_rope_theta", Value::Null)).unwrap();
    assert_eq!(
        null.layers[1].position,
        Position::Rotary {
            theta: 160_000.0,
            stretch: 1.0
        }
    );
    let mut scaled = five.clone();
    scaled["rope_parameters"]["full_attention"] =
        json!({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4});
    assert!(refusal(&scaled).contains("rope_parameters"));
    assert!(
        refusal(&with(
            five.clone(),
            "layer_types",
            json!(["full_attention"])
        ))
        .contains("layer_types")
    );
    assert!(
        refusal(&with(four.clone(), "rope_scaling", json!({"factor": 2.0})))
            .contains("rope_scaling")
    );
    assert!(refusal(&with(four, "mlp_bias", json!(true))).contains("mlp_bias"));
}

#[test]
fn nomic_is_read_in_its_older_words_too() {
    let older: Value = serde_json::from_str(
        r#"{
        "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0,
        "auto_map": {"AutoConfig": "x--configuration.NomicBertConfig", "AutoModel": "x--modeling.NomicBertModel"},
        "bos_token_id": null, "causal": false, "dense_seq_output": true, "embd_pdrop": 0.0, "eos_token_id": null,
        "fused_bias_fc": true, "fused_dropout_add_ln": true, "initializer_range": 0.02, "layer_norm_epsilon": 1e-12,
        "max_trained_positions": 2048, "mlp_fc1_bias": false, "mlp_fc2_bias": false, "model_type": "nomic_bert",
        "n_embd": 768, "n_head": 12, "n_inner": 3072, "n_layer": 12, "n_positions": 8192,
        "pad_vocab_size_multiple": 64, "parallel_block": false, "parallel_block_tied_norm": false, "prenorm": false,
        "qkv_proj_bias": false, "reorder_and_upcast_attn": false, "resid_pdrop": 0.0, "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false, "rotary_emb_scale_base": null,
        "rotary_scaling_factor": null, "scale_attn_by_inverse_layer_idx": false, "scale_attn_weights": true,
        "summary_activation": null, "summary_first_dropout": 0.0, "summary_proj_to_labels": true,
        "summary_type": "cls_index", "summary_use_proj": true, "torch_dtype": "float32", "type_vocab_size": 2,
        "use_cache": true, "use_flash_attn": true, "use_rms_norm": false, "use_xentropy": true, "vocab_size": 30522
    }"#,
    )
    .unwrap();
    let spec = parse(&older).unwrap();
    assert_eq!((spec.vocab, spec.max_tokens), (30528, 8192));
    assert_eq!(
        spec.layers[0].position,
        Position::Rotary {
            theta: 1000.0,
            stretch: 1.0
        }
    );
    assert_eq!(spec.layers[0].activation, Activation::Silu);
    let newer = json!({"model_type": "nomic_bert", "max_position_embeddings": 8192});
    let newer = parse(&newer).unwrap();
    assert!(newer.names.in_modules && !spec.names.in_modules);
    let names = spec.names; // of another class
    assert_eq!(EncoderSpec { names, ..newer }, spec);
    let capped = parse(&with(older.clone(), "rotary_scaling_factor", json!(2))).unwrap();
    assert_eq!(capped.max_tokens, 2048);
    for (key, value) in [
        ("prenorm", json!(true)),
        ("qkv_proj_bias", json!(true)),
        ("rotary_emb_fraction", json!(0.5)),
        ("scale_attn_by_inverse_layer_idx", json!(true)),
        ("moe_every_n_layers", json!(2)),
        ("causal", json!(true)),
        ("activation_function", json!("gelu")),
        ("rotary_emb_interleaved", json!(true)),
    ] {
        assert!(
            refusal(&with(older.clone(), key, value)).contains(key),
            "{key}"
        );
    }
}

#[test]
fn the_other_families_have_their_facts() {
    let albert = json!({
        "model_type": "albert", "embedding_size": 128, "hidden_size": 768, "num_attention_heads": 12,
        "intermediate_size": 3072, "num_hidden_layers": 12, "num_hidden_groups": 1, "inner_group_num": 1,
        "down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0, "num_memory_blocks": 0, "layers_to_keep": [],
    });
    let spec = parse(&albert).unwrap();
    assert!(spec.layers.iter().all(|l| l.weights_of == 0) && spec.layers.len() == 12);
    assert_eq!(
        (spec.layers[0].activation, spec.embed.project),
        (Activation::GeluTanh, true)
    );
    let grouped = parse(&with(albert.clone(), "num_hidden_groups", json!(3))).unwrap();
    let groups: Vec<usize> = grouped.layers.iter().map(|l| l.weights_of).collect();
    assert_eq!(groups, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    assert!(refusal(&with(albert, "inner_group_num", json!(2))).contains("inner_group_num"));

    let electra = parse(&json!({"model_type": "electra"})).unwrap();
    assert_eq!(
        (electra.embed.width, electra.hidden, electra.embed.project),
        (128, 256, true)
    );
    let wide = parse(&json!({"model_type": "electra", "embedding_size": 768, "hidden_size": 768}))
        .unwrap();
    assert!(!wide.embed.project);
    assert_eq!(
        wide.sequence_head.dense.unwrap().activation,
        Activation::Gelu
    );

    let distil = parse(
        &json!({"model_type": "distilbert", "tie_weights_": true, "seq_classif_dropout": 0.2}),
    )
    .unwrap();
    assert_eq!(
        (distil.layers.len(), distil.embed.types, distil.norm_eps),
        (6, 0, 1e-12)
    );
    assert_eq!(distil.sequence_head.dense.unwrap().name, "pre_classifier");

    let mpnet = parse(&json!({"model_type": "mpnet", "max_position_embeddings": 514})).unwrap();
    assert_eq!((mpnet.max_tokens, mpnet.pad_id), (512, 1));
    assert_eq!(
        mpnet.layers[0].position,
        Position::Bucketed {
            buckets: 32,
            max_distance: 128
        }
    );

    let new = json!({
        "model_type": "new", "auto_map": {"AutoModel": "modeling.NewModel"}, "layer_norm_type": "layer_norm",
        "logn_attention_clip1": false, "logn_attention_scale": false, "pack_qkv": true, "rope_theta": 20000,
        "position_embedding_type": "rope", "unpad_inputs": true, "use_memory_efficient_attention": true,
        "rope_scaling": null, "type_vocab_size": 0,
    });
    let spec = parse(&new).unwrap();
    assert_eq!(
        spec.layers[0].position,
        Position::Rotary {
            theta: 20_000.0,
            stretch: 1.0
        }
    );
    assert_eq!(
        (
            spec.layers[0].mlp,
            spec.layers[0].bias,
            spec.layers[0].mlp_in_bias
        ),
        (Mlp::GatedSecond, true, false)
    );
    let scaled = |to: Value| with(new.clone(), "rope_scaling", to);
    let ntk = parse(&scaled(json!({"factor": 8.0, "type": "ntk"}))).unwrap();
    // Heads of 64: the base times the factor, frequencies divided by its 32nd root.
    assert_eq!(
        ntk.layers[0].position,
        Position::Rotary {
            theta: 160_000.0,
            stretch: 8f64.powf(1.0 / 32.0) as f32
        }
    );
    for other in [
        json!({"factor": 8.0, "type": "ntk", "mixed_b": 0.3}),
        json!({"factor": 8.0, "type": "yarn"}),
        json!({"factor": 0.5, "type": "ntk"}),
        json!({"type": "ntk"}),
        json!({"factor": 2.0}),
        json!([8.0]),
    ] {
        assert!(refusal(&scaled(other)).contains("rope_scaling"));
    }
    let gte = parse(&json!({"model_type": "gte"})).unwrap();
    assert_eq!(
        gte.layers[0].position,
        Position::Rotary {
            theta: 160_000.0,
            stretch: 1.0
        }
    );
}
