//! Parity with transformers and peft: every intermediate of the base, every adapter's answers. With `--nocapture` each test
//! prints a table of the largest relative difference of each family.

use sorank::{
    engine::Want,
    mat::{MatMut, Matrix},
    model::{Batch, Hook, Place, Sequence},
};

use crate::fixtures::{FAMILIES, PARITY, admit, distance, embedding, golden, load, logits};

/// Keeps a copy of the places that torch's hooks recorded too.
#[derive(Default)]
struct Recorder(Vec<(String, Matrix)>);

impl Hook for Recorder {
    fn at(&mut self, place: Place, layer: usize, x: MatMut<'_>) {
        let name = match place {
            Place::Embedded => "embedding".to_owned(),
            Place::LayerOut => format!("layer.{layer}"),
            Place::Encoded => "last".to_owned(),
            _ => return,
        };
        let mut copy = Matrix::default();
        copy.reshape(x.rows(), x.cols()).copy_from(x.as_ref());
        self.0.push((name, copy));
    }
}

#[test]
fn every_layer_equals_transformers() {
    println!("{:22} largest relative difference of any layer", "");
    for family in FAMILIES {
        let golden = golden(family);
        let model = load(&golden.base());
        let task = model.base_task().expect("the base is a task");
        let (ids, mut types) = (golden.numbers("ids"), golden.numbers("types"));
        let most = model.spec().embed.types.max(1) as u32 - 1;
        types.iter_mut().flatten().for_each(|t| *t = (*t).min(most));
        let rows: Vec<usize> =
            serde_json::from_value(golden.index["hidden_rows"].clone()).expect("hidden_rows");
        let batch = Batch::pack(rows.iter().map(|&r| Sequence {
            ids: &ids[r],
            types: &types[r],
            task: 0,
        }));
        let mut recorder = Recorder::default();
        model.forward(&batch, &[&task], &mut recorder);
        let (mut compared, mut worst) = (0, 0.0_f32);
        for (place, got) in &recorder.0 {
            for (s, row) in rows.iter().enumerate() {
                let name = format!("hidden.{row}.{place}");
                if !golden.has(&name) {
                    continue;
                }
                let range = batch.rows(s);
                let width = got.cols();
                let got = &got.as_slice()[range.start * width..range.end * width];
                let error = distance(got, &golden.tensor(&name).1);
                assert!(
                    error <= PARITY,
                    "{family}: first wrong place is {name}: {error:e}"
                );
                compared += 1;
                worst = worst.max(error);
            }
        }
        assert!(
            compared >= 2 * (model.spec().layers.len() + 1),
            "{family}: {compared} places compared"
        );
        println!("{family:22} {worst:.1e} in {compared} places");
    }
}

#[test]
fn tokens_equal_transformers() {
    for family in FAMILIES {
        let golden = golden(family);
        let engine = golden.engine(64);
        let rows = admit(&engine, None, Want::Embedding, &golden.texts());
        for (row, ids) in rows.iter().zip(golden.numbers("ids")) {
            assert_eq!(row.encoded.ids, ids, "{family}");
        }
    }
}

#[test]
fn every_adapter_equals_peft_in_one_mixed_batch() {
    let columns = ["base: texts", "pairs", "adapters: texts", "pairs"];
    println!(
        "{:22} {:>15} {:>15} {:>15} {:>15}",
        "", columns[0], columns[1], columns[2], columns[3]
    );
    for family in FAMILIES {
        let golden = golden(family);
        let engine = golden.engine(1 << 20);
        let texts = golden.texts();
        let classifiers = golden.classifiers();
        // Row by row the adapter changes: a batch as mixed as it can be.
        let mut rows = Vec::new();
        let mut wanted = Vec::new();
        for (r, text) in texts.iter().enumerate() {
            let text = std::slice::from_ref(text);
            rows.extend(admit(&engine, None, Want::Classes, text));
            wanted.push(("logits.base".to_owned(), r));
            for adapter in &classifiers {
                rows.extend(admit(&engine, Some(adapter), Want::Classes, text));
                wanted.push((format!("logits.{adapter}"), r));
            }
        }
        let (mut wrong, mut worst) = (Vec::new(), [0.0_f32; 4]);
        for (answer, (name, r)) in engine.run(&rows).iter().zip(&wanted) {
            let error = golden.distance(name, *r, logits(answer));
            let column =
                2 * usize::from(name != "logits.base") + usize::from(texts[*r].1.is_some());
            worst[column] = worst[column].max(error);
            if error > PARITY {
                wrong.push(format!("{family} {name} row {r}: {error:e}"));
            }
        }
        assert!(
            wrong.is_empty(),
            "{} of {}:\n{}",
            wrong.len(),
            wanted.len(),
            wrong.join("\n")
        );
        assert!(
            worst.iter().all(|w| *w > 0.0),
            "{family}: texts and pairs of both kinds"
        );
        let [a, b, c, d] = worst;
        println!(
            "{family:22} {a:15.1e} {b:15.1e} {c:15.1e} {d:15.1e}  {} adapters",
            classifiers.len()
        );
    }
}

#[test]
fn embeddings_equal_peft() {
    println!("{:22} {:>9} {:>9}", "embeddings", "base", "adapter");
    for family in FAMILIES {
        let golden = golden(family);
        let engine = golden.engine(1 << 20);
        let texts = golden.texts();
        let mut worst = [0.0_f32; 2];
        for (i, (adapter, name)) in [(None, "base"), (Some("embed"), "embed")]
            .into_iter()
            .enumerate()
        {
            let rows = admit(&engine, adapter, Want::Embedding, &texts);
            for (r, answer) in engine.run(&rows).iter().enumerate() {
                let error = golden.distance(&format!("pooled.{name}.mean"), r, embedding(answer));
                assert!(error <= PARITY, "{family} {name} row {r}: {error:e}");
                worst[i] = worst[i].max(error);
            }
        }
        println!("{family:22} {:9.1e} {:9.1e}", worst[0], worst[1]);
    }
}

#[test]
fn the_built_in_model_answers_as_torch_does() {
    let tiny = crate::fixtures::manifest_dir().join("models/tiny");
    let engine = crate::fixtures::engine(&tiny.join("base"), 2048);
    for name in ["sentiment", "question", "intent"] {
        crate::fixtures::add(&engine, name, &tiny.join("adapters").join(name));
    }
    let rows = std::fs::read(tiny.join("golden.json")).expect("golden.json");
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&rows).expect("JSON");
    assert!(rows.len() >= 8);
    for row in &rows {
        let text = (row["text"].as_str().expect("a text").to_owned(), None);
        let admitted = admit(&engine, row["adapter"].as_str(), Want::Classes, &[text]);
        let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).expect("ids");
        assert_eq!(admitted[0].encoded.ids, ids);
        let want: Vec<f32> = serde_json::from_value(row["logits"].clone()).expect("logits");
        let answers = engine.run(&admitted);
        let error = distance(logits(&answers[0]), &want);
        assert!(error <= PARITY, "{row}: {error:e}");
    }
}
