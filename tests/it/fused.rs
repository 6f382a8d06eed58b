//! Families whose model classes name their linears differently: an adapter of either class answers alike.

use std::collections::BTreeMap;

use sorank::{
    adapter::{Adapter, Factors, Targets},
    engine::Want,
    mat::Matrix,
    model::Model,
};

use crate::fixtures::{Golden, PARITY, admit, engine, golden, load, logits};

/// Families of which one class fuses what another keeps apart.
const FUSED: [&str; 4] = ["nomic_bert", "gte", "gte-ntk", "jina_embeddings_v3"];

/// The prefix of PEFT's paths in the fixture.
fn prefix(adapter: &Adapter) -> String {
    let path = adapter.factors.keys().next().expect("a site");
    let (prefix, _) = path.split_once("layers.").expect("a path of a layer");
    prefix.to_owned()
}

/// `adapter`, whose modules are the parts of fused ones, as one of the fused modules: A stacked, B block by block.
fn fused(model: &Model, adapter: &Adapter) -> Adapter {
    let prefix = prefix(adapter);
    let names = &model.spec().names;
    let mut groups: BTreeMap<String, Vec<(usize, usize, &Factors)>> = BTreeMap::new();
    let mut taken = 0;
    for layer in 0..model.depth() {
        let at = |template: &str| template.replace("{}", &layer.to_string());
        for module in names.modules {
            let path = format!("{prefix}{}", at(module.path));
            if let Some(factors) = adapter.factors.get(&path) {
                taken += 1;
                let group = groups.entry(format!("{prefix}{}", at(module.of)));
                group
                    .or_default()
                    .push((module.part, module.parts, factors));
            }
        }
    }
    assert_eq!(taken, adapter.factors.len(), "every site has another name");
    let fuse = |parts: Vec<(usize, usize, &Factors)>| {
        let rank: usize = parts.iter().map(|(.., f)| f.rank()).sum();
        let (inputs, rows) = (parts[0].2.a.cols(), parts[0].2.b.rows());
        let stacked = parts.iter().flat_map(|(.., f)| f.a.as_slice()).copied();
        let a = Matrix::from_vec(stacked.collect(), rank, inputs);
        let mut b = vec![0.0; parts[0].1 * rows * rank];
        let mut first = 0;
        for (part, _, f) in &parts {
            for row in 0..rows {
                for j in 0..f.rank() {
                    b[(part * rows + row) * rank + first + j] = f.scale * f.b.row(row)[j];
                }
            }
            first += f.rank();
        }
        let b = Matrix::from_vec(b, parts[0].1 * rows, rank);
        Factors { a, b, scale: 1.0 }
    };
    let factors: BTreeMap<String, Factors> = groups
        .into_iter()
        .map(|(p, parts)| (p, fuse(parts)))
        .collect();
    Adapter {
        targets: Targets::exactly(factors.keys().cloned()),
        factors,
        ..adapter.clone()
    }
}

fn mixed(golden: &Golden) -> (Model, Adapter, Adapter) {
    let model = load(&golden.base());
    let apart = Adapter::read(&golden.adapter_dir("mixed")).expect("it reads");
    let fused = fused(&model, &apart);
    assert!((fused.factors.keys()).all(|path| !apart.factors.contains_key(path)));
    (model, apart, fused)
}

#[test]
fn an_adapter_of_the_fused_module_answers_as_peft_on_its_parts() {
    for family in FUSED {
        let golden = golden(family);
        let (_, _, fused) = mixed(&golden);
        let engine = engine(&golden.base(), 1 << 20);
        let task = engine.model().bind("fused", &fused).expect("it binds");
        engine.registry().insert("fused", task);
        let rows = admit(&engine, Some("fused"), Want::Classes, &golden.texts());
        for (r, answer) in engine.run(&rows).iter().enumerate() {
            let error = golden.distance("logits.mixed", r, logits(answer));
            assert!(error <= PARITY, "{family} row {r}: {error:e}");
        }
    }
}

#[test]
fn the_same_columns_twice_are_refused() {
    for family in FUSED {
        let (model, apart, mut both) = mixed(&golden(family));
        both.factors.extend(apart.factors);
        let why = model.bind("both", &both).expect_err("refused").to_string();
        assert!(why.contains("are the same weights"), "{why}");
    }
}

#[test]
fn a_missing_part_of_a_targeted_fused_module_is_named() {
    for family in FUSED {
        let (model, mut apart, _) = mixed(&golden(family));
        let gone = apart.factors.pop_last().expect("a site").0;
        let why = model.bind("less", &apart).expect_err("refused").to_string();
        assert!(why.contains(&gone), "{why}");
        assert_eq!(why.matches("lora_A").count(), 1, "{why}");
    }
}

#[test]
fn merged_from_either_naming_the_checkpoint_is_the_same() {
    for family in FUSED {
        let golden = golden(family);
        let (model, apart, fused) = mixed(&golden);
        let dir = tempfile::tempdir().expect("a directory");
        let mut answers = Vec::new();
        for (name, adapter) in [("apart", &apart), ("fused", &fused)] {
            let out = dir.path().join(name);
            model.export_merged(adapter, &out).expect("it is written");
            let merged = engine(&out, 1 << 20);
            let rows = admit(&merged, None, Want::Classes, &golden.texts());
            let found = merged.run(&rows);
            let all = found.iter().flat_map(logits).copied();
            answers.push(all.collect::<Vec<f32>>());
        }
        let error = crate::fixtures::distance(&answers[1], &answers[0]);
        assert!(error <= PARITY, "{family}: {error:e}");
    }
}
