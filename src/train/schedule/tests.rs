//! Lists of strengths, the plans of phases, and what epochs tell of them.

use super::*;
use crate::train::{
    choice::Select,
    optim::{Settings, warm_up_and_decay},
};

fn plan(prox: Prox) -> Plan {
    Plan {
        epochs: 7,
        batch: 8,
        lr: 1e-3,
        gate_lr: 2e-3,
        gate_travel: None,
        gate_window: None,
        keep: None,
        head_lr: 3e-3,
        warmup: 0.1,
        revive_every: 1,
        budget: None,
        metric: "accuracy".into(),
        patience: None,
        train_scored: 0,
        seed: 1,
        select: Select::Best,
        schedule: None,
        optimizer: Settings {
            prox,
            ..Settings::default()
        },
    }
}

#[test]
fn the_thresholds_of_a_run_sum_to_the_travel_whatever_its_length() {
    let travel = 2.0;
    let windows = [None, Some((0.4, 1.0)), Some((0.3, 0.7))];
    let cases = [60, 390, 1340].map(|steps| windows.map(|gate_window| (steps, gate_window)));
    for (steps, gate_window) in cases.into_iter().flatten() {
        let plan = Plan {
            gate_travel: Some(travel),
            gate_window,
            ..plan(Prox::Soft(0.5))
        };
        let sum: f64 = (0..steps).map(|at| 0.5 * plan.rates(at, steps).gate).sum();
        // Sums of steps beside triangles: half a step at the peak, 1/24 of 24 steps.
        assert!((sum / travel - 1.0).abs() < 0.045, "{steps} steps: {sum}");
    }
    for prox in [Prox::Off, Prox::Official(0.5), Prox::Soft(0.0)] {
        let plan = Plan {
            gate_travel: Some(travel),
            ..plan(prox)
        };
        assert_eq!(plan.gate_rate(100), plan.gate_lr, "{prox:?}");
    }
    assert_eq!(plan(Prox::Soft(0.5)).gate_rate(100), 2e-3);
}

#[test]
fn gates_move_in_their_window_and_nothing_else_changes() {
    let (plain, steps) = (plan(Prox::Soft(0.5)), 200);
    let late = Plan {
        gate_window: Some((0.4, 0.8)),
        ..plain.clone()
    };
    for step in 0..steps {
        let (a, b) = (plain.rates(step, steps), late.rates(step, steps));
        assert_eq!((a.main, a.head), (b.main, b.head), "step {step}");
        assert_eq!(b.gate > 0.0, (80..160).contains(&step), "step {step}");
    }
    assert_eq!(late.rates(80, steps).gate, late.gate_lr);
    assert_eq!(late.rates(120, steps).gate, late.gate_lr / 2.0);
    // As one triangle for all three, where there is no window.
    let factor = warm_up_and_decay(7, 20, steps);
    assert_eq!(plain.rates(7, steps).gate, plain.gate_lr * factor);
    let phases = Schedule {
        strengths: vec![0.1, 0.5],
        epochs: 3,
        frozen: false,
    };
    let plans = phases.plans(&late).expect("rising strengths");
    let windows = [plans[0].gate_window, plans[1].gate_window];
    assert_eq!(windows, [Some((0.4, 0.8)), None]);
}

fn schedule(frozen: bool) -> Schedule {
    Schedule {
        strengths: vec![0.0, 1.0, 2.0],
        epochs: 3,
        frozen,
    }
}

