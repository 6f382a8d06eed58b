//! The trainer's metrics against scikit-learn, scipy and seqeval (tests/reference/metrics.py).

use serde_json::Value;
use sorank::{
    mat::Matrix,
    model::Level,
    spec::Problem,
    train::{Target, data::Labels, metrics::scores},
};

use crate::fixtures::manifest_dir;

/// Both sides count in f64; a correlation over 150 rows loses the last digits.
const TOLERANCE: f64 = 1e-12;

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).expect("a list")
}

/// Logits whose largest, or whose sign, says `chosen`.
fn says(chosen: impl Iterator<Item = bool>) -> Vec<f32> {
    chosen.map(|c| if c { 1.5 } else { -0.5 }).collect()
}

fn compare(what: &str, labels: &Labels, logits: &[Matrix], targets: &[Target], want: &Value) {
    let got = scores(labels, logits, targets);
    let want = want.as_object().expect("scores");
    assert!(!want.is_empty());
    for (name, want) in want {
        let want = want.as_f64().expect("a number");
        let got = got[name.as_str()];
        assert!(
            (got - want).abs() < TOLERANCE,
            "{what}, {name}: {got} for {want}"
        );
    }
    assert_eq!(got.len(), want.len(), "{what}: {got:?}");
}

#[test]
fn metrics_equal_those_of_sklearn_scipy_and_seqeval() {
    let path = manifest_dir().join("tests/reference/metrics.json");
    let golden = std::fs::read(path).expect("the golden values");
    let golden: Value = serde_json::from_slice(&golden).expect("JSON");
    let cases = |kind: &str| golden[kind].as_array().expect("cases").iter();
    let labels = |names: Vec<String>, problem, level| Labels {
        names,
        problem,
        level,
    };
    let numbered = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
    for case in cases("classes") {
        let n = case["labels"].as_u64().expect("a number") as usize;
        let row = |s: usize| Matrix::from_vec(says((0..n).map(|i| i == s)), 1, n);
        let logits: Vec<Matrix> = list(&case["said"]).into_iter().map(row).collect();
        let targets: Vec<Target> = list(&case["truth"])
            .into_iter()
            .map(Target::Class)
            .collect();
        let labels = labels(
            numbered(n),
            Problem::SingleLabelClassification,
            Level::Sequence,
        );
        compare("classes", &labels, &logits, &targets, &case["scores"]);
    }
    for case in cases("regression") {
        let row = |x: f32| Matrix::from_vec(vec![x], 1, 1);
        let logits: Vec<Matrix> = list(&case["said"]).into_iter().map(row).collect();
        let targets: Vec<Target> = list(&case["truth"])
            .into_iter()
            .map(Target::Value)
            .collect();
        let labels = labels(numbered(1), Problem::Regression, Level::Sequence);
        compare("regression", &labels, &logits, &targets, &case["scores"]);
    }
    for case in cases("many") {
        let (said, truth): (Vec<Vec<bool>>, Vec<Vec<bool>>) =
            (list(&case["said"]), list(&case["truth"]));
        let n = truth[0].len();
        let row = |flags: Vec<bool>| Matrix::from_vec(says(flags.into_iter()), 1, n);
        let logits: Vec<Matrix> = said.into_iter().map(row).collect();
        let targets: Vec<Target> = truth.into_iter().map(Target::Many).collect();
        let labels = labels(
            numbered(n),
            Problem::MultiLabelClassification,
            Level::Sequence,
        );
        compare("many", &labels, &logits, &targets, &case["scores"]);
    }
    for case in cases("tags") {
        let names: Vec<String> = list(&case["names"]);
        let n = names.len();
        let number = |tag: &String| names.iter().position(|t| t == tag).expect("a tag");
        let (said, truth): (Vec<Vec<String>>, Vec<Vec<String>>) =
            (list(&case["said"]), list(&case["truth"]));
        // A token without a label stands before every word.
        let row = |tags: &Vec<String>| {
            let token = |s: usize| [says((0..n).map(|_| true)), says((0..n).map(|i| i == s))];
            let data = tags.iter().flat_map(|t| token(number(t)).concat());
            Matrix::from_vec(data.collect(), 2 * tags.len(), n)
        };
        let target = |tags: &Vec<String>| {
            Target::Tokens(tags.iter().flat_map(|t| [None, Some(number(t))]).collect())
        };
        let logits: Vec<Matrix> = said.iter().map(row).collect();
        let targets: Vec<Target> = truth.iter().map(target).collect();
        let labels = labels(
            names.clone(),
            Problem::SingleLabelClassification,
            Level::Token,
        );
        compare("tags", &labels, &logits, &targets, &case["scores"]);
    }
}
