//! Merging in place and to a file.

use sorank::{
    adapter::Adapter,
    engine::{Answer, Want},
    model::{Batch, Merged, Model, Sequence, Task},
};

use crate::fixtures::{FAMILIES, add, admit, bits, distance, engine, golden, load, logits};

/// Largest difference of merged answers to unmerged ones, relative: the sum B A is rounded into the weight once
/// more, half an ulp (6e-8) on each of a few hundred terms a layer, and the fixtures' random layers amplify
/// what comes in (2.2e-5 seen in the four layers of modernbert).
const MERGE_ROUNDING: f32 = 5e-5;

fn hidden(model: &Model, task: &Task, ids: &[Vec<u32>]) -> Vec<f32> {
    let zeros = vec![0; 512];
    let batch = Batch::pack(ids.iter().map(|ids| Sequence {
        ids,
        types: &zeros[..ids.len()],
        task: 0,
    }));
    model.forward(&batch, &[task], &mut ()).as_slice().to_vec()
}

#[test]
fn merged_answers_are_near_and_unmerging_is_exact_a_hundred_times() {
    for family in FAMILIES {
        let golden = golden(family);
        let ids = golden.numbers("ids");
        let mut model = load(&golden.base());
        let base = model.base_task().expect("a task");
        let bare = hidden(&model, &base, &ids);
        for cycle in 0..100 {
            let name = ["mixed", "qv2", "embed"][cycle % 3];
            let adapter = Adapter::read(&golden.adapter_dir(name)).expect("an adapter");
            let task = model.bind(name, &adapter).expect("it binds");
            let unmerged = hidden(&model, &task, &ids);
            let merged = Merged::new(model, &task).expect("f32 merges");
            let got = hidden(merged.model(), merged.task(), &ids);
            assert!(
                distance(&got, &unmerged) <= MERGE_ROUNDING,
                "{family} {name}: {:e}",
                distance(&got, &unmerged)
            );
            assert!(
                distance(&got, &bare) > 1e-2,
                "{family} {name}: merging changed nothing"
            );
            model = merged.unmerge().expect("pages drop");
            assert_eq!(
                bits(&hidden(&model, &base, &ids)),
                bits(&bare),
                "{family}, cycle {cycle}"
            );
        }
    }
}

#[test]
fn a_fork_does_not_see_a_merge() {
    let golden = golden("bert");
    let ids = golden.numbers("ids");
    let model = load(&golden.base());
    let base = model.base_task().expect("a task");
    let bare = hidden(&model, &base, &ids);
    let adapter = Adapter::read(&golden.adapter_dir("mixed")).expect("an adapter");
    let task = model.bind("mixed", &adapter).expect("it binds");
    let merged = Merged::new(model.fork().expect("it forks"), &task).expect("f32 merges");
    assert_eq!(bits(&hidden(&model, &base, &ids)), bits(&bare));
    assert!(distance(&hidden(merged.model(), merged.task(), &ids), &bare) > 1e-2);
}

#[test]
fn a_merged_checkpoint_answers_as_base_and_adapter() {
    for family in FAMILIES {
        let golden = golden(family);
        let texts = golden.texts();
        for name in ["mixed", "qv2", "reg"] {
            let dir = tempfile::tempdir().expect("a directory");
            let out = dir.path().join("merged");
            let adapter = Adapter::read(&golden.adapter_dir(name)).expect("an adapter");
            load(&golden.base())
                .export_merged(&adapter, &out)
                .expect("it is written");

            let merged = engine(&out, 1 << 20);
            let apart = engine(&golden.base(), 1 << 20);
            add(&apart, name, &golden.adapter_dir(name));
            let got = merged.run(&admit(&merged, None, Want::Classes, &texts));
            let want = apart.run(&admit(&apart, Some(name), Want::Classes, &texts));
            // Over all rows: a regression's single value may be near zero in one of them.
            let all = |answers: &[Answer]| {
                answers
                    .iter()
                    .flat_map(|a| logits(a).to_vec())
                    .collect::<Vec<_>>()
            };
            let error = distance(&all(&got), &all(&want));
            assert!(error <= MERGE_ROUNDING, "{family} {name}: {error:e}");
        }
    }
}
