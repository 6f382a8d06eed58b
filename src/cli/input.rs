//! Rows in: from the command line's arguments, a file, or stdin, one at a time.
//!
//! | name | rows |
//! |---|---|
//! | `.txt` | a text a line, empty lines too: the n-th answer belongs to the n-th line |
//! | `.jsonl`, `.ndjson` | `{"text", "text_pair"?, "adapter"?: name or null, "adapters"?: [name or null, ..]}` a line |
//! | `.csv` | a header of `text`, `text_pair`, `adapter`; quoted by RFC 4180 |
//! | `.tsv` | the same header, split at tabs; a quote is a character like any other |
//! | `-` | stdin: JSONL when its first line begins with `{`, else a text a line |
//!
//! A key or column that is not in this table is refused by name: `"adaptr"` ignored would be an answer from the
//! wrong adapter. For the same reason there is a difference between no adapter named (the default is used)
//! and the base asked for (`null`). Lines are numbered as an editor does; a byte order mark, CR LF and, but for
//! `.txt`, blank lines are passed over; a line that is not UTF-8 or longer than [`LINE_MAX`] is an error.
//!
//! Nothing here holds more than one row. A bad row is one `Err` in its place, and the next row follows; only
//! after a failed read, or a quote that never ends, is there nothing more to say. What a text means (too long, empty)
//! is not known here.

mod lines;
mod queries;
mod table;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use self::lines::Lines;
pub(crate) use self::queries::{Queries, Query};
use crate::{Error, Result};

/// The longest line (in `.csv`: record) that is read, in bytes.
pub(crate) const LINE_MAX: usize = 16 << 20;

const KNOWN: &str = "text, text_pair, adapter, adapters";

/// One row of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its first line in the source, from 1; of arguments, which one.
    pub(crate) line: usize,
    /// The text.
    pub(crate) text: String,
    /// The second text of a pair.
    pub(crate) text_pair: Option<String>,
    /// Who answers.
    pub(crate) adapters: RowAdapter,
}

/// The adapters a row asks for. `None` as a name is the base itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowAdapter {
    /// It does not say; the command's default answers.
    NotGiven,
    /// One answer.
    One(Option<String>),
    /// An answer from each; never empty.
    Many(Vec<Option<String>>),
}

/// A stream of rows.
pub(crate) struct Rows {
    source_name: String,
    kind: Kind,
}

enum Kind {
    Arguments(std::iter::Enumerate<std::vec::IntoIter<String>>),
    Text(Lines),
    Json(Lines),
    Table(table::Table),
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("source_name", &self.source_name)
            .finish_non_exhaustive()
    }
}

impl Rows {
    /// Each argument is a text.
    pub(crate) fn from_arguments(texts: Vec<String>) -> Rows {
        Rows {
            source_name: "argument".into(),
            kind: Kind::Arguments(texts.into_iter().enumerate()),
        }
    }

    /// A file by its ending, or `-` for stdin.
    ///
    /// # Errors
    /// [`Error::Io`] when it does not open, [`Error::Format`] for another ending, [`Error::Row`] for a bad header.
    pub(crate) fn open(path: &Path) -> Result<Rows> {
        let name = path.display().to_string();
        if name == "-" {
            return Rows::sniff(name, Box::new(BufReader::new(std::io::stdin())));
        }
        let ending = path
            .extension()
            .map(|e| e.to_string_lossy().to_ascii_lowercase());
        let ending = ending.as_deref().unwrap_or("");
        if !["txt", "jsonl", "ndjson", "csv", "tsv"].contains(&ending) {
            let why = "expected a file that ends in .txt, .jsonl, .csv or .tsv, or - for stdin";
            return Err(Error::format(path, why));
        }
        let file = File::open(path).map_err(Error::io(path))?;
        Rows::read(name, ending, Box::new(BufReader::new(file)))
    }

    /// A reader as `-` is read: JSONL when its first line begins with `{`, else a text a line.
    ///
    /// # Errors
    /// [`Error::Io`] when reading fails.
    pub(crate) fn sniff(source_name: String, reader: Box<dyn BufRead + Send>) -> Result<Rows> {
        let mut lines = Lines::new(source_name.clone(), reader);
        let json = lines.first_byte()? == Some(b'{');
        let kind = if json {
            Kind::Json(lines)
        } else {
            Kind::Text(lines)
        };
        Ok(Rows { source_name, kind })
    }

