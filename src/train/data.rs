//! Labelled files: tables between tabs or commas and JSON lines, and the layouts that well-known tasks come in.
//!
//! A row is one or two texts and a label, with the line it came from, so that a bad one is named. Labels are names
//! until a [`Labels`] made from the training rows numbers them; one that training never showed is an error before
//! the first step. Tab-separated files are read without quotes (GLUE's hold lone ones); CSV by RFC 4180.
//!
//! Not here: tokens.

use std::path::{Path, PathBuf};

use super::loss::Target;
use crate::{
    error::{Error, Result},
    spec::Problem,
};

/// One row of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its line, from 1.
    pub line: usize,
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub pair: Option<String>,
    /// Its label as written; several for a multi-label row, none for a row of none.
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
    /// `COARSE:fine text`, in Latin-1: the coarse label.
    Questions,
}

impl Layout {
    /// What the name of a file says.
    ///
    /// # Errors
    /// When it ends with none of `.tsv`, `.txt`, `.csv`, `.jsonl`, `.json`, `.label`.
    pub fn of(path: &Path) -> Result<Layout> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("tsv" | "txt") => Ok(Layout::Tabs { header: true }),
            Some("csv") => Ok(Layout::Commas),
            Some("jsonl" | "json") => Ok(Layout::Json),
            Some("label") => Ok(Layout::Questions),
            _ => Err(Error::format(
                path,
                "expected a name in .tsv, .csv or .jsonl",
            )),
        }
    }
}

/// A task whose files are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// Training file below the data directory.
    pub train: &'static str,
    /// Development file.
    pub dev: &'static str,
    /// Layout of both.
    pub layout: Layout,
    /// Columns of both.
    pub columns: Columns,
    /// What outputs mean.
    pub problem: Problem,
    /// The metric that picks the best epoch.
    pub metric: &'static str,
}

/// The tasks that `preset` knows.
pub const PRESETS: [&str; 7] = ["cola", "mrpc", "rte", "sst2", "stsb", "sick", "trec"];

/// The preset of a task, for a directory that holds its files.
pub fn preset(task: &str) -> Option<Preset> {
    let columns = |text: &str, pair: &str, label: &str| Columns {
        text: text.to_owned(),
        pair: (!pair.is_empty()).then(|| pair.to_owned()),
        label: label.to_owned(),
    };
    let (tabs, bare) = (
        Layout::Tabs { header: true },
        Layout::Tabs { header: false },
    );
    let class = Problem::SingleLabelClassification;
    let (train, dev, layout, columns, problem, metric) = match task {
        "cola" => (
            "train.tsv",
            "dev.tsv",
            bare,
            columns("3", "", "1"),
            class,
            "matthews",
        ),
        "mrpc" => (
            "train.fixed.tsv",
            "dev.tsv",
            tabs,
            columns("#1 String", "#2 String", "Quality"),
            class,
            "f1",
        ),
        "rte" => (
            "train.tsv",
            "dev.tsv",
            tabs,
            columns("sentence1", "sentence2", "label"),
            class,
            "accuracy",
        ),
        "sst2" => (
            "train.tsv",
            "dev.tsv",
            tabs,
            columns("sentence", "", "label"),
            class,
            "accuracy",
        ),
        "stsb" => (
            "train.tsv",
            "dev.tsv",
            tabs,
            columns("sentence1", "sentence2", "score"),
            Problem::Regression,
            "pearson",
        ),
        "sick" => (
            "SICK_train.txt",
            "SICK_test_annotated.txt",
            tabs,
            columns("sentence_A", "sentence_B", "entailment_judgment"),
            class,
            "accuracy",
        ),
        "trec" => (
            "train_5500.label",
            "TREC_10.label",
            Layout::Questions,
            columns("text", "", "label"),
            class,
            "accuracy",
        ),
        _ => return None,
    };
    Some(Preset {
        train,
        dev,
        layout,
        columns,
        problem,
        metric,
    })
}

