//! Imported adapters against the models that they come from.

use sorank::{
    adapter::{Adapter, SoraImport},
    engine::Want,
    model::{Batch, Sequence},
};

use crate::fixtures::{PARITY, add, admit, distance, golden, load, logits, manifest_dir};

/// Largest difference of an imported SoRA adapter's logits to the gated model's, relative to the largest: two layers of f32,
/// 8 wide.
const GATED: f32 = 1e-6;

#[test]
fn an_import_from_adapterhub_answers_as_its_library_does() {
    let dir = manifest_dir().join("tests/reference/adapterhub");
    let expected = std::fs::read(dir.join("expected.json")).expect("expected.json");
    let expected: serde_json::Value = serde_json::from_slice(&expected).expect("JSON");
    let cases = expected.as_object().expect("cases by name");
    assert_eq!(cases.len(), 7);
    for (name, case) in cases {
        let golden = golden(case["base"].as_str().expect("a base"));
        let engine = golden.engine(1 << 20);
        let (adapter, _) = Adapter::import_adapterhub(&dir.join(name)).expect("it imports");
        // By way of a file: what is written is what peft and sorank load.
        let out = tempfile::tempdir().expect("a directory");
        let written = out.path().join("adapter");
        adapter.write(&written).expect("it is written");
        add(&engine, name, &written);
        let mut worst = 0.0_f32;
        for (text, want) in golden
            .texts()
            .iter()
            .zip(case["logits"].as_array().expect("rows"))
        {
            let text = std::slice::from_ref(text);
            let got: Vec<f32> = if name.ends_with("tags") {
                let ids = &admit(&engine, None, Want::Tokens, text)[0].encoded;
                let row = Sequence {
                    ids: &ids.ids,
                    types: &ids.types,
                    task: 0,
                };
                let task = engine.registry().get(Some(name)).expect("it is there");
                let batch = Batch::pack([row]);
                let hidden = engine.model().forward(&batch, &[&task], &mut ());
                let head = &task.classifier.as_ref().expect("a head").head;
                engine.model().tag(head, hidden.view()).as_slice().to_vec()
            } else {
                let rows = admit(&engine, Some(name), Want::Classes, text);
                logits(&engine.run(&rows)[0]).to_vec()
            };
            let mut flat = Vec::new();
            let one = |v: &serde_json::Value| v.as_f64().map(|x| x as f32);
            for part in want.as_array().expect("numbers") {
                match part.as_array() {
                    Some(row) => flat.extend(row.iter().filter_map(one)),
                    None => flat.extend(one(part)),
                }
            }
            worst = worst.max(distance(&got, &flat));
        }
        println!("{name}: {worst:.1e}");
        assert!(worst <= PARITY, "{name}: {worst:e}");
    }
}

#[test]
fn an_imported_sora_checkpoint_answers_as_the_gated_model() {
    let home = manifest_dir().join("tests/reference/sora");
    let answers = std::fs::read(home.join("answers.json")).expect("answers.json");
    let answers: serde_json::Value = serde_json::from_slice(&answers).expect("JSON");
    let rows = |key: &str| -> Vec<Vec<f32>> {
        serde_json::from_value(answers[key].clone()).expect("rows of numbers")
    };
    let ids: Vec<Vec<u32>> = serde_json::from_value(answers["ids"].clone()).expect("ids");
    let options = SoraImport {
        head: Some(home.join("whole_model.bin")),
        ..SoraImport::default()
    };
    let imported = Adapter::import_sora(&home.join("checkpoint"), &options);
    let (adapter, _) = imported.expect("it imports");
    let model = load(&home.join("base"));
    let task = model.bind("gated", &adapter).expect("it binds");
    let zeros = [0; 32];
    let batch = Batch::pack(ids.iter().map(|ids| Sequence {
        ids,
        types: &zeros[..ids.len()],
        task: 0,
    }));
    let hidden = model.forward(&batch, &[&task], &mut ());
    let head = &task.classifier.as_ref().expect("a head").head;
    let all = (0..batch.sequences()).map(|s| batch.rows(s));
    let got = model.classify(head, hidden.view(), all);
    let (want, bare) = (rows("gated").concat(), rows("bare").concat());
    let error = distance(got.as_slice(), &want);
    println!("an imported SoRA adapter differs from the gated model by {error:.1e}");
    assert!(error <= GATED, "{error:e}");
    assert!(distance(&bare, &want) > 0.05, "the gates move the answers");
}
