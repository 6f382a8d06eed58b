//! Files as people write them, and as they break.

use super::*;

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn columns(text: &str, pair: Option<&str>, label: &str) -> Columns {
    Columns {
        text: text.into(),
        pair: pair.map(str::to_owned),
        label: label.into(),
    }
}

fn rows(name: &str, text: &str, columns: &Columns) -> Result<Vec<Row>> {
    let (_dir, path) = file(name, text);
    read(&path, Layout::of(&path)?, columns)
}

#[test]
fn tabs_keep_quotes_and_commas_mean_them() {
    let by_name = columns("a", Some("b"), "y");
    let tabs = rows(
        "x.tsv",
        "\u{feff}a\ty\tb\r\nsay \"hi\t1\tand, so\n",
        &by_name,
    )
    .unwrap();
    assert_eq!(tabs[0].text, "say \"hi");
    assert_eq!(
        (tabs[0].line, tabs[0].pair.as_deref()),
        (2, Some("and, so"))
    );
    let commas = rows(
        "x.csv",
        "y,a,b\n1,\"two\nlines, \"\"q\"\"\",c\n2,d,e",
        &by_name,
    )
    .unwrap();
    assert_eq!(commas[0].text, "two\nlines, \"q\"");
    assert_eq!((commas[1].line, &*commas[1].labels[0]), (4, "2"));
}

#[test]
fn json_lines_have_one_label_or_many() {
    let c = columns("t", None, "l");
    let found = rows(
        "x.jsonl",
        "{\"t\": \"a\", \"l\": 3}\n{\"t\": \"b\", \"l\": [\"p\", \"q\"]}\n",
        &c,
    )
    .unwrap();
    assert_eq!(found[0].labels, ["3"]);
    assert_eq!(found[1].labels, ["p", "q"]);
    let labels = Labels::of(&found[1..], Problem::MultiLabelClassification);
    let target = labels.targets(&found[1..], Path::new("x")).unwrap();
    assert_eq!(target[0], Target::Many(vec![true, true]));
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let c = columns("a", None, "y");
    for (name, text, why) in [
        ("x.tsv", "a\ty\nonly\n", "x.tsv:2: expected column 1"),
        ("x.tsv", "a\tz\nb\t1\n", "no column \"y\"; there are a, z"),
        ("x.tsv", "a\ty\nb\t\n", "x.tsv:2: the label is empty"),
        ("x.csv", "a,y\n\"b,1\n", "x.csv:2: a quote is opened"),
        (
            "x.jsonl",
            "{\"a\": 1, \"y\": 1}",
            "x.jsonl:1: \"a\": expected a string",
        ),
        ("x.tsv", "a\ty\n", "no rows"),
    ] {
        let error = rows(name, text, &c).unwrap_err().to_string();
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    }
}

#[test]
fn labels_are_numbered_by_training_alone() {
    let row = |line, label: &str| Row {
        line,
        text: "t".into(),
        pair: None,
        labels: vec![label.into()],
    };
    let class = Problem::SingleLabelClassification;
    let train = [row(1, "10"), row(2, "9"), row(3, "10")];
    let labels = Labels::of(&train, class);
    assert_eq!(labels.names, ["9", "10"]);
    assert_eq!(
        labels.targets(&train, Path::new("f")).unwrap()[0],
        Target::Class(1)
    );
    let unseen = labels
        .targets(&[row(7, "11")], Path::new("dev.tsv"))
        .unwrap_err();
    assert!(
        unseen
            .to_string()
            .starts_with("dev.tsv:7: label \"11\" is not one of training's")
    );
    let scores = Labels::of(&train, Problem::Regression);
    assert_eq!(
        scores.targets(&train, Path::new("f")).unwrap()[1],
        Target::Value(9.0)
    );
    assert!(scores.targets(&[row(1, "NaN")], Path::new("f")).is_err());
}
