//! Runs inside one process that are cut after any step and gone on with from a checkpoint: every method, phases, a window of the
//! gates. What counts is the bits of the parameters. Not here: the binary, signals (`runs`).

use sorank::{
    model::Level,
    spec::Problem,
    train::{
        Example, Learner, Live, Method, Prox, Settings,
        adalora::Budget,
        checkpoint,
        choice::Select,
        data::Labels,
        run::{Control, Event, Outcome, Plan, Stopped, resume},
        schedule::Schedule,
        sora::Kind,
    },
};

use crate::training::{DROPPED, fixture};

/// Two phases of two epochs and one.
fn two_phases() -> Schedule {
    Schedule {
        strengths: vec![2.0, 8.0],
        epochs: 1,
        frozen: false,
    }
}

/// How gates are closed.
#[derive(Clone, Copy)]
struct Gates {
    /// Shares of the steps between which they move, where it is not all.
    window: Option<(f64, f64)>,
    keep: Option<f64>,
    lambda: f32,
}

impl Gates {
    /// All the time, hard.
    const ALL: Gates = Gates {
        window: None,
        keep: None,
        lambda: 8.0,
    };
    /// In the first half, hard: the threshold closes every one.
    const EARLY: Gates = Gates {
        window: Some((0.2, 0.6)),
        ..Self::ALL
    };
    /// In the first half, without a threshold: what closes, the bound closes.
    const BOUND: Gates = Gates {
        keep: Some(0.5),
        lambda: 0.0,
        ..Self::EARLY
    };
}

