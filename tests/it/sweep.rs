//! Many runs: the sparsifying schedule on a tiny model, and `sorank sweep` as a person runs and repeats it.

use sorank::{
    model::Level,
    spec::Problem,
    train::{
        Example, Facts, Learner, Live, Method, Prox, Settings, Shares,
        choice::Select,
        data::Labels,
        run::{Control, Event, Plan, run},
        schedule::{Phase, Schedule},
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
    let mut learner = Learner::new(&f.model, live, Shares::default(), 1).expect("a learner");
    let examples: Vec<Example> = f.examples();
    let plan = Plan {
        epochs: 4,
        batch: 2,
        lr: 4e-3,
        gate_lr: 1e-2,
        gate_travel: None,
        gate_window: None,
        keep: None,
        head_lr: 4e-3,
        warmup: 0.1,
        revive_every: 1,
        budget: None,
        metric: "accuracy".into(),
        select: Select::Best,
        schedule: Some(Schedule {
            strengths: strengths.into(),
            epochs: 3,
            frozen,
        }),
        patience: None,
        train_scored: 5,
        seed: 1,
        optimizer: Settings {
            prox,
            ..Settings::default()
        },
    };
    let labels = Labels {
        names: facts.labels.clone(),
        problem: facts.problem,
        level: facts.level,
    };
    let mut before = learner.live.clone();
    let mut moved = Vec::new();
    let mut listener = |event: Event<'_>| {
        if let Event::Phase { number, live } = event {
            assert_eq!(number, moved.len());
            let pairs = before.parameters.iter().zip(&live.parameters);
            let mut changed = pairs.filter(|(a, b)| a.value != b.value);
            moved.push(changed.any(|(a, _)| a.name.ends_with(".b")));
            before = live.clone();
        }
        Control::Go
    };
    let rows = &examples;
    let out = run(&mut learner, &labels, rows, rows, &plan, &mut listener);
    let epochs = out.expect("no loss is out of bounds").epochs;
    assert_eq!(epochs.len(), 4 + 3 + 3);
    let schedule = plan.schedule.expect("it was given");
    (schedule.phases(&epochs, "accuracy"), moved)
}

#[test]
fn a_schedule_goes_from_dense_to_sparse_and_learns_on_the_way() {
    let (done, moved) = three_phases(Prox::Soft(0.0), [0.0, 4.0, 16.0], false);
    let kept: Vec<usize> = done.iter().map(|p| p.kept_ranks).collect();
    assert_eq!(kept[0], 72, "nothing closes at strength 0");
    assert!(kept[1] < kept[0] && kept[2] < kept[1], "{kept:?}");
    assert!((done[0].generalisation - 100.0).abs() < 1e-9);
    assert!(done.iter().all(|p| p.memorisation.is_some()));
    assert_eq!(moved, [true; 3], "rates are built anew for each phase");
}

#[test]
fn a_frozen_schedule_shrinks_gates_and_learns_nothing() {
    let (done, moved) = three_phases(Prox::Official(0.0), [0.0, 0.02, 0.1], true);
    let kept: Vec<usize> = done.iter().map(|p| p.kept_ranks).collect();
    assert!(kept[1] < kept[0] && kept[2] < kept[1], "{kept:?}");
    assert_eq!(moved, [true, false, false]);
}

/// Rows of two labels as sst2's files, and the directory they are in.
fn two_labels() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let rows: String = (0..16)
        .map(|i| ["the coffee was cold\t0\n", "a wonderful hotel\t1\n"][i % 2])
        .collect();
    for name in ["train.tsv", "dev.tsv"] {
        let text = format!("sentence\tlabel\n{rows}");
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    dir
}

