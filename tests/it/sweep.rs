//! Many runs: the sparsifying schedule on a tiny model, and `sorank sweep` as a person runs and repeats it.

use sorank::{
    model::Level,
    spec::Problem,
    train::{
        Example, Facts, Learner, Live, Method, Prox, Settings,
        data::Labels,
        run::{Control, Plan, Stopped, run},
        schedule::{Phase, Schedule, Trained, phases},
        sora::GateInit,
    },
};

use crate::{
    cli::{fails, sorank},
    fixtures::golden,
    training::fixture,
};

/// Three phases of growing strength; and of each, whether A and B had moved in it.
fn three_phases(prox: Prox, strengths: [f64; 3], frozen: bool) -> (Vec<Phase>, Vec<bool>) {
    let f = fixture("bert");
    let facts = Facts {
        method: Method::Sora,
        sites: &[],
        r_max: 4,
        alpha: 8.0,
        gate_init: GateInit::Normal,
        problem: Problem::SingleLabelClassification,
        level: Level::Sequence,
        labels: (0..3).map(|i| format!("LABEL_{i}")).collect(),
        seed: 1,
    };
    let live = Live::new(&f.model, &facts).expect("everything is there");
    let mut learner = Learner::new(&f.model, live, 0.0, 1).expect("a learner");
    let examples: Vec<Example> = f.examples();
    let plan = Plan {
        epochs: 4,
        batch: 2,
        lr: 4e-3,
        gate_lr: 1e-2,
        head_lr: 4e-3,
        warmup: 0.1,
        revive_every: 1,
        budget: None,
        metric: "accuracy".into(),
        patience: None,
        train_scored: 0,
        seed: 1,
        optimizer: Settings {
            prox,
            ..Settings::default()
        },
    };
    let schedule = Schedule {
        strengths: strengths.into(),
        epochs: 3,
        frozen,
    };
    let labels = Labels {
        names: facts.labels.clone(),
        problem: facts.problem,
        level: facts.level,
    };
    let mut moved = Vec::new();
    let wrong = |why| panic!("{why}");
    let done = phases::<Stopped>(&schedule, &plan, wrong, &mut |_, plan| {
        let before = learner.live.clone();
        let out = run(
            &mut learner,
            &labels,
            &examples,
            &examples,
            plan,
            &mut |_| Control::Go,
        )?;
        let pairs = before.parameters.iter().zip(&learner.live.parameters);
        let changed = pairs.filter(|(a, b)| a.value != b.value);
        moved.push(changed.into_iter().any(|(a, _)| a.name.ends_with(".b")));
        let last = out.epochs.last().expect("a phase has epochs");
        Ok(Trained {
            train: last.scores["accuracy"],
            dev: last.scores["accuracy"],
            kept_ranks: last.kept_ranks,
            kept_parameters: last.kept_parameters,
        })
    });
    (done.expect("no loss is out of bounds"), moved)
}

#[test]
fn a_schedule_goes_from_dense_to_sparse_and_learns_on_the_way() {
    let (done, moved) = three_phases(Prox::Soft(0.0), [0.0, 4.0, 16.0], false);
    let kept: Vec<usize> = done.iter().map(|p| p.kept_ranks).collect();
    assert_eq!(kept[0], 72, "nothing closes at strength 0");
    assert!(kept[1] < kept[0] && kept[2] < kept[1], "{kept:?}");
    assert!((done[0].memorisation - 100.0).abs() < 1e-9);
    assert_eq!(moved, [true; 3], "rates are built anew for each phase");
}

#[test]
fn a_frozen_schedule_shrinks_gates_and_learns_nothing() {
    let (done, moved) = three_phases(Prox::Official(0.0), [0.0, 0.02, 0.1], true);
    let kept: Vec<usize> = done.iter().map(|p| p.kept_ranks).collect();
    assert!(kept[1] < kept[0] && kept[2] < kept[1], "{kept:?}");
    assert_eq!(moved, [true, false, false]);
}

#[test]
fn a_sweep_writes_a_row_a_run_and_goes_on_where_they_end() {
    let base = golden("bert").base();
    let base = base.to_str().expect("UTF-8");
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let rows: String = (0..16)
        .map(|i| ["the coffee was cold\t0\n", "a wonderful hotel\t1\n"][i % 2])
        .collect();
    for name in ["train.tsv", "dev.tsv"] {
        std::fs::write(path(name), format!("sentence\tlabel\n{rows}")).expect("written");
    }
    let (task, out) = (format!("sst2={}", dir.path().display()), path("sweep"));
    let sweep = |methods: &str, seeds: &str| {
        let args = [
            "sweep",
            "--task",
            &task,
            "--methods",
            methods,
            "--seeds",
            seeds,
            "--out",
            &out,
            "--",
            "--model",
            base,
            "--epochs",
            "2",
            "--batch",
            "8",
            "--r-max",
            "2",
        ];
        let done = sorank(&args, "");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{said}");
        let runs = said
            .lines()
            .filter(|l| l.contains(": sorank train"))
            .count();
        (runs, String::from_utf8(done.stdout).expect("UTF-8"))
    };
    let (runs, table) = sweep("lora,sora=0.5:2", "1");
    assert_eq!(runs, 3);
    let lines = |table: &str| table.lines().filter(|l| l.contains("| sst2 |")).count();
    assert_eq!(lines(&table), 3, "{table}");
    let file = || std::fs::read_to_string(dir.path().join("sweep/rows.csv")).expect("rows.csv");
    assert_eq!(file().lines().count(), 4);
    // Again with one seed more: what has a row is left alone.
    let (runs, table) = sweep("lora,sora=0.5:2", "1,2");
    assert_eq!((runs, lines(&table)), (3, 3), "{table}");
    assert_eq!(file().lines().count(), 7);
    let (runs, again) = sweep("lora,sora=0.5:2", "1,2");
    assert_eq!((runs, &again), (0, &table));
    // A file of other columns is not added to.
    std::fs::write(dir.path().join("sweep/rows.csv"), "a,b\n").expect("written");
    let args = [
        "sweep", "--task", &task, "--out", &out, "--", "--model", base,
    ];
    let why = fails(1, &args, "");
    assert!(why.contains("rows.csv") && why.contains("line 1"), "{why}");
}
