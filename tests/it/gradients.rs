//! Gradients of other heads and of the base's own parameters against torch, and what changing those does.

use sorank::{
    kernel::panel::Precision,
    mat::Matrix,
    model::{Level, Model, Task},
    spec::Problem,
    train::{Example, Kind, Learner, Live, Method, Optimizer, Rates, Settings, Shares, Target},
};

use crate::{
    fixtures::{PARITY, distance, load, load_at},
    training::{Fixture, GRADIENT, LOSS, TRAINED, fixture},
};

/// A tensor whose gradient is less than this share of the largest of all is judged as if it were as large: it is a
/// difference of numbers that much larger (a key's bias moves all scores of a row alike, so its gradient is nothing but
/// rounding), and `GRADIENT` of it would be below f32's own steps.
const FLOOR: f32 = 1e-2;
/// As `FLOOR` for a regression, whose output bias has the mean residual for a gradient: a small difference of sums of
/// logits, each good to 1e-6.
const RESIDUAL_FLOOR: f32 = 1e-1;

fn target(f: &Fixture, kind: &str, i: usize, row: usize) -> Target {
    let list = |key: &str, i: usize| f.index[key][i].as_array().expect("a list").clone();
    match kind {
        "token" => {
            let label = |v: &serde_json::Value| usize::try_from(v.as_i64().expect("a label")).ok();
            Target::Tokens(list("tags", row).iter().map(label).collect())
        }
        "multi" => Target::Many(list("flags", i).iter().map(|v| v == 1).collect()),
        _ => Target::Value(f.index["values"][i].as_f64().expect("a value") as f32),
    }
}

/// Compares every gradient that has a golden one under `what`; the rest must be A's and B's.
fn compare(f: &Fixture, family: &str, what: &str, floor: f32, live: &Live, gradients: &[Matrix]) {
    let largest = (f.tensors.iter())
        .filter(|(k, _)| k.starts_with(what))
        .flat_map(|(_, (_, v))| v)
        .fold(0.0f32, |m, x| m.max(x.abs()));
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (p, got) in live.parameters.iter().zip(gradients) {
        let mut first = 0;
        for name in p.name.split('|') {
            let Some((shape, want)) = f.tensors.get(&format!("{what}{name}")) else {
                assert!(matches!(p.kind, Kind::A | Kind::B), "{family} {what}{name}");
                continue;
            };
            let got = &got.as_slice()[first..first + want.len()];
            first += want.len();
            compared += 1;
            let most = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let error = distance(got, want) * (most / (floor * largest)).min(1.0);
            if error.is_nan() || error > GRADIENT {
                wrong.push(format!("{family} {what}{name} {shape:?}: {error:e}"));
            }
        }
    }
    let there = f.tensors.keys().filter(|k| k.starts_with(what)).count();
    assert_eq!(compared, there, "{family}: a gradient has no golden one");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tags_flags_and_numbers_are_learned_as_torch_learns_them() {
    let kinds = [
        ("token", Level::Token, Problem::SingleLabelClassification),
        ("multi", Level::Sequence, Problem::MultiLabelClassification),
        ("regression", Level::Sequence, Problem::Regression),
    ];
    for family in TRAINED {
        let f = fixture(family);
        for (kind, level, problem) in kinds {
            let mut examples = f.examples();
            let rows = f.list("rows");
            for (i, example) in examples.iter_mut().enumerate() {
                example.target = target(&f, kind, i, rows[i]);
            }
            let rows: Vec<&Example> = examples.iter().collect();
            let live = f.live(Method::Sora, kind, level, problem);
            let mut learner =
                Learner::new(&f.model, live, Shares::default(), 1).expect("a learner");
            let bound = learner.bind(true);
            let (loss, gradients) = learner.gradients(&bound, &rows, 0);
            let want = f.index["kinds"][kind].as_f64().expect("a loss");
            let near = (loss - want).abs() <= LOSS * want;
            assert!(near, "{family} {kind}: loss {loss} for {want}");
            let what = format!("{kind}.grad.");
            let floor = match problem {
                Problem::Regression => RESIDUAL_FLOOR,
                _ => FLOOR,
            };
            compare(&f, family, &what, floor, &learner.live, &gradients);
        }
    }
}

fn single(f: &Fixture, method: Method) -> Live {
    let (level, problem) = (Level::Sequence, Problem::SingleLabelClassification);
    f.live(method, "single", level, problem)
}

#[test]
fn every_parameter_of_the_base_has_torchs_gradient() {
    let mut tested = 0;
    for family in TRAINED {
        let f = fixture(family);
        let Some(want) = f.index["full"].as_f64() else {
            continue;
        };
        tested += 1;
        let examples = f.examples();
        let rows: Vec<&Example> = examples.iter().collect();
        let live = single(&f, Method::Full);
        let mut learner = Learner::new(&f.model, live, Shares::default(), 1).expect("a learner");
        let bound = learner.bind(true);
        let (loss, gradients) = learner.gradients(&bound, &rows, 0);
        let near = (loss - want).abs() <= LOSS * want;
        assert!(near, "{family}: loss {loss} for {want}");
        compare(&f, family, "full.grad.", FLOOR, &learner.live, &gradients);
    }
    assert!(tested >= 8, "{tested} families with goldens");
}

fn steps(f: &Fixture, method: Method, count: u64) -> Learner<'_> {
    let examples = f.examples();
    let rows: Vec<&Example> = examples.iter().collect();
    let live = single(f, method);
    let mut learner = Learner::new(&f.model, live, Shares::default(), 1).expect("a learner");
    let mut optimizer = Optimizer::new(Settings::default(), &learner.live.parameters);
    let mut losses = Vec::new();
    for step in 0..count {
        let bound = learner.bind(true);
        let (loss, mut gradients) = learner.gradients(&bound, &rows, step);
        losses.push(loss);
        let parameters = &mut learner.live.parameters;
        optimizer.step(parameters, &mut gradients, &|_| None, Rates::all(3e-3));
    }
    assert!(losses[losses.len() - 1] < losses[0], "{losses:?}");
    learner
}

