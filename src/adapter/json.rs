//! JSON as an adapter's files use it, read strictly: a key that stands twice in one object is an error.
//!
//! Most readers silently keep one of the two, and not all of them the same one, so that a file could mean
//! one thing to the tool that checked it and another to the one that runs it. [`Fields`] hands out typed
//! fields of the top-level object with errors that name the file and the key. Depth is bounded by
//! serde_json (128 levels); size is the caller's business.

use std::{fmt, path::Path};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{Error, Result};

/// Parses `bytes`, refusing a duplicate key at any depth.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Value> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::format(path, format!("not UTF-8 at byte {}", e.valid_up_to())))?;
    let strict: Strict =
        serde_json::from_str(text).map_err(|e| Error::format(path, format!("not JSON: {e}")))?;
    Ok(strict.0)
}

/// A JSON value whose objects hold each key once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "the key {key:?} stands twice"
                )));
            }
            let Strict(value) = map.next_value()?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// The top-level object of a configuration file.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Parses an object; anything else at the top is an error.
    pub(super) fn parse(bytes: &[u8], path: &'a Path) -> Result<Self> {
        match parse(bytes, path)? {
            Value::Object(map) => Ok(Self { path, map }),
            other => Err(Error::format(
                path,
                format!("expected a JSON object, found {}", kind(&other)),
            )),
        }
    }

    /// The field, unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// An error about `key` that says what was expected of it.
    pub(super) fn expected(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::config(
            self.path,
            key,
            format!("expected {expected}, found {}", shown(found)),
        )
    }

    /// A boolean, `default` where the key is absent or null.
    pub(super) fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.expected(key, "true or false", other)),
        }
    }

    /// A string, or `None` where the key is absent or null.
    pub(super) fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.expected(key, "a string", other)),
        }
    }

    /// A finite number, `default` where the key is absent or null.
    pub(super) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => finite(v).ok_or_else(|| self.expected(key, "a number", v)),
        }
    }

    /// A whole number from 1 to `max`, `default` where the key is absent or null.
    pub(super) fn count_or(&self, key: &str, default: usize, max: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => count(v, max)
                .ok_or_else(|| self.expected(key, &format!("a whole number from 1 to {max}"), v)),
        }
    }

    /// A list of strings, or `None` where the key is absent or null.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        strings(value)
            .map(Some)
            .ok_or_else(|| self.expected(key, "a list of strings", value))
    }

    /// The entries of an object, in file order; none where the key is absent or null.
    pub(super) fn entries(&self, key: &str) -> Result<Vec<(&str, &Value)>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => Ok(map.iter().map(|(k, v)| (k.as_str(), v)).collect()),
            Some(other) => Err(self.expected(key, "an object", other)),
        }
    }
}

/// A finite number.
pub(super) fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|v| v.is_finite())
}

/// A whole number from 1 to `max`; `8.0` is one, as it is to Python's arithmetic.
pub(super) fn count(value: &Value, max: usize) -> Option<usize> {
    let number = finite(value)?;
    (number.fract() == 0.0 && number >= 1.0 && number <= max as f64).then_some(number as usize)
}

/// A list of strings.
pub(super) fn strings(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|v| v.as_str().map(str::to_owned))
        .collect()
}

/// A value as an error message shows it: scalars in full, the rest by kind.
pub(super) fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        scalar => {
            let text = scalar.to_string();
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth() {
        let p = Path::new("x.json");
        for text in [r#"{"r":1,"r":2}"#, r#"{"a":{"b":[{"c":1,"c":1}]}}"#] {
            let message = parse(text.as_bytes(), p).unwrap_err().to_string();
            assert!(message.contains("stands twice"), "{message}");
        }
        assert_eq!(
            parse(br#"{"b":1,"a":[true,null,"x",1.5]}"#, p)
                .unwrap()
                .to_string(),
            r#"{"b":1,"a":[true,null,"x",1.5]}"#
        );
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes(), Path::new("x")).is_err());
    }

    #[test]
    fn a_long_value_is_cut_in_messages() {
        assert!(shown(&Value::String("é".repeat(500))).len() < 200);
    }
}