/// Runs to the end, writing and reading a checkpoint after every step of `cuts`.
fn run_cut(
    method: Method,
    schedule: Option<Schedule>,
    gates: Gates,
    cuts: &[usize],
) -> (Outcome, usize) {
    let f = fixture("bert");
    let examples: Vec<Example> = std::iter::repeat_n(f.examples(), 3).flatten().collect();
    let problem = Problem::SingleLabelClassification;
    let labels = Labels {
        names: (0..3).map(|i| format!("LABEL_{i}")).collect(),
        problem,
        level: Level::Sequence,
    };
    let plan = Plan {
        epochs: if schedule.is_some() { 2 } else { 3 },
        batch: 4,
        lr: 3e-3,
        gate_lr: 0.05,
        gate_travel: None,
        gate_window: gates.window,
        keep: gates.keep,
        head_lr: 3e-3,
        warmup: 0.1,
        revive_every: 3,
        budget: matches!(method, Method::Adalora).then(|| Budget::to(2)),
        metric: "accuracy".to_owned(),
        // Wide enough that several epochs stay in play.
        select: Select::SmallestWithin(0.6),
        schedule,
        patience: None,
        train_scored: 5,
        seed: 9,
        optimizer: Settings {
            prox: Prox::Soft(gates.lambda),
            ..Settings::default()
        },
    };
    let identity = serde_json::json!({"run": "this"});
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("checkpoint");
    let start: Live = f.live(method, "single", Level::Sequence, problem);
    let mut resumed = 0;
    loop {
        let mut learner = Learner::new(&f.model, start.clone(), DROPPED, 9).expect("a learner");
        let saved = path.exists().then(|| {
            let fresh = plan.optimizer(examples.len(), &start);
            checkpoint::read(&path, &identity, &start, fresh).unwrap_or_else(|e| panic!("{e}"))
        });
        let from = saved.as_ref().map_or(0, |s| s.state.step);
        let mut listener = |event: Event<'_>| match event {
            Event::Step { step, .. } if step > from && cuts.contains(&step) => Control::Stop,
            Event::Checkpoint(snapshot) => {
                checkpoint::write(&path, &identity, snapshot).unwrap_or_else(|e| panic!("{e}"));
                Control::Go
            }
            _ => Control::Go,
        };
        let rows = &examples;
        match resume(
            &mut learner,
            &labels,
            rows,
            rows,
            &plan,
            saved,
            &mut listener,
        ) {
            Ok(outcome) => return (outcome, resumed),
            Err(Stopped::Asked { .. }) => resumed += 1,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn every_method_cut_after_any_step_has_the_parameters_of_an_uncut_run() {
    for (method, schedule, gates) in [
        (Method::Sora, None, Gates::ALL),
        (Method::Sora, None, Gates::EARLY),
        (Method::Sora, None, Gates::BOUND),
        (Method::Sora, Some(two_phases()), Gates::ALL),
        (Method::Lora, None, Gates::ALL),
        (Method::Adalora, None, Gates::ALL),
        (Method::Head, None, Gates::ALL),
        (Method::Bitfit, None, Gates::ALL),
        (Method::Full, None, Gates::ALL),
    ] {
        let (whole, _) = run_cut(method, schedule.clone(), gates, &[]);
        let steps = whole.epochs.last().expect("epochs").step;
        let all: Vec<usize> = (1..=steps).collect();
        let (cut, resumed) = run_cut(method, schedule, gates, &all);
        assert_eq!(resumed, steps, "{method:?}");
        assert_eq!(whole.best_epoch, cut.best_epoch, "{method:?}");
        for (a, b) in whole.epochs.iter().zip(&cut.epochs) {
            assert_eq!(
                (a.loss, &a.scores, a.kept_ranks),
                (b.loss, &b.scores, b.kept_ranks)
            );
            assert_eq!((a.tokens, &a.train_scores), (b.tokens, &b.train_scores));
        }
        for (a, b) in whole.best.parameters.iter().zip(&cut.best.parameters) {
            let bits = |m: &sorank::mat::Matrix| -> Vec<u32> {
                m.as_slice().iter().map(|x| x.to_bits()).collect()
            };
            assert_eq!(bits(&a.value), bits(&b.value), "{method:?} {}", a.name);
        }
    }
}

#[test]
fn ranks_close_in_their_window_only_and_stay_closed() {
    let (from, to) = Gates::EARLY.window.expect("a window");
    let (outcome, _) = run_cut(Method::Sora, None, Gates::EARLY, &[]);
    let kept: Vec<usize> = outcome
        .epochs
        .iter()
        .flat_map(|e| &e.curve)
        .map(|c| c.2)
        .collect();
    let at = |share: f64| (share * kept.len() as f64).round() as usize;
    let (before, after) = (&kept[..at(from)], &kept[at(to) - 1..]);
    assert!(before.iter().all(|&k| k == kept[0]), "{kept:?}");
    assert!(after.iter().all(|&k| k == after[0]), "{kept:?}");
    assert!(
        before.len() > 1 && after.len() > 1 && after[0] < before[0],
        "{kept:?}"
    );
}

#[test]
fn a_bound_holds_from_the_end_of_the_window_on() {
    let run = |keep| {
        run_cut(
            Method::Sora,
            None,
            Gates {
                keep,
                ..Gates::BOUND
            },
            &[],
        )
        .0
    };
    let told = |outcome: &Outcome| -> Vec<(f64, usize)> {
        let epochs = outcome.epochs.iter();
        epochs.map(|e| (e.loss, e.kept_parameters)).collect()
    };
    let (free, bound) = (told(&run(None)), told(&run(Gates::BOUND.keep)));
    let full = free[0].1 as f64;
    assert!(
        free.iter().all(|&(_, kept)| kept as f64 == full),
        "{free:?}"
    );
    assert_eq!(bound[0], free[0], "the window is open still");
    for &(_, kept) in &bound[1..] {
        let share = kept as f64 / full;
        assert!((0.4..=0.5).contains(&share), "{bound:?}");
    }
    assert_eq!(
        told(&run(Some(1.0))),
        free,
        "a bound that is met anyway changes nothing"
    );
}

#[test]
fn what_changes_the_base_least_is_closed_first() {
    let f = fixture("bert");
    let problem = Problem::SingleLabelClassification;
    let mut live: Live = f.live(Method::Sora, "single", Level::Sequence, problem);
    // Rank j of every site changes the base by 10^j times the same; sites cost differently, so counts may differ by a rank.
    for parameter in &mut live.parameters {
        let (kind, rows) = (parameter.kind, parameter.value.rows());
        let unit = 1.0 / (parameter.value.cols() as f32).sqrt();
        let mut value = parameter.value.view_mut();
        for j in 0..rows {
            match kind {
                Kind::A => value.row_mut(j).fill(unit),
                Kind::B => value.row_mut(j).fill(10f32.powi(j as i32) * unit),
                Kind::Gate => value.row_mut(j)[0] = -1.0,
                _ => {}
            }
        }
    }
    let full = live.kept().1;
    live.keep_at_most(0.6);
    let kept = live.kept().1;
    assert!(
        kept as f64 <= 0.6 * full as f64 && kept as f64 > 0.5 * full as f64,
        "{kept} of {full}"
    );
    for (path, rank, gates) in live.ranks() {
        let (closed, open) = gates.split_at(gates.len() - rank);
        let right = closed.iter().all(|&g| g == 0.0) && open.iter().all(|&g| g == -1.0);
        assert!(right, "{path}: {gates:?}");
    }
    live.keep_at_most(0.0);
    assert_eq!(live.kept(), (0, 0));
}