pub(crate) fn answers(model: &Model, task: &Task, rows: &[&Example]) -> Matrix {
    let head = &task.classifier.as_ref().expect("a head").head;
    let batch = crate::training::pack(rows);
    let encoded = model.forward(&batch, &[task], &mut ());
    let sequences = (0..rows.len()).map(|s| batch.rows(s));
    model.classify(head, encoded.view(), sequences)
}

#[test]
fn a_trained_base_is_written_as_a_checkpoint_that_answers_alike() {
    for family in TRAINED {
        let f = fixture(family);
        let examples = f.examples();
        let rows: Vec<&Example> = examples.iter().collect();
        let task = f.model.base_task().expect("the base is a task");
        let before = answers(&f.model, &task, &rows);
        for method in [Method::Bitfit, Method::Full] {
            let mut learner = steps(&f, method, 4);
            let bound = learner.bind(true);
            let trained = learner.logits(&bound, &rows);
            let dir = tempfile::tempdir().expect("a directory");
            let out = dir.path().join("trained");
            let written = learner.live.export(learner.base(), &out);
            written.unwrap_or_else(|e| panic!("{family}: {e}"));
            let model = load(&out);
            let task = model.base_task().expect("the head is in the checkpoint");
            let served = answers(&model, &task, &rows);
            for (s, trained) in trained.iter().enumerate() {
                let error = distance(served.row(s), trained.row(0));
                assert!(error <= PARITY, "{family} {method:?} row {s}: {error:e}");
                assert!(distance(before.row(s), trained.row(0)) > 100.0 * PARITY);
            }
        }
        // The shared base is as it was.
        assert_eq!(answers(&f.model, &task, &rows), before, "{family}");
    }
}

#[test]
fn int8_weights_are_not_trained() {
    let f = fixture("bert");
    let model = load_at(&f.golden.base(), Precision::Int8);
    let live = f.live_on(
        &model,
        Method::Full,
        "single",
        Level::Sequence,
        Problem::SingleLabelClassification,
    );
    let error = live
        .expect_err("int8 weights cannot be trained")
        .to_string();
    assert!(error.contains("int8"), "{error}");
}
