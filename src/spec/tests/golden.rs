//! Specs against the golden checkpoints: every tensor and every adapted module is accounted for, by name and shape.

use std::collections::{BTreeMap, BTreeSet};

use super::{golden_bases, golden_config, parse};
use crate::{
    spec::*,
    weights::{Source, Tensors},
};

/// Every tensor that a spec calls for, with its shape, names without prefix.
fn tensors_of(spec: &EncoderSpec) -> BTreeMap<String, Vec<usize>> {
    let (h, f, names, embed) = (spec.hidden, spec.ffn, &spec.names, &spec.embed);
    let mut all = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        let full = if name.ends_with(".weight") || name.ends_with(".bias") {
            name
        } else {
            name + ".weight"
        };
        all.insert(full, shape.to_vec());
    };
    let rows = match embed.positions {
        Positions::None => None,
        Positions::FromZero { rows } | Positions::FromPad { rows } => Some(rows),
    };
    add(names.word.into(), &[spec.vocab, embed.width]);
    rows.into_iter()
        .for_each(|rows| add(names.position.into(), &[rows, embed.width]));
    if embed.types > 0 {
        add(names.types.into(), &[embed.types, embed.width]);
    }
    let mut norms = vec![(names.embed_norm.to_owned(), embed.width)];
    if spec.final_norm {
        norms.push((names.final_norm.into(), h));
    }
    if embed.project {
        add(names.embed_project.into(), &[h, embed.width]);
        add(format!("{}.bias", names.embed_project), &[h]);
    }
    for layer in &spec.layers {
        let at = |name: &str| {
            assert!(name.contains("{}"), "{name}");
            name.replace("{}", &layer.weights_of.to_string())
        };
        let wide = if layer.mlp == Mlp::Plain { f } else { 2 * f };
        let linears: [(&[&str], usize, usize, bool); 4] = [
            (names.qkv, 3 * h, h, layer.bias),
            (&[names.attn_out], h, h, layer.bias),
            (names.mlp_in, wide, h, layer.mlp_in_bias),
            (&[names.mlp_out], h, f, layer.bias),
        ];
        for (modules, n, k, bias) in linears {
            for module in modules {
                add(at(module), &[n / modules.len(), k]);
                if bias {
                    add(format!("{}.bias", at(module)), &[n / modules.len()]);
                }
            }
        }
        if layer.attn_norm {
            norms.push((at(names.attn_norm), h));
        }
        norms.push((at(names.mlp_norm), h));
        match layer.position {
            Position::Bucketed { buckets, .. } => {
                add(names.relative.into(), &[buckets, spec.heads])
            }
            Position::Relative(r) => {
                let span = if r.buckets > 0 {
                    r.buckets
                } else {
                    r.max_distance
                };
                add(names.relative.into(), &[2 * span, h]);
                if r.norm {
                    norms.push((names.relative_norm.into(), h));
                }
                let own = [r.c2p, r.p2c].into_iter().zip(names.relative_projections);
                for (_, module) in own.filter(|(there, _)| *there && !r.shared_keys) {
                    add(at(module), &[h, h]);
                    add(format!("{}.bias", at(module)), &[h]);
                }
            }
            Position::Absolute | Position::Rotary { .. } => {}
        }
    }
    for (name, width) in norms {
        if embed.norm_bias {
            add(format!("{name}.bias"), &[width]);
        }
        add(name, &[width]);
    }
    all
}