#[test]
fn lists_are_those_of_the_formulas() {
    let near = |got: Vec<f64>, want: &[f64]| {
        let pairs = got.iter().zip(want);
        let same = got.len() == want.len();
        assert!(
            same && pairs
                .into_iter()
                .all(|(a, b)| (a - b).abs() <= 1e-9 * b.abs()),
            "{got:?}"
        );
    };
    let linear = strengths(Spacing::Linear, 0.0, 7e-4, 7).unwrap();
    near(
        linear.clone(),
        &(0..7)
            .map(|i| f64::from(i) * 7e-4 / 6.0)
            .collect::<Vec<_>>(),
    );
    near(
        strengths(Spacing::Geometric, 1e-4, 1e-2, 3).unwrap(),
        &[1e-4, 1e-3, 1e-2],
    );
    let log = strengths(Spacing::LogLinear, 0.0, 7e-4, 7).unwrap();
    assert!(log.iter().zip(&linear).all(|(a, b)| (a - b).abs() < 1e-7));
    let far = strengths(Spacing::LogLinear, 0.0, 2.0, 3).unwrap();
    near(far, &[0.0, ((1.0 + 2f64.exp()) / 2.0).ln(), 2.0]);
    for (spacing, from, to, count, why) in [
        (Spacing::Geometric, 0.0, 1.0, 3, "above 0"),
        (Spacing::Linear, 1.0, 1.0, 3, "rise"),
        (Spacing::Linear, -1.0, 1.0, 3, "no strength"),
        (Spacing::Linear, 0.0, 1.0, 1, "two or more"),
    ] {
        let error = strengths(spacing, from, to, count).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn later_phases_have_their_strength_and_rates_built_anew_or_frozen() {
    let first = schedule(false).plan(0, &plan(Prox::Soft(9.0))).unwrap();
    assert_eq!((first.epochs, first.optimizer.prox), (7, Prox::Soft(0.0)));
    let second = schedule(false).plan(1, &plan(Prox::Soft(9.0))).unwrap();
    assert_eq!((second.epochs, second.optimizer.prox), (3, Prox::Soft(1.0)));
    assert_eq!(
        (second.lr, second.gate_lr, second.head_lr),
        (1e-3, 2e-3, 3e-3)
    );
    let frozen = schedule(true).plan(2, &plan(Prox::Official(9.0))).unwrap();
    assert_eq!(frozen.optimizer.prox, Prox::Official(2.0));
    assert_eq!((frozen.lr, frozen.gate_lr, frozen.head_lr), (0.0, 0.0, 0.0));
    assert!(schedule(true).plan(1, &plan(Prox::Soft(9.0))).is_err());
    assert!(schedule(false).plan(1, &plan(Prox::Off)).is_err());
}

#[test]
fn phases_are_told_by_their_last_epochs_and_measured_against_the_first() {
    let epoch = |phase: usize, epoch: usize, score: f64, kept: usize| Epoch {
        phase,
        epoch,
        scores: [("accuracy", score)].into(),
        train_scores: [("accuracy", score / 2.0)].into(),
        kept_ranks: kept,
        kept_parameters: 10 * kept,
        ..Epoch::default()
    };
    let epochs = [
        epoch(0, 1, 0.1, 9),
        epoch(0, 2, 0.8, 8),
        epoch(1, 3, 0.9, 7),
        epoch(1, 4, 0.4, 6),
    ];
    let told = schedule(false).phases(&epochs, "accuracy");
    let of = |p: &Phase| (p.number, p.strength, p.epoch, p.kept_parameters);
    let whole: Vec<_> = told.iter().map(of).collect();
    assert_eq!(whole, [(0, 0.0, 2, 80), (1, 1.0, 4, 60)]);
    let shares = |p: &Phase| (p.memorisation, p.generalisation);
    assert_eq!(shares(&told[0]), (Some(100.0), 100.0));
    assert_eq!(shares(&told[1]), (Some(50.0), 50.0));
}

#[test]
fn schedules_are_read_and_refused_by_what_is_wrong() {
    let read = |text: &str| text.parse::<Strengths>().map(|s| s.0);
    assert_eq!(read("0,0.5,1"), Ok(vec![0.0, 0.5, 1.0]));
    assert_eq!(read("linear:0:1:3"), Ok(vec![0.0, 0.5, 1.0]));
    for (wrong, why) in [
        ("1", "two strengths"),
        ("1,0.5", "rise"),
        ("1,x", "no number"),
        ("cubic:0:1:3", "known are"),
        ("linear:0:1", "FROM:TO:COUNT"),
        ("linear:0:1:x", "number of phases"),
        ("geometric:0:1:3", "above 0"),
    ] {
        let error = read(wrong).expect_err(wrong);
        assert!(error.contains(why), "{error}");
    }
}
