//! Pruning: what is kept, what is dropped, and by how much the product changes.

use super::*;
use crate::adapter::fixture::{pair, read};
use serde_json::json;

/// Balanced factors are rounded to f32 (6e-8 relative) in two places, over a few terms.
const ROUNDING: f64 = 1e-6;

/// `s sum_j sigma_j u_j v_jt` with orthogonal u and v (unit vectors), so that the values are known.
fn diagonal(scale: f32, sigma: &[f32], width: usize, height: usize) -> Factors {
    let rank = sigma.len();
    let mut a = Matrix::zeros(rank, width);
    let mut b = Matrix::zeros(height, rank);
    for (j, s) in sigma.iter().enumerate() {
        a.view_mut().row_mut(j)[(j * 2 + 1) % width] = *s * 8.0;
        b.view_mut().row_mut((j + 1) % height)[j] = 0.125;
    }
    Factors { a, b, scale }
}

fn adapter(factors: Vec<(&str, Factors)>) -> Adapter {
    let config = json!({"peft_type": "LORA", "r": 1, "target_modules": "all-linear"});
    let mut a = read(&config, &pair("x", 1, 2, 2)).unwrap();
    a.factors = factors
        .into_iter()
        .map(|(m, f)| (m.to_owned(), f))
        .collect();
    a
}

fn ranks(report: &PruneReport) -> Vec<usize> {
    report.modules.iter().map(|m| m.rank_after).collect()
}

/// `|| s B A - s' B' A' || / || s B A ||`
fn distance(f: &Factors, g: Option<&Factors>) -> f64 {
    let at = |f: &Factors, o: usize, i: usize| {
        let dot = |r| f64::from(f.b.row(o)[r]) * f64::from(f.a.row(r)[i]);
        f64::from(f.scale) * (0..f.rank()).map(dot).sum::<f64>()
    };
    let (mut apart, mut size) = (0.0, 0.0);
    for o in 0..f.b.rows() {
        for i in 0..f.a.cols() {
            let (x, y) = (at(f, o, i), g.map_or(0.0, |g| at(g, o, i)));
            apart += (x - y).powi(2);
            size += x * x;
        }
    }
    (apart / size).sqrt()
}

/// What the report says is what happened, module by module.
fn check(before: &Adapter, after: &Adapter, report: &PruneReport) {
    assert_eq!(report.parameters_before, before.parameters());
    assert_eq!(report.parameters_after, after.parameters());
    for m in &report.modules {
        let (f, g) = (&before.factors[&m.module], after.factors.get(&m.module));
        assert_eq!(
            (m.rank_before, m.rank_after),
            (f.rank(), g.map_or(0, Factors::rank))
        );
        let found = distance(f, g);
        assert!(
            (found - m.relative_error).abs() < ROUNDING,
            "{found}: {m:?}"
        );
        assert!((m.dropped_energy - m.relative_error.powi(2)).abs() < ROUNDING);
        if let Some(g) = g.filter(|g| g.rank() < f.rank()) {
            assert_eq!(g.scale, 1.0);
            let norm =
                |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>();
            for j in 0..g.rank() {
                let a = norm(&mut g.a.row(j).iter().copied());
                let b = norm(&mut (0..g.b.rows()).map(|o| g.b.row(o)[j]));
                assert!((a / b - 1.0).abs() < ROUNDING, "rank {j}: {a} and {b}");
            }
        }
    }
    assert!(after.factors.keys().all(|m| after.targets.matches(m)));
    assert!(!after.targets.matches("another"));
}

#[test]
fn energy_keeps_the_fewest_ranks_that_hold_it() {
    // Energies 16, 4, 1 of 21 (in any order of the file), at a scale that does not matter.
    let before = adapter(vec![("m", diagonal(-0.3, &[1.0, 4.0, 2.0], 9, 7))]);
    for (share, rank) in [
        (0.5, 1),
        (16.0 / 21.0 - 1e-9, 1),
        (16.0 / 21.0 + 1e-9, 2),
        (20.0 / 21.0 - 1e-9, 2),
        (0.96, 3),
        (1.0, 3),
        (1e-9, 1),
    ] {
        let (after, report) = before.prune(Keep::Energy(share)).unwrap();
        assert_eq!(ranks(&report), [rank], "{share}");
        check(&before, &after, &report);
    }
}

