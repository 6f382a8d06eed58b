//! The budget step by step, the orthogonality term against differences, and what closes when.

use super::*;
use crate::train::{random::Random, sora::Kind};

/// A central difference of step 1e-3 of f32 vectors, taken in f64, against a norm of order 1.
const TOLERANCE: f64 = 1e-4;

fn parameter(kind: Kind, rows: usize, cols: usize) -> Parameter {
    let name = format!("{kind:?} {rows} {cols}");
    let mut random = Random::new(3, &name);
    let data = (0..rows * cols).map(|_| random.normal() as f32).collect();
    let value = Matrix::from_vec(data, rows, cols);
    Parameter { name, kind, value }
}

/// Two sites of ranks 3 and 2.
fn parameters() -> Vec<Parameter> {
    vec![
        parameter(Kind::A, 3, 5),
        parameter(Kind::B, 3, 4),
        parameter(Kind::Gate, 3, 1),
        parameter(Kind::A, 2, 4),
        parameter(Kind::B, 2, 6),
        parameter(Kind::Gate, 2, 1),
    ]
}

fn allocator(parameters: &[Parameter], steps: usize, last: usize) -> Allocator {
    let budget = Budget {
        target_rank: 1,
        first: 0.0,
        last: 0.0,
        every: 2,
        betas: (0.5, 0.5),
        orthogonality: 0.3,
    };
    let zeros = |p: &Parameter| [(); 2].map(|()| Matrix::zeros(p.value.rows(), p.value.cols()));
    Allocator {
        budget,
        first: 2,
        end: steps.saturating_sub(last),
        sites: vec![[0, 1, 2], [3, 4, 5]],
        start: 5,
        moments: parameters.iter().map(zeros).collect(),
        closed: Vec::new(),
    }
}

fn open(parameters: &[Parameter]) -> Vec<bool> {
    let gates = parameters.iter().filter(|p| p.kind == Kind::Gate);
    gates
        .flat_map(|p| p.value.as_slice())
        .map(|g| *g != 0.0)
        .collect()
}

#[test]
fn the_budget_falls_with_the_third_power() {
    let a = allocator(&parameters(), 14, 4);
    let at = |step| {
        let share = a.share(step);
        (share.ranks, share.choose)
    };
    // 2 + 3 (1 - (step - 2) / 8)^3, rounded down
    let ranks: Vec<_> = (1..=14).map(|s| at(s).0).collect();
    assert_eq!(ranks, [5, 5, 4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    let choices: Vec<_> = (1..=14).filter(|&s| at(s).1).collect();
    assert_eq!(choices, [4, 6, 8, 10, 11, 12, 13, 14]);
}

#[test]
fn a_run_shorter_than_its_last_part_ends_at_the_target() {
    for (steps, last) in [(3, 1), (3, 3), (3, 9), (4, 2)] {
        let mut parameters = parameters();
        let mut a = allocator(&parameters, steps, last);
        let gradients: Vec<Matrix> = parameters.iter().map(|p| p.value.clone()).collect();
        for step in 1..=steps {
            a.before_step(step, &parameters);
            a.after_step(step, &mut parameters, &gradients, 1.0);
        }
        assert!(a.settled(steps));
        assert!(a.share(steps).ranks == 2, "{steps} steps, the last {last}");
    }
}

#[test]
fn the_orthogonality_term_has_the_gradient_of_its_differences() {
    let parameters = parameters();
    let a = allocator(&parameters, 14, 4);
    let zeros = || -> Vec<Matrix> {
        let zeros = |p: &Parameter| Matrix::zeros(p.value.rows(), p.value.cols());
        parameters.iter().map(zeros).collect()
    };
    let mut gradients = zeros();
    let term = a.orthogonality(&parameters, &mut gradients);
    assert!(term > 0.1);
    for (i, p) in parameters.iter().enumerate() {
        for e in 0..p.value.as_slice().len() {
            let moved = |by: f32| {
                let mut parameters = parameters.clone();
                let mut data = p.value.as_slice().to_vec();
                data[e] += by;
                parameters[i].value = Matrix::from_vec(data, p.value.rows(), p.value.cols());
                a.orthogonality(&parameters, &mut zeros())
            };
            let want = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            let got = f64::from(gradients[i].as_slice()[e]);
            assert!(
                (got - want).abs() < TOLERANCE,
                "{} {e}: {got} for {want}",
                p.name
            );
        }
    }
}

#[test]
fn ranks_that_matter_least_close_and_may_come_back_until_the_last_choice() {
    let mut parameters = parameters();
    let mut a = allocator(&parameters, 14, 4);
    // Gradients are 0 but those of the values: the score is of |value x gradient| alone.
    let mut gradients: Vec<Matrix> = parameters
        .iter()
        .map(|p| Matrix::zeros(p.value.rows(), p.value.cols()))
        .collect();
    let mut run = |steps: std::ops::RangeInclusive<usize>, matter: [f32; 5]| {
        gradients[2] = Matrix::from_vec(matter[..3].to_vec(), 3, 1);
        gradients[5] = Matrix::from_vec(matter[3..].to_vec(), 2, 1);
        let mut seen = Vec::new();
        for step in steps {
            a.before_step(step, &parameters);
            // The optimiser would move a closed value away from 0.
            parameters[2].value = Matrix::from_vec(vec![1.0; 3], 3, 1);
            parameters[5].value = Matrix::from_vec(vec![1.0; 2], 2, 1);
            a.after_step(step, &mut parameters, &gradients, 1.0);
            seen = open(&parameters);
        }
        seen
    };
    assert_eq!(run(1..=3, [5.0, 1.0, 4.0, 2.0, 3.0]), [true; 5]);
    let three = [true, false, true, false, true];
    assert_eq!(run(4..=4, [5.0, 1.0, 4.0, 2.0, 3.0]), three);
    assert_eq!(run(5..=5, [0.0, 9.0, 0.0, 8.0, 0.0]), [true; 5]);
    // The last choice, after step 10, stays whatever comes.
    let two = [false, true, false, true, false];
    assert_eq!(run(6..=10, [0.0, 9.0, 0.0, 8.0, 0.0]), two);
    assert_eq!(run(11..=14, [9.0, 0.0, 9.0, 0.0, 9.0]), two);
}
