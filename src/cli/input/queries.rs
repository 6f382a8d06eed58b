//! Queries with their texts, for `rerank`: `{"query", "texts": [..], "adapter"?: name or null}` a line of JSONL.
//!
//! The same rules as for rows: an unknown key is refused by name, a bad line is one `Err` in its place.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde_json::Value;

use super::{Lines, RowAdapter, adapter_name, members, wrong_type};
use crate::{Error, Result};

const KNOWN: &str = "query, texts, adapter";

/// A query and the texts to sort by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Its line in the source, from 1.
    pub(crate) line: usize,
    /// The query.
    pub(crate) query: String,
    /// The texts; at least one.
    pub(crate) texts: Vec<String>,
    /// Who answers; never several.
    pub(crate) adapter: RowAdapter,
}

/// A stream of queries.
pub(crate) struct Queries {
    source_name: String,
    lines: Option<Lines>,
    given: Option<Query>,
}

impl Queries {
    /// One query, from the command line.
    pub(crate) fn one(query: String, texts: Vec<String>) -> Queries {
        Queries {
            source_name: "argument".into(),
            lines: None,
            given: Some(Query {
                line: 1,
                query,
                texts,
                adapter: RowAdapter::NotGiven,
            }),
        }
    }

    /// A JSONL file, or `-` for stdin.
    ///
    /// # Errors
    /// [`Error::Io`] when it does not open.
    pub(crate) fn open(path: &Path) -> Result<Queries> {
        let reader: Box<dyn BufRead + Send> = match path.as_os_str() == "-" {
            true => Box::new(BufReader::new(std::io::stdin())),
            false => Box::new(BufReader::new(File::open(path).map_err(Error::io(path))?)),
        };
        Ok(Queries::read(path.display().to_string(), reader))
    }

    /// JSON lines from a reader.
    pub(crate) fn read(source_name: String, reader: Box<dyn BufRead + Send>) -> Queries {
        Queries {
            lines: Some(Lines::new(source_name.clone(), reader)),
            source_name,
            given: None,
        }
    }

    /// An error about one of its lines, for what is found out later.
    pub(crate) fn error_at(&self, line: usize, why: impl Into<String>) -> Error {
        Error::Row {
            source_name: self.source_name.clone(),
            line,
            why: why.into(),
        }
    }
}

impl Iterator for Queries {
    type Item = Result<Query>;

    fn next(&mut self) -> Option<Result<Query>> {
        let Some(lines) = &mut self.lines else {
            return self.given.take().map(Ok);
        };
        loop {
            match lines.next_line()? {
                Err(error) => return Some(Err(error)),
                Ok(line) if line.text.trim_ascii().is_empty() => continue,
                Ok(line) => {
                    let number = line.number;
                    let query = parse(number, line.text);
                    return Some(query.map_err(|why| lines.error_at(number, why)));
                }
            }
        }
    }
}

fn parse(line: usize, json: &str) -> Result<Query, String> {
    let (mut query, mut texts, mut adapter) = (None, None, RowAdapter::NotGiven);
    for (key, value) in members(json)? {
        match (key.as_str(), value) {
            ("query", Value::String(s)) => query = Some(s),
            ("query", other) => return Err(wrong_type(&key, "a string", &other)),
            ("texts", Value::Array(items)) if items.is_empty() => {
                return Err("\"texts\" is empty: there is nothing to sort".into());
            }
            ("texts", Value::Array(items)) => {
                let text = |item| match item {
                    Value::String(s) => Ok(s),
                    other => Err(wrong_type(&key, "a list of strings", &other)),
                };
                texts = Some(items.into_iter().map(text).collect::<Result<_, _>>()?);
            }
            ("texts", other) => return Err(wrong_type(&key, "a list of strings", &other)),
            ("adapter", value) => adapter = RowAdapter::One(adapter_name(&key, value)?),
            _ => return Err(format!("unknown key {key:?}; known: {KNOWN}")),
        }
    }
    Ok(Query {
        line,
        query: query.ok_or("\"query\" is missing")?,
        texts: texts.ok_or("\"texts\" is missing")?,
        adapter,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_texts_and_perhaps_an_adapter() {
        let query = parse(3, r#"{"texts": ["a", ""], "query": "q", "adapter": null}"#).unwrap();
        assert_eq!((query.line, query.query.as_str()), (3, "q"));
        assert_eq!(query.texts, ["a", ""]);
        assert_eq!(query.adapter, RowAdapter::One(None));
    }

    #[test]
    fn what_is_not_a_query_is_refused_by_name() {
        for (json, why) in [
            (r#"{"query": "q"}"#, "\"texts\" is missing"),
            (r#"{"texts": ["a"]}"#, "\"query\" is missing"),
            (r#"{"query": "q", "texts": []}"#, "empty"),
            (
                r#"{"query": "q", "texts": "a"}"#,
                "a list of strings, found a string",
            ),
            (r#"{"query": "q", "texts": [1]}"#, "found a number"),
            (
                r#"{"query": 1, "texts": ["a"]}"#,
                "a string, found a number",
            ),
            (r#"{"query": "q", "texts": ["a"], "adaptr": "x"}"#, "adaptr"),
            (r#"{"query": "q", "query": "r"}"#, "comes twice"),
        ] {
            let said = parse(1, json).unwrap_err();
            assert!(said.contains(why), "{json}: {said}");
        }
    }
}