#[test]
fn full_energy_changes_nothing() {
    let exact = diagonal(0.7, &[1.0, 1e-4, 3.0], 9, 7);
    // Rank 4 on paper, 2 in fact.
    let mut collapsed = diagonal(0.7, &[1.0, 2.0, 0.0, 0.0], 9, 7);
    let row = collapsed.a.row(0).to_vec();
    collapsed.a.view_mut().row_mut(3).copy_from_slice(&row);
    collapsed.b.view_mut().row_mut(3)[3] = 0.5;
    let nothing = diagonal(0.7, &[0.0, 0.0], 9, 7);
    let before = adapter(vec![
        ("a", exact.clone()),
        ("b", collapsed.clone()),
        ("c", nothing),
    ]);
    let (after, report) = before.prune(Keep::Energy(1.0)).unwrap();
    assert_eq!(ranks(&report), [3, 2, 0]);
    assert_eq!(after.factors["a"], exact, "bit for bit, scale and all");
    assert!(distance(&collapsed, after.factors.get("b")) < ROUNDING);
    assert!(report.relative_error < ROUNDING);
    assert_eq!(report.modules[2].relative_error, 0.0);
    assert_eq!(after.provenance["sorank.pruned"], "energy 1");
}

#[test]
fn a_rank_is_a_ceiling() {
    let before = adapter(vec![
        ("a", diagonal(1.0, &[1.0, 2.0, 3.0, 4.0], 12, 7)),
        ("b", diagonal(1.0, &[5.0], 12, 7)),
    ]);
    let (after, report) = before.prune(Keep::Rank(2)).unwrap();
    assert_eq!(ranks(&report), [2, 1]);
    check(&before, &after, &report);
    assert!((report.modules[0].dropped_energy - 5.0 / 30.0).abs() < ROUNDING);
    assert!((report.relative_error - (5.0_f64 / 55.0).sqrt()).abs() < ROUNDING);
    let (same, _) = before.prune(Keep::Rank(4)).unwrap();
    assert_eq!(same.factors, before.factors);
}

#[test]
fn a_budget_goes_where_a_parameter_holds_most() {
    // Costs 10 and 40 a rank; energies 9, 4, 1 against 16, 0.36.
    let before = adapter(vec![
        ("narrow", diagonal(1.0, &[3.0, 2.0, 1.0], 6, 4)),
        ("wide", diagonal(1.0, &[4.0, 0.6], 20, 20)),
    ]);
    for (budget, want) in [
        (10, [1, 0]),
        (39, [3, 0]),
        (60, [2, 1]),
        (69, [2, 1]),
        (70, [3, 1]),
        (109, [3, 1]),
        (110, [3, 2]),
        (usize::MAX, [3, 2]),
    ] {
        let (after, report) = before.prune(Keep::Budget(budget)).unwrap();
        assert_eq!(ranks(&report), want, "{budget}");
        assert!(after.parameters() <= budget);
        check(&before, &after, &report);
    }
}

#[test]
fn nonsense_is_refused() {
    let before = adapter(vec![("m", diagonal(1.0, &[1.0], 6, 4))]);
    for keep in [
        Keep::Energy(0.0),
        Keep::Energy(1.01),
        Keep::Energy(f64::NAN),
        Keep::Rank(0),
        Keep::Budget(0),
    ] {
        assert!(
            before
                .prune(keep)
                .unwrap_err()
                .to_string()
                .contains("expected"),
            "{keep:?}"
        );
    }
    let message = before.prune(Keep::Budget(9)).unwrap_err().to_string();
    assert!(
        message.contains("9 parameters would leave no rank"),
        "{message}"
    );
    let wide = adapter(vec![(
        "m",
        Factors {
            a: Matrix::zeros(513, 1),
            b: Matrix::zeros(1, 513),
            scale: 1.0,
        },
    )]);
    assert!(
        wide.prune(Keep::Rank(1))
            .unwrap_err()
            .to_string()
            .contains("at most 512")
    );
}
