//! Scores of predictions: accuracy, F1, macro F1, Matthews' and the two correlations as GLUE computes them, and F1 of
//! entities. `tests/reference/metrics.py` holds them against scikit-learn, scipy and seqeval.

mod entities;

use std::collections::BTreeMap;

use super::{data::Labels, loss::Target};
use crate::{mat::Matrix, model::Level, spec::Problem};

/// The names of all metrics there are.
pub const NAMES: [&str; 9] = [
    "accuracy",
    "f1",
    "macro_f1",
    "matthews",
    "mse",
    "pearson",
    "precision",
    "recall",
    "spearman",
];

/// Every metric that fits what `labels` are for, by name, in `0 ..= 1` or `-1 ..= 1`; which there are does not depend on
/// the rows.
///
/// `f1` takes label 1 as the positive one and is there for two labels; for several labels a row it is the micro
/// average, for a label a word that of entities, as `precision` and `recall` are then (`accuracy` is the words'). A
/// correlation with a constant is 0.
pub fn scores(
    labels: &Labels,
    logits: &[Matrix],
    targets: &[Target],
) -> BTreeMap<&'static str, f64> {
    if labels.level == Level::Token {
        return of_tags(&labels.names, logits, targets);
    }
    match labels.problem {
        Problem::Regression => {
            let pairs = logits.iter().zip(targets).filter_map(|(x, t)| match t {
                Target::Value(v) => Some((f64::from(x.as_slice()[0]), f64::from(*v))),
                _ => None,
            });
            let (x, y): (Vec<f64>, Vec<f64>) = pairs.unzip();
            let error = x.iter().zip(&y).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
            BTreeMap::from([
                ("pearson", pearson(&x, &y)),
                ("spearman", pearson(&ranks(&x), &ranks(&y))),
                ("mse", error / x.len().max(1) as f64),
            ])
        }
        Problem::SingleLabelClassification => {
            let labels = labels.names.len();
            let mut confusion = vec![vec![0u64; labels]; labels]; // [true][predicted]
            for (x, t) in logits.iter().zip(targets) {
                if let Target::Class(label) = t {
                    confusion[*label][best(x.row(0))] += 1;
                }
            }
            of_confusion(&confusion)
        }
        Problem::MultiLabelClassification => {
            let mut counts = vec![(0u64, 0u64); labels.names.len()]; // twice right, said + there
            let mut whole = 0u64;
            for (x, t) in logits.iter().zip(targets) {
                let Target::Many(flags) = t else { continue };
                let chosen: Vec<bool> = x.row(0).iter().map(|&x| x > 0.0).collect();
                for ((&said, &there), counts) in chosen.iter().zip(flags).zip(&mut counts) {
                    counts.0 += 2 * u64::from(said && there);
                    counts.1 += u64::from(said) + u64::from(there);
                }
                whole += u64::from(chosen == *flags);
            }
            let (right, all) = (counts.iter()).fold((0, 0), |(a, b), c| (a + c.0, b + c.1));
            let sum: f64 = counts.iter().map(|&(right, all)| ratio(right, all)).sum();
            BTreeMap::from([
                ("f1", ratio(right, all)),
                ("macro_f1", sum / counts.len().max(1) as f64),
                ("accuracy", ratio(whole, targets.len() as u64)),
            ])
        }
    }
}

/// Words are the tokens that have a label.
fn of_tags(names: &[String], logits: &[Matrix], targets: &[Target]) -> BTreeMap<&'static str, f64> {
    let mut tally = entities::Tally::default();
    let (mut right, mut words) = (0u64, 0u64);
    for (x, t) in logits.iter().zip(targets) {
        let Target::Tokens(tokens) = t else { continue };
        let labelled = tokens
            .iter()
            .enumerate()
            .filter_map(|(r, label)| Some((r, (*label)?)));
        let both = labelled.map(|(r, label)| (best(x.row(r)), label));
        let (said, there): (Vec<usize>, Vec<usize>) = both.unzip();
        words += there.len() as u64;
        right += said.iter().zip(&there).filter(|(a, b)| a == b).count() as u64;
        let named = |of: &[usize]| of.iter().map(|&i| names[i].as_str()).collect::<Vec<_>>();
        tally.add(&named(&said), &named(&there));
    }
    let mut out = BTreeMap::from(tally.scores());
    out.insert("accuracy", ratio(right, words));
    out
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// The first of the largest.
fn best(x: &[f32]) -> usize {
    (1..x.len()).fold(0, |b, i| if x[i] > x[b] { i } else { b })
}

