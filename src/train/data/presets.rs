//! Tasks whose files are known: which file is which split, how it is laid out, which columns mean what, and the metric that
//! the task is known by.

use std::path::{Path, PathBuf};

use super::{Columns, Layout, Split};
use crate::{model::Level, spec::Problem};

/// A task whose files are known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    /// What it is called.
    pub name: &'static str,
    /// The directory that its files come in, below one that holds several tasks.
    folder: &'static str,
    /// Training file and its layout.
    train: (&'static str, Layout),
    /// Development file.
    dev: (&'static str, Layout),
    /// Test file, where there is a labelled one.
    test: Option<(&'static str, Layout)>,
    /// Text, second text (empty: none) and label.
    columns: (&'static str, &'static str, &'static str),
    /// What outputs mean.
    pub problem: Problem,
    /// One label a text, or one a word.
    pub level: Level,
    /// The metric that picks the best epoch.
    pub metric: &'static str,
}

const TABS: Layout = Layout::Tabs { header: true };
const BARE: Layout = Layout::Tabs { header: false };

/// One label a text of one or two texts, in tab-separated files with a header called train.tsv and dev.tsv.
const PAIR: Preset = Preset {
    name: "rte",
    folder: "glue/RTE",
    train: ("train.tsv", TABS),
    dev: ("dev.tsv", TABS),
    test: None,
    columns: ("sentence1", "sentence2", "label"),
    problem: Problem::SingleLabelClassification,
    level: Level::Sequence,
    metric: "accuracy",
};

/// The tasks there are.
pub const PRESETS: [Preset; 15] = [
    Preset {
        name: "cola",
        folder: "glue/CoLA",
        train: ("train.tsv", BARE),
        dev: ("dev.tsv", BARE),
        columns: ("3", "", "1"),
        metric: "matthews",
        ..PAIR
    },
    Preset {
        name: "sst2",
        folder: "glue/SST-2",
        columns: ("sentence", "", "label"),
        ..PAIR
    },
    Preset {
        name: "mrpc",
        folder: "glue/MRPC",
        train: ("train.fixed.tsv", TABS),
        test: Some(("msr_paraphrase_test.txt", TABS)),
        columns: ("#1 String", "#2 String", "Quality"),
        metric: "f1",
        ..PAIR
    },
    Preset {
        name: "stsb",
        folder: "glue/STS-B",
        columns: ("sentence1", "sentence2", "score"),
        problem: Problem::Regression,
        metric: "pearson",
        ..PAIR
    },
    Preset {
        name: "qqp",
        folder: "glue/QQP",
        columns: ("question1", "question2", "is_duplicate"),
        metric: "f1",
        ..PAIR
    },
    Preset {
        name: "mnli",
        folder: "glue/MNLI",
        dev: ("dev_matched.tsv", TABS),
        columns: ("sentence1", "sentence2", "gold_label"),
        ..PAIR
    },
    Preset {
        name: "mnli-mm",
        folder: "glue/MNLI",
        dev: ("dev_mismatched.tsv", TABS),
        columns: ("sentence1", "sentence2", "gold_label"),
        ..PAIR
    },
    Preset {
        name: "qnli",
        folder: "glue/QNLI",
        columns: ("question", "sentence", "label"),
        ..PAIR
    },
    PAIR,
    Preset {
        name: "wnli",
        folder: "glue/WNLI",
        ..PAIR
    },
    Preset {
        name: "trec",
        folder: "trec",
        train: ("train_5500.label", Layout::Questions),
        dev: ("TREC_10.label", Layout::Questions),
        columns: ("text", "", "label"),
        ..PAIR
    },
    Preset {
        name: "sick",
        folder: "sick",
        train: ("SICK_train.txt", TABS),
        dev: ("SICK_test_annotated.txt", TABS),
        columns: ("sentence_A", "sentence_B", "entailment_judgment"),
        ..PAIR
    },
    Preset {
        name: "banking77",
        folder: "banking77",
        train: ("train.csv", Layout::Commas),
        dev: ("test.csv", Layout::Commas),
        columns: ("text", "", "category"),
        ..PAIR
    },
    Preset {
        name: "clinc150",
        folder: "clinc150",
        train: ("data_full.json", Layout::Intents("train")),
        dev: ("data_full.json", Layout::Intents("val")),
        test: Some(("data_full.json", Layout::Intents("test"))),
        columns: ("text", "", "label"),
        ..PAIR
    },
    Preset {
        name: "conll2003",
        folder: "conll2003",
        train: ("eng.train", Layout::Tags),
        dev: ("eng.testa", Layout::Tags),
        test: Some(("eng.testb", Layout::Tags)),
        columns: ("text", "", "label"),
        level: Level::Token,
        metric: "f1",
        ..PAIR
    },
];

/// The preset of a task.
pub fn preset(task: &str) -> Option<Preset> {
    PRESETS.into_iter().find(|p| p.name == task)
}

impl Preset {
    /// The file of a split and its layout; in `dir` itself, or where it is below a directory that holds several tasks.
    pub fn file(&self, dir: &Path, split: Split) -> Option<(PathBuf, Layout)> {
        let (name, layout) = match split {
            Split::Train => self.train,
            Split::Dev => self.dev,
            Split::Test => self.test?,
        };
        let own = self.folder.rsplit('/').next().unwrap_or(self.folder);
        let below = [dir.join(own).join(name), dir.join(self.folder).join(name)];
        let found = below.into_iter().find(|path| path.exists());
        Some((found.unwrap_or_else(|| dir.join(name)), layout))
    }

    /// Its columns.
    pub fn columns(&self) -> Columns {
        let (text, pair, label) = self.columns;
        Columns {
            text: text.to_owned(),
            pair: (!pair.is_empty()).then(|| pair.to_owned()),
            label: label.to_owned(),
            tags: self.level == Level::Token,
        }
    }

    /// The layout of a file that is given instead of `split`'s.
    pub fn layout(&self, split: Split) -> Layout {
        match split {
            Split::Train => self.train.1,
            Split::Dev => self.dev.1,
            Split::Test => self.test.unwrap_or(self.dev).1,
        }
    }
}
