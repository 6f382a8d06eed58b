//! Rows of a table with a header: CSV by RFC 4180, or columns between tabs.
//!
//! A quoted field may run over lines; the row's number is that of its first. A quote that never ends is an error at
//! the line where it began, rather than a text that holds the rest of the file. A quote inside an unquoted
//! field is kept as it stands (`5" pipe`), since nothing else can be meant.

use super::{LINE_MAX, Row, RowAdapter, lines::Lines};
use crate::Result;

const KNOWN: &str = "text, text_pair, adapter";

/// How a line falls into fields.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Split {
    /// At commas, with quotes.
    Quoted,
    /// At tabs, a quote being a character like any other.
    Tabs,
}

/// A table's rows.
pub(super) struct Table {
    lines: Lines,
    split: Split,
    columns: usize,
    text: usize,
    text_pair: Option<usize>,
    adapter: Option<usize>,
}

/// The fields of a record and the line it began on.
struct Record {
    line: usize,
    fields: Vec<String>,
}

impl Table {
    /// Reads the header.
    pub(super) fn new(mut lines: Lines, split: Split) -> Result<Table> {
        let Some(header) = next_record(&mut lines, split) else {
            return Err(lines.error_at(1, format!("no header; expected columns of {KNOWN}")));
        };
        let header = header?;
        let (mut text, mut text_pair, mut adapter) = (None, None, None);
        for (i, name) in header.fields.iter().enumerate() {
            let column = match name.trim() {
                "text" => &mut text,
                "text_pair" => &mut text_pair,
                "adapter" => &mut adapter,
                other => {
                    // Tables carry labels and ids along; a JSONL key that is not known is a typo more often.
                    tracing::warn!("column {other:?} is not read; those that are: {KNOWN}");
                    continue;
                }
            };
            if column.replace(i).is_some() {
                let why = format!("column {:?} comes twice", name.trim());
                return Err(lines.error_at(header.line, why));
            }
        }
        let Some(text) = text else {
            return Err(lines.error_at(header.line, "no column is named \"text\""));
        };
        Ok(Table {
            lines,
            split,
            columns: header.fields.len(),
            text,
            text_pair,
            adapter,
        })
    }

    pub(super) fn next_row(&mut self) -> Option<Result<Row>> {
        let record = match next_record(&mut self.lines, self.split)? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        let Record { line, mut fields } = record;
        if fields.len() != self.columns {
            let why = format!("expected {} columns, found {}", self.columns, fields.len());
            return Some(Err(self.lines.error_at(line, why)));
        }
        let mut take = |column: usize| std::mem::take(&mut fields[column]);
        let some = |field: String| (!field.is_empty()).then_some(field);
        Some(Ok(Row {
            line,
            text: take(self.text),
            text_pair: self.text_pair.and_then(|column| some(take(column))),
            // A table cannot say null: an empty cell names nobody.
            adapters: match self.adapter.and_then(|column| some(take(column))) {
                Some(name) => RowAdapter::One(Some(name)),
                None => RowAdapter::NotGiven,
            },
        }))
    }
}

/// The next record that is not a blank line.
fn next_record(lines: &mut Lines, split: Split) -> Option<Result<Record>> {
    loop {
        let first = match lines.next_line()? {
            Ok(line) if line.text.is_empty() => continue,
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let line = first.number;
        if split == Split::Tabs {
            let fields = first.text.split('\t').map(str::to_owned).collect();
            return Some(Ok(Record { line, fields }));
        }
        let mut quoted = Quoted::default();
        let mut state = quoted.line(first.text);
        let mut bytes = first.text.len();
        while state == Ok(More::Inside) {
            // Inside quotes: the line's end belongs to the field, and the next line does too.
            let next = match lines.next_line() {
                Some(Ok(next)) => next,
                Some(Err(error)) => {
                    lines.end();
                    return Some(Err(error));
                }
                None => {
                    return Some(Err(
                        lines.error_at(line, "a quote is opened and never closed")
                    ));
                }
            };
            bytes += next.text.len() + 1;
            if bytes > LINE_MAX {
                lines.end();
                let why = format!("the record is longer than {} MB", LINE_MAX >> 20);
                return Some(Err(lines.error_at(line, why)));
            }
            quoted.field.push('\n');
            state = quoted.line(next.text);
        }
        return Some(match state {
            Ok(_) => Ok(Record {
                line,
                fields: quoted.fields,
            }),
            Err(why) => Err(lines.error_at(line, why)),
        });
    }
}

/// What a line of CSV leaves behind.
#[derive(Debug, Clone, Copy, PartialEq)]
enum More {
    /// The record is complete.
    Complete,
    /// It ends inside quotes.
    Inside,
}

/// A record that grows line by line.
#[derive(Default)]
struct Quoted {
    fields: Vec<String>,
    field: String,
    inside: bool,
}

impl Quoted {
    fn line(&mut self, line: &str) -> Result<More, String> {
        let mut rest = line;
        loop {
            if self.inside {
                let Some(at) = rest.find('"') else {
                    self.field.push_str(rest);
                    return Ok(More::Inside);
                };
                self.field.push_str(&rest[..at]);
                rest = &rest[at + 1..];
                if let Some(after) = rest.strip_prefix('"') {
                    self.field.push('"');
                    rest = after;
                    continue;
                }
                self.inside = false;
                if !(rest.is_empty() || rest.starts_with(',')) {
                    let n = self.fields.len() + 1;
                    return Err(format!("column {n}: text after the closing quote"));
                }
            } else if let Some(after) = rest.strip_prefix('"') {
                self.inside = true;
                rest = after;
                continue;
            } else {
                let end = rest.find(',').unwrap_or(rest.len());
                self.field.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            self.fields.push(std::mem::take(&mut self.field));
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None => return Ok(More::Complete),
            }
        }
    }
}