fn of_confusion(c: &[Vec<u64>]) -> BTreeMap<&'static str, f64> {
    let n = c.len();
    let total: u64 = c.iter().flatten().sum();
    let right: u64 = (0..n).map(|i| c[i][i]).sum();
    let truth: Vec<u64> = c.iter().map(|row| row.iter().sum()).collect();
    let said: Vec<u64> = (0..n).map(|j| c.iter().map(|row| row[j]).sum()).collect();
    let f1 = |i: usize| ratio(2 * c[i][i], truth[i] + said[i]);
    // Labels that neither stand nor are said do not count in the mean.
    let present: Vec<usize> = (0..n).filter(|&i| truth[i] + said[i] > 0).collect();
    let macro_f1 = present.iter().map(|&i| f1(i)).sum::<f64>() / present.len().max(1) as f64;
    let square = |v: &[u64]| v.iter().map(|&x| (x as f64).powi(2)).sum::<f64>();
    let all = (total as f64).powi(2);
    let cross: f64 = truth
        .iter()
        .zip(&said)
        .map(|(&t, &s)| t as f64 * s as f64)
        .sum();
    let over = ((all - square(&said)) * (all - square(&truth))).sqrt();
    let matthews = match over > 0.0 {
        true => (right as f64 * total as f64 - cross) / over,
        false => 0.0,
    };
    let mut out = BTreeMap::from([
        ("accuracy", ratio(right, total)),
        ("macro_f1", macro_f1),
        ("matthews", matthews),
    ]);
    if n == 2 {
        out.insert("f1", f1(1));
    }
    out
}

fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
    let (mx, my) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (a, b) = (x - mx, y - my);
        xy += a * b;
        xx += a * a;
        yy += b * b;
    }
    if xx * yy > 0.0 {
        xy / (xx * yy).sqrt()
    } else {
        0.0
    }
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
    let mut out = vec![0.0; x.len()];
    let mut i = 0;
    while i < order.len() {
        let end = (i..order.len())
            .take_while(|&j| x[order[j]] == x[order[i]])
            .count()
            + i;
        for &j in &order[i..end] {
            out[j] = (i + 1 + end) as f64 / 2.0;
        }
        i = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scipy and scikit-learn print about so many digits.
    const TOLERANCE: f64 = 1e-9;

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < TOLERANCE, "{got} for {want}");
    }

    fn labels(problem: Problem, n: usize) -> Labels {
        let names = (0..n).map(|i| i.to_string()).collect();
        let level = Level::Sequence;
        Labels {
            names,
            problem,
            level,
        }
    }

    fn classes(said: &[usize], truth: &[usize], n: usize) -> BTreeMap<&'static str, f64> {
        let logits: Vec<Matrix> = said
            .iter()
            .map(|&s| Matrix::from_vec((0..n).map(|i| f32::from(i == s)).collect(), 1, n))
            .collect();
        let targets: Vec<Target> = truth.iter().map(|&t| Target::Class(t)).collect();
        scores(
            &labels(Problem::SingleLabelClassification, n),
            &logits,
            &targets,
        )
    }

    #[test]
    fn classes_are_scored_as_by_hand() {
        // 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
        let s = classes(
            &[1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
            &[1, 1, 1, 0, 1, 1, 0, 0, 0, 0],
            2,
        );
        near(s["accuracy"], 0.7);
        near(s["f1"], 6.0 / 9.0);
        near(s["matthews"], 10.0 / (4.0f64 * 5.0 * 5.0 * 6.0).sqrt());
        near(s["macro_f1"], (6.0 / 9.0 + 8.0 / 11.0) / 2.0);
        near(classes(&[0, 0], &[0, 0], 2)["matthews"], 0.0);
        assert!(!classes(&[0, 2], &[0, 1], 3).contains_key("f1"));
    }

    #[test]
    fn correlations_are_scored_as_by_hand() {
        let values = |v: &[f32]| v.iter().map(|&v| Target::Value(v)).collect::<Vec<_>>();
        let logits: Vec<Matrix> = [1.0, 2.0, 3.0, 4.0]
            .map(|x| Matrix::from_vec(vec![x], 1, 1))
            .into();
        let score = labels(Problem::Regression, 1);
        let s = scores(&score, &logits, &values(&[1.0, 3.0, 3.0, 9.0]));
        near(s["pearson"], 12.0 / (5.0f64 * 36.0).sqrt());
        near(s["spearman"], 4.5 / (5.0f64 * 4.5).sqrt());
        near(scores(&score, &logits, &values(&[2.0; 4]))["pearson"], 0.0);
    }
}
