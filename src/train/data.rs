//! Labelled files: tables between tabs or commas, JSON lines, Parquet, CoNLL's columns, and the layouts that well-known
//! tasks come in.
//!
//! A row is one or two texts and a label, or a sentence and a label a word, with the line it came from, so that a bad one
//! is named. Labels are names until a [`Labels`] made from the training rows numbers them; one that training never showed
//! is an error before the first step.
//!
//! Not here: tokens, but for [`tags::to_tokens`].

#[cfg(feature = "parquet")]
mod parquet;
pub mod presets;
mod tables;
pub mod tags;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use self::presets::{PRESETS, Preset, preset};
use super::loss::Target;
use crate::{
    error::{Error, Result},
    model::Level,
    spec::Problem,
};

/// One row of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its line, from 1 (Parquet: its number).
    pub line: usize,
    /// The text; of tagged words, the words with a blank between them.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// Its label as written; several for a multi-label row, none for a row of none; of tagged words one a word.
    pub labels: Vec<String>,
}

/// Where a row's parts stand: names of a header, or numbers from 0 where there is none; keys of JSON lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    /// The text.
    pub text: String,
    /// The second text.
    pub pair: Option<String>,
    /// The label.
    pub label: String,
    /// Whether each word has a label.
    pub tags: bool,
}

#[cfg(feature = "parquet")]
impl Columns {
    /// The names that are read.
    fn names(&self) -> impl Iterator<Item = &str> {
        let pair = self.pair.as_deref();
        [&*self.text, &*self.label].into_iter().chain(pair)
    }
}

/// The parts that a task's rows come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To choose by.
    Dev,
    /// To report.
    Test,
}

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Tab-separated, without quotes.
    Tabs {
        /// The first line names the columns.
        header: bool,
    },
    /// Comma-separated, with quotes; a header.
    Commas,
    /// One JSON object a line.
    Json,
    /// Parquet.
    Parquet,
    /// CoNLL's columns: a word a line, its tag last.
    Tags,
    /// `COARSE:fine text`, in Latin-1: the coarse label.
    Questions,
    /// One JSON object of splits, each a list of `[text, label]`: this split.
    Intents(&'static str),
}

impl Layout {
    /// What the name of a file says.
    ///
    /// # Errors
    /// When its ending is none of those known.
    pub fn of(path: &Path) -> Result<Layout> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("tsv" | "txt") => Ok(Layout::Tabs { header: true }),
            Some("csv") => Ok(Layout::Commas),
            Some("jsonl" | "json") => Ok(Layout::Json),
            Some("parquet") => Ok(Layout::Parquet),
            Some("conll" | "bio" | "iob") => Ok(Layout::Tags),
            Some("label") => Ok(Layout::Questions),
            _ => {
                let known = ".tsv, .csv, .jsonl, .parquet or .conll";
                Err(Error::format(path, format!("expected a name in {known}")))
            }
        }
    }
}

type At<'a> = &'a dyn Fn(usize, String) -> Error;

/// Reads every row of `path`.
///
/// # Errors
/// A file that cannot be read or is not UTF-8 (but for layouts in Latin-1); a column that is not there; a row with
/// another number of columns, without text, without a label, or with another number of tags than words: with file and
/// line.
pub fn read(path: &Path, layout: Layout, columns: &Columns) -> Result<Vec<Row>> {
    let at = |line: usize, why: String| Error::Row {
        source_name: path.display().to_string(),
        line,
        why,
    };
    let mut rows = match layout {
        #[cfg(feature = "parquet")]
        Layout::Parquet => parquet::rows(path, columns, &at)?,
        #[cfg(not(feature = "parquet"))]
        Layout::Parquet => {
            let why = "this build is without the feature `parquet`";
            return Err(Error::unsupported(path, "Parquet", why));
        }
        _ => {
            let bytes = std::fs::read(path).map_err(Error::io(path))?;
            match layout {
                Layout::Questions => questions(&bytes, &at)?,
                _ => {
                    let text = utf8(&bytes, &at)?;
                    match layout {
                        Layout::Json => tables::json_rows(text, columns, &at)?,
                        Layout::Tags => tags::rows(text, &at)?,
                        Layout::Intents(split) => intents(text, split, path)?,
                        _ => tables::table_rows(text, layout, columns, &at)?,
                    }
                }
            }
        }
    };
    if rows.is_empty() {
        return Err(Error::format(path, "no rows"));
    }
    for row in &mut rows {
        let texts = [Some(&row.text), row.pair.as_ref()];
        if texts.into_iter().flatten().any(|t| t.trim().is_empty()) {
            return Err(at(row.line, "the text is empty".to_owned()));
        }
        if columns.tags {
            let (words, tags) = (row.text.split(' ').count(), row.labels.len());
            if words != tags {
                return Err(at(row.line, format!("{words} words, {tags} tags")));
            }
            tags::to_bio(&mut row.labels);
        }
    }
    Ok(rows)
}

