//! Names of an adapter's labels, from a file beside it: PEFT writes none.
//!
//! `labels.json` is a list, an object of names by index, or an object with `labels` or `id2label` and perhaps
//! `problem_type`; a `config.json` that carries `id2label` is the last of these. How many labels the head has is
//! the head's to say, and is compared at bind. Numbers stay numbers: a label that nobody named is not invented here.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Map, Value};

use super::json;
use crate::{Error, Result, spec::Problem};

/// The side file that sorank writes.
pub(super) const LABELS: &str = "labels.json";
/// More labels than any head has.
const MAX_LABELS: usize = 1 << 16;

/// What a side file says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Labels {
    pub(super) names: Option<Vec<String>>,
    pub(super) problem: Option<Problem>,
}

/// Parses a side file; a configuration without labels gives none.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Labels> {
    match json::parse(bytes, path)? {
        Value::Array(items) => Ok(Labels {
            names: Some(list(&items, path)?),
            problem: None,
        }),
        Value::Object(map) => object(&map, path),
        other => {
            let why = format!(
                "expected a list of labels or an object, found {}",
                json::shown(&other)
            );
            Err(Error::format(path, why))
        }
    }
}

/// The side file of these labels; `None` where there is nothing to say.
pub(super) fn to_json(names: Option<&[String]>, problem: Option<Problem>) -> Option<Value> {
    match (names, problem) {
        (None, None) => None,
        (Some(names), None) => Some(names.into()),
        (names, Some(problem)) => {
            let mut map = Map::new();
            if let Some(names) = names {
                map.insert("labels".into(), names.into());
            }
            let problem = match problem {
                Problem::Regression => "regression",
                Problem::SingleLabelClassification => "single_label_classification",
                Problem::MultiLabelClassification => "multi_label_classification",
            };
            map.insert("problem_type".into(), problem.into());
            Some(Value::Object(map))
        }
    }
}

fn object(map: &Map<String, Value>, path: &Path) -> Result<Labels> {
    let field = |key: &str| map.get(key).filter(|v| !v.is_null());
    let named = field("labels").or(field("id2label"));
    let problem = match field("problem_type") {
        None => None,
        Some(v) => Some(serde_json::from_value(v.clone()).map_err(|_| {
            let expected = "regression, single_label_classification or multi_label_classification";
            Error::config(
                path,
                "problem_type",
                format!("expected {expected}, found {}", json::shown(v)),
            )
        })?),
    };
    let by_index = !map.is_empty() && map.keys().all(|k| index(k).is_some());
    let names = match named {
        Some(Value::Array(items)) => Some(list(items, path)?),
        Some(Value::Object(by_index)) => Some(indexed(by_index, path)?),
        Some(other) => {
            let why = format!("expected a list or an object, found {}", json::shown(other));
            return Err(Error::config(path, "labels", why));
        }
        None if by_index => Some(indexed(map, path)?),
        None => None,
    };
    Ok(Labels { names, problem })
}

/// `{"0": "a", "1": "b"}`: every index from 0 on, once.
fn indexed(map: &Map<String, Value>, path: &Path) -> Result<Vec<String>> {
    let mut slots: Vec<Option<&Value>> = vec![None; map.len().min(MAX_LABELS + 1)];
    for (key, value) in map {
        let slot = index(key).and_then(|i| slots.get_mut(i));
        match slot {
            Some(slot) if slot.is_none() => *slot = Some(value),
            _ => {
                let why = format!(
                    "expected each index from 0 to {} once",
                    map.len().saturating_sub(1)
                );
                return Err(Error::config(path, format!("labels.{key}"), why));
            }
        }
    }
    let items: Vec<Value> = slots.into_iter().flatten().cloned().collect();
    list(&items, path)
}

/// A plain decimal, as Python's `str(int)` writes it.
fn index(key: &str) -> Option<usize> {
    key.parse().ok().filter(|i: &usize| i.to_string() == key)
}

fn list(items: &[Value], path: &Path) -> Result<Vec<String>> {
    if items.is_empty() || items.len() > MAX_LABELS {
        let why = format!("expected 1 to {MAX_LABELS} labels, found {}", items.len());
        return Err(Error::format(path, why));
    }
    let mut seen = BTreeSet::new();
    let mut names = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let name = item.as_str().ok_or_else(|| {
            let why = format!("expected a string, found {}", json::shown(item));
            Error::config(path, format!("labels.{i}"), why)
        })?;
        if !seen.insert(name) {
            let why = format!("{name:?} stands twice, and scores are given by name");
            return Err(Error::config(path, format!("labels.{i}"), why));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Labels> {
        parse(text.as_bytes(), Path::new(LABELS))
    }

    #[test]
    fn every_spelling_gives_the_same_names() {
        for text in [
            r#"["no","yes"]"#,
            r#"{"1":"yes","0":"no"}"#,
            r#"{"labels":["no","yes"],"problem_type":null}"#,
            r#"{"id2label":{"0":"no","1":"yes"},"label2id":{"no":0,"yes":1},"hidden_size":8}"#,
        ] {
            let labels = read(text).unwrap();
            assert_eq!(labels.names.unwrap(), ["no", "yes"], "{text}");
            assert_eq!(labels.problem, None);
        }
        assert_eq!(read(r#"{"hidden_size":8}"#).unwrap(), Labels::default());
    }

    #[test]
    fn what_is_written_reads_back() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        for problem in [
            None,
            Some(Problem::MultiLabelClassification),
            Some(Problem::Regression),
        ] {
            for names in [None, Some(names.as_slice())] {
                let Some(json) = to_json(names, problem) else {
                    continue;
                };
                let back = read(&json.to_string()).unwrap();
                assert_eq!((back.names.as_deref(), back.problem), (names, problem));
            }
        }
    }

    #[test]
    fn gaps_doubles_and_other_things_are_refused() {
        for (text, why) in [
            (r#"{"0":"a","2":"b"}"#, "each index"),
            (r#"{"0":"a","00":"b"}"#, "labels.00"),
            (r#"["a","a"]"#, "stands twice"),
            (r#"["a",1]"#, "expected a string"),
            (r#"[]"#, "found 0"),
            (r#"3"#, "found 3"),
            (r#"{"labels":"a"}"#, "expected a list"),
            (r#"{"labels":["a"],"problem_type":"poetry"}"#, "poetry"),
        ] {
            match read(text) {
                Err(e) => assert!(e.to_string().contains(why), "{text}: {e}"),
                // An object that is not by index is a configuration without labels.
                Ok(l) => assert_eq!((text, l), (r#"{"0":"a","00":"b"}"#, Labels::default())),
            }
        }
    }
}