/// Reads every row of `path`.
///
/// # Errors
/// A file that cannot be read or is not UTF-8 (but for layouts in Latin-1); a column that is not there; a row with
/// another number of columns, without text, or without a label: with file and line.
pub fn read(path: &Path, layout: Layout, columns: &Columns) -> Result<Vec<Row>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let at = |line: usize, why: String| Error::Row {
        source_name: path.display().to_string(),
        line,
        why,
    };
    if layout == Layout::Questions {
        let text: String = bytes.iter().map(|&b| char::from(b)).collect();
        let rows = text.lines().enumerate().filter(|(_, l)| !l.is_empty());
        return rows
            .map(|(i, line)| {
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
            .collect();
    }
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        at(line, "not UTF-8".into())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rows = match layout {
        Layout::Json => json_rows(text, columns, &at)?,
        _ => table_rows(text, layout, columns, &at)?,
    };
    if rows.is_empty() {
        return Err(Error::format(path, "no rows"));
    }
    Ok(rows)
}

type At<'a> = &'a dyn Fn(usize, String) -> Error;

fn json_rows(text: &str, columns: &Columns, at: At<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (i, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let line_number = i + 1;
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).map_err(|e| at(line_number, e.to_string()))?;
        let string = |key: &str| match object.get(key) {
            Some(serde_json::Value::String(s)) => Ok(s.clone()),
            Some(_) => Err(at(line_number, format!("{key:?}: expected a string"))),
            None => Err(at(line_number, format!("no key {key:?}"))),
        };
        let label = |v: &serde_json::Value| match v {
            serde_json::Value::String(s) => Ok(s.clone()),
            serde_json::Value::Number(n) => Ok(n.to_string()),
            serde_json::Value::Bool(b) => Ok(b.to_string()),
            _ => Err(at(
                line_number,
                "a label is a string or a number".to_owned(),
            )),
        };
        let labels = match object.get(&columns.label) {
            Some(serde_json::Value::Array(all)) => all.iter().map(label).collect::<Result<_>>()?,
            Some(one) => vec![label(one)?],
            None => return Err(at(line_number, format!("no key {:?}", columns.label))),
        };
        rows.push(Row {
            line: line_number,
            text: string(&columns.text)?,
            pair: columns.pair.as_deref().map(string).transpose()?,
            labels,
        });
    }
    Ok(rows)
}

fn table_rows(text: &str, layout: Layout, columns: &Columns, at: At<'_>) -> Result<Vec<Row>> {
    let records = match layout {
        Layout::Commas => commas(text, at)?,
        _ => text
            .split('\n')
            .enumerate()
            .map(|(i, l)| (i + 1, l.strip_suffix('\r').unwrap_or(l)))
            .filter(|(_, l)| !l.is_empty())
            .map(|(i, l)| (i, l.split('\t').map(str::to_owned).collect()))
            .collect(),
    };
    let mut records = records.into_iter();
    let header = match layout {
        Layout::Tabs { header: false } => None,
        _ => records.next(),
    };
    let place = |name: &str| match &header {
        Some((line, names)) => names.iter().position(|n| n.trim() == name).ok_or_else(|| {
            at(
                *line,
                format!("no column {name:?}; there are {}", names.join(", ")),
            )
        }),
        None => name.parse::<usize>().map_err(|_| {
            at(
                1,
                format!("{name:?}: without a header columns are numbers from 0"),
            )
        }),
    };
    let text_at = place(&columns.text)?;
    let pair_at = columns.pair.as_deref().map(place).transpose()?;
    let label_at = place(&columns.label)?;
    let mut rows = Vec::new();
    for (line, fields) in records {
        let field = |i: usize| {
            let found = fields.len();
            let field = fields.get(i).cloned();
            field.ok_or_else(|| at(line, format!("expected column {i}, found {found} columns")))
        };
        let label = field(label_at)?.trim().to_owned();
        if label.is_empty() {
            return Err(at(line, "the label is empty".into()));
        }
        rows.push(Row {
            line,
            text: field(text_at)?,
            pair: pair_at.map(field).transpose()?,
            labels: vec![label],
        });
    }
    Ok(rows)
}

