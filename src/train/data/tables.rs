//! Rows of tables between tabs or commas, and of JSON lines.
//!
//! Tab-separated files are read without quotes (GLUE's hold lone ones); CSV by RFC 4180, the line of a row being that of
//! its first.

use serde_json::{Map, Value};

use super::{At, Columns, Layout, Row};
use crate::error::Result;

/// One JSON object a line.
pub(super) fn json_rows(text: &str, columns: &Columns, at: At<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let lines = text.lines().enumerate();
    for (i, line) in lines.filter(|(_, l)| !l.trim().is_empty()) {
        let object: Map<String, Value> =
            serde_json::from_str(line).map_err(|e| at(i + 1, e.to_string()))?;
        rows.push(of_object(&object, i + 1, columns, at)?);
    }
    Ok(rows)
}

/// The row that an object's keys are.
pub(super) fn of_object(
    object: &Map<String, Value>,
    line: usize,
    columns: &Columns,
    at: At<'_>,
) -> Result<Row> {
    let get = |key: &str| match object.get(key) {
        Some(Value::Null) => Err(at(line, format!("{key:?} is null"))),
        Some(value) => Ok(value),
        None => {
            let there: Vec<&str> = object.keys().map(String::as_str).collect();
            let there = there.join(", ");
            Err(at(line, format!("no key {key:?}; there are {there}")))
        }
    };
    let string = |key: &str| match get(key)? {
        Value::String(s) => Ok(s.clone()),
        _ => Err(at(line, format!("{key:?}: expected a string"))),
    };
    let label = |v: &Value| match v {
        Value::String(s) => Ok(s.clone()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        _ => Err(at(line, "a label is a string or a number".to_owned())),
    };
    let labels = match get(&columns.label)? {
        Value::Array(all) => all.iter().map(label).collect::<Result<Vec<_>>>()?,
        one => vec![label(one)?],
    };
    let text = match (columns.tags, get(&columns.text)?) {
        (true, Value::Array(words)) => {
            let word = |w: &Value| w.as_str().filter(|w| !w.is_empty()).map(str::to_owned);
            let words: Option<Vec<String>> = words.iter().map(word).collect();
            let words = words.ok_or_else(|| {
                at(
                    line,
                    format!("{:?}: expected a list of words", columns.text),
                )
            })?;
            super::tags::sentence(&words)
        }
        _ => string(&columns.text)?,
    };
    Ok(Row {
        line,
        text,
        pair: columns.pair.as_deref().map(string).transpose()?,
        labels,
    })
}

/// Columns between tabs or commas.
pub(super) fn table_rows(
    text: &str,
    layout: Layout,
    columns: &Columns,
    at: At<'_>,
) -> Result<Vec<Row>> {
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
            let there = names.join(", ");
            at(*line, format!("no column {name:?}; there are {there}"))
        }),
        None => name.parse::<usize>().map_err(|_| {
            let why = format!("{name:?}: without a header columns are numbers from 0");
            at(1, why)
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