    /// A reader as a file of this ending is read (`txt`, `jsonl`, `ndjson`, `csv`, `tsv`; any other as `txt`).
    ///
    /// # Errors
    /// [`Error::Io`] when reading fails, [`Error::Row`] for a bad header.
    pub(crate) fn read(
        source_name: String,
        ending: &str,
        reader: Box<dyn BufRead + Send>,
    ) -> Result<Rows> {
        let lines = Lines::new(source_name.clone(), reader);
        let kind = match ending {
            "jsonl" | "ndjson" => Kind::Json(lines),
            "csv" => Kind::Table(table::Table::new(lines, table::Split::Quoted)?),
            "tsv" => Kind::Table(table::Table::new(lines, table::Split::Tabs)?),
            _ => Kind::Text(lines),
        };
        Ok(Rows { source_name, kind })
    }

    /// An error about one of its rows, for what is found out later.
    pub(crate) fn error_at(&self, line: usize, why: impl Into<String>) -> Error {
        Error::Row {
            source_name: self.source_name.clone(),
            line,
            why: why.into(),
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        match &mut self.kind {
            Kind::Arguments(texts) => {
                let (i, text) = texts.next()?;
                Some(Ok(plain(i + 1, text)))
            }
            Kind::Text(lines) => {
                let line = lines.next_line()?;
                Some(line.map(|line| plain(line.number, line.text.to_owned())))
            }
            Kind::Json(lines) => loop {
                match lines.next_line()? {
                    Err(error) => return Some(Err(error)),
                    Ok(line) if line.text.trim_ascii().is_empty() => continue,
                    Ok(line) => {
                        let number = line.number;
                        let row = json_row(number, line.text);
                        return Some(row.map_err(|why| lines.error_at(number, why)));
                    }
                }
            },
            Kind::Table(table) => table.next_row(),
        }
    }
}

fn plain(line: usize, text: String) -> Row {
    Row {
        line,
        text,
        text_pair: None,
        adapters: RowAdapter::NotGiven,
    }
}

/// The members of a JSON object in order; one that comes twice is an error, not the last one's victory.
struct Members(Map<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Map::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if members.contains_key(&key) {
                        let why = format!("key {key:?} comes twice");
                        return Err(serde::de::Error::custom(why));
                    }
                    members.insert(key, value);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The members of one line of JSON, which must be an object.
fn members(json: &str) -> Result<Map<String, Value>, String> {
    let members = serde_json::from_str(json).map_err(|error| {
        // The JSON is one line of ours: its column is news, its line 1 is not.
        let said = error.to_string();
        let said = said.replace(" at line 1 column ", " at column ");
        said.trim_end_matches(" at column 0").to_owned()
    });
    members.map(|Members(members)| members)
}

fn json_row(line: usize, json: &str) -> Result<Row, String> {
    let members = members(json)?;
    let mut text = None;
    let mut text_pair = None;
    let mut adapters = RowAdapter::NotGiven;
    for (key, value) in members {
        match (key.as_str(), value) {
            ("text", Value::String(s)) => text = Some(s),
            ("text_pair", Value::String(s)) => text_pair = Some(s),
            ("text_pair", Value::Null) => {}
            ("text" | "text_pair", other) => return Err(wrong_type(&key, "a string", &other)),
            ("adapter" | "adapters", _) if adapters != RowAdapter::NotGiven => {
                return Err("both \"adapter\" and \"adapters\" are given; which is meant?".into());
            }
            ("adapter", value) => adapters = RowAdapter::One(adapter_name(&key, value)?),
            ("adapters", Value::Array(names)) if names.is_empty() => {
                return Err("\"adapters\" is empty: nobody would answer".into());
            }
            ("adapters", Value::Array(names)) => {
                let names = names.into_iter().map(|name| adapter_name(&key, name));
                adapters = RowAdapter::Many(names.collect::<Result<_, _>>()?);
            }
            ("adapters", other) => return Err(wrong_type(&key, "a list of names", &other)),
            _ => return Err(format!("unknown key {key:?}; known: {KNOWN}")),
        }
    }
    Ok(Row {
        line,
        text: text.ok_or("\"text\" is missing")?,
        text_pair,
        adapters,
    })
}

/// A name, or `null` for the base.
fn adapter_name(key: &str, value: Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(name) if name.is_empty() => {
            Err(format!("{key:?}: an empty name; null is the base"))
        }
        Value::String(name) => Ok(Some(name)),
        other => Err(wrong_type(key, "a name, or null for the base", &other)),
    }
}

fn wrong_type(key: &str, expected: &str, found: &Value) -> String {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    format!("{key:?}: expected {expected}, found {found}")
}
