//! Lines of a reader: numbered, bounded, UTF-8 or an error; without their ends and the byte order mark.

use std::{
    io::{BufRead, ErrorKind},
    path::Path,
};

use super::LINE_MAX;
use crate::{Error, Result};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line reader. It reuses one buffer, so that a line lives until the next one.
pub(super) struct Lines {
    source_name: String,
    reader: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    number: usize,
    ended: bool,
}

/// One line.
pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: usize,
    /// Without its LF or CR LF.
    pub(super) text: &'a str,
}

impl Lines {
    pub(super) fn new(source_name: String, reader: Box<dyn BufRead + Send>) -> Lines {
        Lines {
            source_name,
            reader,
            line: Vec::new(),
            number: 0,
            ended: false,
        }
    }

    /// The first byte there is, behind a byte order mark; to be asked before any line is read.
    pub(super) fn first_byte(&mut self) -> Result<Option<u8>> {
        let start = fill(&mut self.reader, &self.source_name)?;
        let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start);
        Ok(start.first().copied())
    }

    pub(super) fn error_at(&self, line: usize, why: impl Into<String>) -> Error {
        Error::Row {
            source_name: self.source_name.clone(),
            line,
            why: why.into(),
        }
    }

    /// No more lines after this: what follows could only be misread.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// The next line. After a bad line comes the one behind it; after a failed read, nothing.
    pub(super) fn next_line(&mut self) -> Option<Result<Line<'_>>> {
        if self.ended {
            return None;
        }
        match self.read_line() {
            Err(error) => {
                self.ended = true;
                return Some(Err(error));
            }
            Ok(0) => {
                self.ended = true;
                return None;
            }
            Ok(_) => self.number += 1,
        }
        let number = self.number;
        if self.line.len() > LINE_MAX {
            let why = format!("the line is longer than {} MB", LINE_MAX >> 20);
            return Some(Err(self.error_at(number, why)));
        }
        let mut bytes = self.line.as_slice();
        if number == 1 {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        if let Some(line) = bytes.strip_suffix(b"\n") {
            bytes = line.strip_suffix(b"\r").unwrap_or(line);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Some(Ok(Line { number, text })),
            Err(error) => {
                let why = not_utf8(bytes, error.valid_up_to());
                Some(Err(self.error_at(number, why)))
            }
        }
    }

    /// Fills `self.line` with a line and its end, and returns how many bytes were read. What exceeds
    /// [`LINE_MAX`] is read and not kept; one byte too many shows that there was more.
    fn read_line(&mut self) -> Result<usize> {
        self.line.clear();
        let mut read = 0;
        loop {
            let available = fill(&mut self.reader, &self.source_name)?;
            if available.is_empty() {
                return Ok(read);
            }
            let end = available.iter().position(|&b| b == b'\n').map(|at| at + 1);
            let used = end.unwrap_or(available.len());
            let room = (LINE_MAX + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&available[..used.min(room)]);
            self.reader.consume(used);
            read += used;
            if end.is_some() {
                return Ok(read);
            }
        }
    }
}

/// The bytes that are there (none at the end), asking again when a signal came between.
fn fill<'a>(reader: &'a mut Box<dyn BufRead + Send>, source_name: &str) -> Result<&'a [u8]> {
    loop {
        match reader.fill_buf() {
            Ok([]) => return Ok(&[]),
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io(Path::new(source_name))(error)),
        }
    }
    // Asked again because a borrow cannot leave a loop that may go on; the bytes are there, nothing is read.
    reader.fill_buf().map_err(Error::io(Path::new(source_name)))
}

fn not_utf8(bytes: &[u8], at: usize) -> String {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return "the file is UTF-16; UTF-8 is expected".into();
    }
    format!("not UTF-8: byte {:#04x} at column {}", bytes[at], at + 1)
}
