//! Files as people write them, and as they break.

use std::path::PathBuf;

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
        tags: false,
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
    let labels = Labels::of(
        &found[1..],
        Problem::MultiLabelClassification,
        Level::Sequence,
    );
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
        ("x.tsv", "a\ty\n \t1\n", "x.tsv:2: the text is empty"),
        (
            "x.jsonl",
            "{\"a\": \"b\", \"y\": null}",
            "x.jsonl:1: \"y\" is null",
        ),
        ("x.md", "", "expected a name in .tsv"),
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
    let labels = Labels::of(&train, class, Level::Sequence);
    assert_eq!(labels.names, ["9", "10"]);
    assert_eq!(
        labels.targets(&train, Path::new("f")).unwrap()[0],
        Target::Class(1)
    );
    let odd = [row(6, "9"), row(7, "11"), row(8, "11"), row(9, "12")];
    let unseen = labels.targets(&odd, Path::new("dev.tsv")).unwrap_err();
    assert_eq!(
        unseen.to_string(),
        "dev.tsv:7: label \"11\" is not one of training's: 9, 10; nor is \"12\" (line 9)"
    );
    let scores = Labels::of(&train, Problem::Regression, Level::Sequence);
    assert_eq!(
        scores.targets(&train, Path::new("f")).unwrap()[1],
        Target::Value(9.0)
    );
    assert!(scores.targets(&[row(1, "NaN")], Path::new("f")).is_err());
}

#[test]
fn words_have_a_tag_each_in_columns_and_in_lists() {
    let c = Columns {
        tags: true,
        ..columns("w", None, "y")
    };
    let conll = rows(
        "x.conll",
        "EU NNP I-ORG\nsaid VBD O\n\nPeter NNP I-PER\n",
        &c,
    )
    .unwrap();
    let lists = "{\"w\": [\"EU\", \"said\"], \"y\": [\"B-ORG\", \"O\"]}\n{\"w\": [\"Peter\"], \"y\": [\"B-PER\"]}\n";
    let lists = rows("x.jsonl", lists, &c).unwrap();
    for (a, b) in conll.iter().zip(&lists) {
        assert_eq!((&a.text, &a.labels), (&b.text, &b.labels));
    }
    let labels = Labels::of(&conll, Problem::SingleLabelClassification, Level::Token);
    let targets = labels.targets(&conll, Path::new("x")).unwrap();
    assert_eq!(labels.names, ["B-ORG", "B-PER", "O"]);
    assert_eq!(targets[0], Target::Tokens(vec![Some(0), Some(2)]));
    let odd = "{\"w\": [\"EU\"], \"y\": [\"O\", \"O\"]}";
    let error = rows("x.jsonl", odd, &c).unwrap_err().to_string();
    assert!(error.ends_with("x.jsonl:1: 1 words, 2 tags"), "{error}");
}

#[test]
fn well_known_tasks_are_read_whole() {
    // Rows and labels of training and development files, as their authors give them.
    const WHOLE: [(&str, usize, usize, usize); 10] = [
        ("cola", 8551, 1043, 2),
        ("sst2", 67_349, 872, 2),
        ("mrpc", 3668, 408, 2),
        ("stsb", 5749, 1500, 1),
        ("rte", 2490, 277, 2),
        ("trec", 5452, 500, 6),
        ("sick", 4500, 4927, 3),
        ("banking77", 10_003, 3080, 77),
        ("clinc150", 15_000, 3000, 150),
        ("conll2003", 14_041, 3250, 9),
    ];
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !dir.exists() {
        eprintln!("skipped: no ../shared/data");
        return;
    }
    for (task, train, dev, names) in WHOLE {
        let preset = preset(task).unwrap();
        let rows = |split| {
            let (path, layout) = preset.file(&dir, split).unwrap();
            let rows = read(&path, layout, &preset.columns());
            (rows.unwrap_or_else(|e| panic!("{e}")), path)
        };
        let (train_rows, path) = rows(Split::Train);
        let labels = Labels::of(&train_rows, preset.problem, preset.level);
        labels
            .targets(&train_rows, &path)
            .unwrap_or_else(|e| panic!("{e}"));
        let (dev_rows, path) = rows(Split::Dev);
        labels
            .targets(&dev_rows, &path)
            .unwrap_or_else(|e| panic!("{e}"));
        let found = (train_rows.len(), dev_rows.len(), labels.names.len());
        assert_eq!(found, (train, dev, names), "{task}");
        let below = preset.file(&dir.join("glue"), Split::Dev).unwrap();
        assert_eq!(
            below.0.exists(),
            path.starts_with(dir.join("glue")),
            "{task}"
        );
    }
}
