//! Adapters of AdapterHub's library, imported, against its own answers.

use sorank::{
    adapter::Adapter,
    engine::Want,
    model::{Batch, Sequence},
};

use crate::fixtures::{PARITY, add, admit, distance, golden, logits, manifest_dir};

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
