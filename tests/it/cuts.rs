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

/// Shares of the steps between which gates move, where it is not all.
type Window = Option<(f64, f64)>;

/// Runs to the end, writing and reading a checkpoint after every step of `cuts`.
fn run_cut(
    method: Method,
    schedule: Option<Schedule>,
    gate_window: Window,
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
        gate_window,
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
            prox: Prox::Soft(8.0),
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
    for (method, schedule, window) in [
        (Method::Sora, None, None),
        (Method::Sora, None, Some((0.2, 0.6))),
        (Method::Sora, Some(two_phases()), None),
        (Method::Lora, None, None),
        (Method::Adalora, None, None),
        (Method::Head, None, None),
        (Method::Bitfit, None, None),
        (Method::Full, None, None),
    ] {
        let (whole, _) = run_cut(method, schedule.clone(), window, &[]);
        let steps = whole.epochs.last().expect("epochs").step;
        let all: Vec<usize> = (1..=steps).collect();
        let (cut, resumed) = run_cut(method, schedule, window, &all);
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
    let (from, to) = (0.2, 0.6);
    let (outcome, _) = run_cut(Method::Sora, None, Some((from, to)), &[]);
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