#[test]
fn a_scheduled_run_leaves_an_adapter_a_phase_and_picks_a_small_one() {
    let (base, dir) = (golden("bert").base(), two_labels());
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (base, data, out) = (base.to_str().expect("UTF-8"), path(""), path("out"));
    let train = |more: &[&str]| -> Vec<String> {
        let args = [
            "train",
            "--model",
            base,
            "--task",
            "sst2",
            "--data-dir",
            &data,
            "--batch",
            "4",
            "--r-max",
            "3",
            "--epochs",
            "3",
            "--gate-lr",
            "0.05",
            "--gate-init",
            "ones",
        ];
        args.iter().chain(more).map(|&s| s.to_owned()).collect()
    };
    let run = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let done = sorank(&args, "");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), said)
    };
    let flags = [
        "--schedule",
        "linear:0:6:3",
        "--phase-epochs",
        "2",
        "--select",
        "smallest-within",
        "50%",
        "--out",
        &out,
    ];
    let (code, said) = run(&train(&flags));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("pareto: ") && said.contains("phase 2 is done"),
        "{said}"
    );

    let read = |name: &str| std::fs::read_to_string(dir.path().join("out").join(name));
    let made: serde_json::Value =
        serde_json::from_str(&read("sorank.json").expect("made")).expect("JSON");
    let phases = made["phases"].as_array().expect("phases");
    assert_eq!(phases.len(), 3);
    let kept = |i: usize| phases[i]["kept_parameters"].as_u64().expect("a number");
    assert!(kept(0) > kept(2), "{phases:?}");
    assert_eq!(phases[0]["generalisation"], 100.0);
    // Each phase's adapter has the ranks that its last epoch ended with.
    for (i, phase) in phases.iter().enumerate() {
        let adapter = sorank::adapter::Adapter::read(&dir.path().join(format!("out/phases/{i}")));
        let adapter = adapter.unwrap_or_else(|e| panic!("{e}"));
        let ranks: usize = adapter.factors.values().map(|f| f.rank()).sum();
        // PEFT loads no adapter without a rank: one of zeros stands for none.
        let kept = phase["kept_ranks"].as_u64().expect("a number");
        assert_eq!(kept.max(1), ranks as u64, "phase {i}");
    }
    // The chosen epoch is the smallest of the front that is good enough.
    let epochs: Vec<serde_json::Value> = (read("metrics.jsonl").expect("metrics").lines())
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(epochs.len(), 3 + 2 + 2);
    let score = |e: &serde_json::Value| e["scores"]["accuracy"].as_f64().expect("a score");
    let size = |e: &serde_json::Value| e["kept_parameters"].as_u64().expect("a size");
    let best = epochs.iter().map(score).fold(0.0, f64::max);
    let smallest = epochs
        .iter()
        .filter(|e| score(e) >= 0.5 * best)
        .map(size)
        .min();
    assert_eq!(made["best"]["kept_parameters"].as_u64(), smallest);
    assert_eq!(
        made["pareto"][0]["parameters"].as_u64(),
        epochs.iter().map(size).min()
    );
    let page = read("report.html").expect("a page");
    assert!(page.contains("<h2>Phases</h2>") && page.contains("% of the first phase"));
    // The settings that it wrote make it again.
    let (config, again) = (path("out/run.toml"), path("again"));
    let repeat = ["train", "--config", &config, "--out", &again].map(str::to_owned);
    let (code, said) = run(&repeat);
    assert_eq!(code, Some(0), "{said}");
    let weights = |of: &str| {
        std::fs::read(path(&format!("{of}/adapter_model.safetensors"))).expect("weights")
    };
    assert!(weights("out") == weights("again"));

    for (wrong, why) in [
        (["--schedule", "1,0.5"].as_slice(), "strengths must rise"),
        (
            &["--schedule", "0,1", "--method", "lora"],
            "proximal operator",
        ),
        (&["--schedule", "0,1", "--frozen-rate"], "official"),
        (&["--select", "smallest"], "known are best"),
        (&["--phase-epochs", "2"], "--schedule"),
    ] {
        let none = path("none");
        let (code, said) = run(&train(&[wrong, &["--out", &none]].concat()));
        assert!(code == Some(2) && said.contains(why), "{wrong:?}: {said}");
    }
}

#[test]
fn a_sweep_writes_a_row_a_run_and_goes_on_where_they_end() {
    let base = golden("bert").base();
    let base = base.to_str().expect("UTF-8");
    let dir = two_labels();
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
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