/// Records of comma-separated values with the line each begins on.
fn commas(text: &str, at: At<'_>) -> Result<Vec<(usize, Vec<String>)>> {
    let (mut out, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut first, mut inside, mut closed) = (1, 1, false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if inside => (inside, closed) = (false, true),
            '"' if field.is_empty() && !closed => inside = true,
            ',' if !inside => {
                record.push(std::mem::take(&mut field));
                closed = false;
            }
            '\r' if !inside && chars.peek() == Some(&'\n') => {}
            '\n' if !inside => {
                if !(record.is_empty() && field.is_empty() && !closed) {
                    record.push(std::mem::take(&mut field));
                    out.push((first, std::mem::take(&mut record)));
                }
                line += 1;
                (first, closed) = (line, false);
            }
            _ if closed => return Err(at(line, "text after the closing quote".into())),
            c => {
                line += usize::from(c == '\n');
                field.push(c);
            }
        }
    }
    if inside {
        return Err(at(first, "a quote is opened and never closed".into()));
    }
    if !(record.is_empty() && field.is_empty()) {
        record.push(field);
        out.push((first, record));
    }
    Ok(out)
}

/// Labels by number, and what they are for.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// Names by output; for a regression one name.
    pub names: Vec<String>,
    /// What outputs mean.
    pub problem: Problem,
}

impl Labels {
    /// The labels of training rows in order: as numbers where all are, else by name.
    pub fn of(rows: &[Row], problem: Problem) -> Self {
        if problem == Problem::Regression {
            let names = vec!["score".to_owned()];
            return Self { names, problem };
        }
        let mut names: Vec<String> = rows.iter().flat_map(|r| r.labels.clone()).collect();
        names.sort();
        names.dedup();
        let numbers: Option<Vec<f64>> = names.iter().map(|n| n.parse().ok()).collect();
        if let Some(numbers) = numbers {
            let mut both: Vec<(f64, String)> = numbers.into_iter().zip(names).collect();
            both.sort_by(|a, b| a.0.total_cmp(&b.0));
            names = both.into_iter().map(|(_, n)| n).collect();
        }
        Self { names, problem }
    }

    /// What each of `rows` should be.
    ///
    /// # Errors
    /// A label that is none of these, or no number for a regression: with file and line.
    pub fn targets(&self, rows: &[Row], path: &Path) -> Result<Vec<Target>> {
        let at = |line, why| Error::Row {
            source_name: PathBuf::from(path).display().to_string(),
            line,
            why,
        };
        let number = |row: &Row, label: &String| {
            let known = || {
                format!(
                    "label {label:?} is not one of training's: {}",
                    self.names.join(", ")
                )
            };
            let found = self.names.iter().position(|n| n == label);
            found.ok_or_else(|| at(row.line, known()))
        };
        let one = |row: &Row| match &row.labels[..] {
            [one] => Ok(one.clone()),
            more => Err(at(
                row.line,
                format!("expected one label, found {}", more.len()),
            )),
        };
        rows.iter()
            .map(|row| match self.problem {
                Problem::Regression => {
                    let label = one(row)?;
                    let value = label.parse::<f32>().ok().filter(|v| v.is_finite());
                    let value =
                        value.ok_or_else(|| at(row.line, format!("{label:?} is no number")))?;
                    Ok(Target::Value(value))
                }
                Problem::SingleLabelClassification => Ok(Target::Class(number(row, &one(row)?)?)),
                Problem::MultiLabelClassification => {
                    let mut flags = vec![false; self.names.len()];
                    for label in &row.labels {
                        flags[number(row, label)?] = true;
                    }
                    Ok(Target::Many(flags))
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