fn utf8<'a>(bytes: &'a [u8], at: At<'_>) -> Result<&'a str> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        at(line, "not UTF-8".into())
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn questions(bytes: &[u8], at: At<'_>) -> Result<Vec<Row>> {
    let text: String = bytes.iter().map(|&b| char::from(b)).collect();
    let rows = text.lines().enumerate().filter(|(_, l)| !l.is_empty());
    rows.map(|(i, line)| {
        let (label, text) = line
            .split_once(' ')
            .ok_or_else(|| at(i + 1, "expected a label, a blank and a text".into()))?;
        let coarse = label.split(':').next().unwrap_or(label);
        Ok(Row {
            line: i + 1,
            text: text.trim().to_owned(),
            pair: None,
            labels: vec![coarse.to_owned()],
        })
    })
    .collect()
}

/// Rows are numbered within their split: the file's lines say nothing.
fn intents(text: &str, split: &str, path: &Path) -> Result<Vec<Row>> {
    let refuse = |why: String| Error::format(path, why);
    let mut splits: std::collections::BTreeMap<String, Vec<(String, String)>> =
        serde_json::from_str(text).map_err(|e| refuse(e.to_string()))?;
    let rows = splits.remove(split);
    let rows = rows.ok_or_else(|| refuse(format!("no split {split:?}")))?;
    let row = |(i, (text, label)): (usize, (String, String))| Row {
        line: i + 1,
        text,
        pair: None,
        labels: vec![label],
    };
    Ok(rows.into_iter().enumerate().map(row).collect())
}

/// Labels by number, and what they are for.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// Names by output; for a regression one name.
    pub names: Vec<String>,
    /// What outputs mean.
    pub problem: Problem,
    /// One label a text, or one a word.
    pub level: Level,
}

impl Labels {
    /// The labels of training rows in order: as numbers where all are, else by name.
    pub fn of(rows: &[Row], problem: Problem, level: Level) -> Self {
        let mut names = match problem {
            Problem::Regression => vec!["score".to_owned()],
            _ => rows.iter().flat_map(|r| r.labels.clone()).collect(),
        };
        names.sort();
        names.dedup();
        let numbers: Option<Vec<f64>> = names.iter().map(|n| n.parse().ok()).collect();
        if let Some(numbers) = numbers {
            let mut both: Vec<(f64, String)> = numbers.into_iter().zip(names).collect();
            both.sort_by(|a, b| a.0.total_cmp(&b.0));
            names = both.into_iter().map(|(_, n)| n).collect();
        }
        Self {
            names,
            problem,
            level,
        }
    }

    /// What each of `rows` should be; of tagged words, [`Target::Tokens`] has an entry a word.
    ///
    /// # Errors
    /// Labels that are none of these, all of them with the lines where they first stand; no number for a regression, another
    /// number of labels than one where one is due: with file and line.
    pub fn targets(&self, rows: &[Row], path: &Path) -> Result<Vec<Target>> {
        let at = |line, why| Error::Row {
            source_name: path.display().to_string(),
            line,
            why,
        };
        self.know(rows, &at)?;
        let number = |label: &String| {
            let found = self.names.iter().position(|n| n == label);
            found.expect("every label was looked for above")
        };
        let one = |row: &Row| match &row.labels[..] {
            [one] => Ok(one.clone()),
            more => Err(at(
                row.line,
                format!("expected one label, found {}", more.len()),
            )),
        };
        rows.iter()
            .map(|row| match (self.level, self.problem) {
                (Level::Token, _) => {
                    let numbers = row.labels.iter().map(|l| Some(number(l)));
                    Ok(Target::Tokens(numbers.collect()))
                }
                (_, Problem::Regression) => {
                    let label = one(row)?;
                    let value = label.parse::<f32>().ok().filter(|v| v.is_finite());
                    let value =
                        value.ok_or_else(|| at(row.line, format!("{label:?} is no number")))?;
                    Ok(Target::Value(value))
                }
                (_, Problem::SingleLabelClassification) => Ok(Target::Class(number(&one(row)?))),
                (_, Problem::MultiLabelClassification) => {
                    let mut flags = vec![false; self.names.len()];
                    row.labels.iter().for_each(|l| flags[number(l)] = true);
                    Ok(Target::Many(flags))
                }
            })
            .collect()
    }

    /// Whether every label of `rows` is one of these.
    fn know(&self, rows: &[Row], at: At<'_>) -> Result<()> {
        if self.problem == Problem::Regression {
            return Ok(());
        }
        let known: std::collections::HashSet<&String> = self.names.iter().collect();
        let mut unseen: Vec<(&String, usize)> = Vec::new();
        for row in rows {
            for label in row.labels.iter().filter(|l| !known.contains(l)) {
                if unseen.iter().all(|(l, _)| *l != label) {
                    unseen.push((label, row.line));
                }
            }
        }
        let Some((&(label, line), rest)) = unseen.split_first() else {
            return Ok(());
        };
        let rest = rest
            .iter()
            .map(|(l, line)| format!("; nor is {l:?} (line {line})"));
        let (rest, known) = (rest.collect::<String>(), self.names.join(", "));
        let why = format!("label {label:?} is not one of training's: {known}{rest}");
        Err(at(line, why))
    }
}