#[test]
fn specs_account_for_every_tensor_of_the_golden_checkpoints() {
    let mut families = BTreeSet::new();
    for (name, base) in golden_bases() {
        let spec = parse(&golden_config(&base)).unwrap_or_else(|e| panic!("{name}: {e}"));
        families.insert(spec.family.clone());
        assert_eq!(spec.own_head, Some(OwnHead::Sequence), "{name}");
        assert_eq!(spec.labels, ["positive", "neutral", "negative"], "{name}");
        let tensors = Tensors::open(&Source::dir(&base).unwrap()).unwrap();
        let holds =
            |prefix: &&&str| tensors.contains(&format!("{prefix}{}.weight", spec.names.word));
        let prefix = spec.names.prefixes.iter().find(holds).unwrap();
        let mut expected: BTreeMap<String, Vec<usize>> = tensors_of(&spec)
            .into_iter()
            .map(|(tensor, shape)| (format!("{prefix}{tensor}"), shape))
            .collect();
        let head = spec.sequence_head;
        let labels = spec.labels.len();
        expected.insert(format!("{}.weight", head.out), vec![labels, spec.hidden]);
        expected.insert(format!("{}.bias", head.out), vec![labels]);
        if let Some(dense) = head.dense {
            let module = format!(
                "{}{}",
                if dense.in_encoder { prefix } else { "" },
                dense.name
            );
            expected.insert(format!("{module}.weight"), vec![spec.hidden; 2]);
            if dense.bias {
                expected.insert(format!("{module}.bias"), vec![spec.hidden]);
            }
            if let Some(norm) = dense.norm {
                expected.insert(format!("{norm}.weight"), vec![spec.hidden]);
                if spec.embed.norm_bias {
                    expected.insert(format!("{norm}.bias"), vec![spec.hidden]);
                }
            }
        }
        let found: BTreeMap<String, Vec<usize>> = tensors
            .iter()
            .map(|t| (t.name.to_owned(), t.shape.to_vec()))
            .collect();
        let differing = |a: &BTreeMap<String, Vec<usize>>, b: &BTreeMap<String, Vec<usize>>| {
            a.iter()
                .filter(|(k, v)| b.get(*k) != Some(v))
                .map(|(k, v)| format!("{k} {v:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            differing(&expected, &found),
            [""; 0],
            "{name}: expected and not found"
        );
        assert_eq!(
            differing(&found, &expected),
            [""; 0],
            "{name}: found and not expected"
        );
    }
    let missing: Vec<&str> = FAMILIES
        .iter()
        .map(|f| f.model_type)
        .filter(|f| !families.contains(*f) && *f != "new")
        .collect();
    assert_eq!(missing, [""; 0], "families without a golden checkpoint");
}

/// Every module path of a golden adapter is a linear of the spec, under its own name or the table's other one.
#[test]
fn tables_name_every_module_of_the_golden_adapters() {
    for (name, base) in golden_bases() {
        let spec = parse(&golden_config(&base)).unwrap();
        let names = &spec.names;
        let linears: Vec<&str> = [names.qkv, names.mlp_in]
            .concat()
            .into_iter()
            .chain([names.attn_out, names.mlp_out])
            .collect();
        for part in names.modules {
            assert!(
                linears.contains(&part.of) && part.part < part.parts,
                "{name}: {part:?}"
            );
        }
        let others = names.modules.iter().map(|m| m.path);
        let known: Vec<&str> = linears
            .iter()
            .copied()
            .chain(others)
            .chain(names.relative_projections.iter().copied())
            .collect();
        let adapters = base.parent().unwrap().join("adapters");
        for dir in std::fs::read_dir(adapters)
            .unwrap()
            .map(|e| e.unwrap().path())
        {
            let Ok(source) = Source::dir(&dir) else {
                continue;
            };
            let Some(tensors) = Tensors::open_file(&source, "adapter_model.safetensors").unwrap()
            else {
                continue;
            };
            for tensor in tensors.names().filter(|n| n.contains(".lora_A")) {
                let path = tensor
                    .strip_prefix("base_model.model.")
                    .unwrap()
                    .split(".lora_A")
                    .next()
                    .unwrap();
                let found = spec
                    .names
                    .prefixes
                    .iter()
                    .filter_map(|p| path.strip_prefix(p))
                    .any(|inner| {
                        (0..spec.layers.len()).any(|l| {
                            known
                                .iter()
                                .any(|k| k.replace("{}", &l.to_string()) == inner)
                        })
                    });
                let dense = spec
                    .sequence_head
                    .dense
                    .is_some_and(|d| path.ends_with(d.name));
                assert!(found || dense, "{name} {}: {path}", dir.display());
            }
        }
    }
}
