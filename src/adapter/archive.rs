//! The zip archive that `torch.save` writes, as slices of a file in memory.
//!
//! torch stores its entries without compression, so an entry *is* a range of the file, and nothing here can unfold
//! into more than it weighs. Anything else a zip may be (compressed, encrypted, split, beyond 4 GB) is refused.
//! Entries are found by the central directory alone, as torch does it. Checksums are not looked at: they guard against
//! accidents, torch can be told not to write them, and every number in the tensors is checked to be finite.

use std::{collections::BTreeMap, ops::Range};

/// More entries than a state dict of one adapter or one encoder has.
const MAX_ENTRIES: usize = 1 << 16;
/// The end record with the longest comment a zip may have.
const END_SEARCH: usize = 22 + 0xffff;

/// Entries by name.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: BTreeMap<String, Range<usize>>,
}

impl<'a> Archive<'a> {
    /// Whether a file begins like a zip.
    pub(super) fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(b"PK\x03\x04")
    }

    /// Reads the central directory of `bytes`.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let tail = bytes.len().saturating_sub(END_SEARCH);
        let end = (tail..bytes.len().saturating_sub(21))
            .rev()
            .find(|&at| bytes[at..].starts_with(b"PK\x05\x06"));
        let end = end.ok_or("a zip archive without an end record (cut short?)")?;
        let (disk, first_disk) = (u16_at(bytes, end + 4)?, u16_at(bytes, end + 6)?);
        let (here, count) = (u16_at(bytes, end + 8)?, u16_at(bytes, end + 10)?);
        let start = size_at(bytes, end + 16)?;
        if disk != 0 || first_disk != 0 || here != count {
            return Err("a zip archive split over several files".into());
        }
        if usize::from(count) >= MAX_ENTRIES - 1 {
            return Err(format!("a zip archive of {count} entries or more"));
        }
        let mut entries = BTreeMap::new();
        let mut at = start;
        for _ in 0..count {
            let (name, range, next) = entry(bytes, at)?;
            if entries.insert(name.clone(), range).is_some() {
                return Err(format!("the zip entry {name:?} stands twice"));
            }
            at = next;
        }
        Ok(Self { bytes, entries })
    }

    /// The bytes of the entry `name`.
    pub(super) fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.entries
            .get(name)
            .map(|range| &self.bytes[range.clone()])
    }

    /// Every name, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }
}

/// Name and bytes of the entry whose directory record is at `at`, and where the next record is.
fn entry(bytes: &[u8], at: usize) -> Result<(String, Range<usize>, usize), String> {
    if slice(bytes, at, 4)? != b"PK\x01\x02" {
        return Err(format!("no zip directory record at byte {at}"));
    }
    let name_length = usize::from(u16_at(bytes, at + 28)?);
    let name = std::str::from_utf8(slice(bytes, at + 46, name_length)?)
        .map_err(|_| format!("the zip entry at byte {at} has a name that is not UTF-8"))?;
    let (flags, method) = (u16_at(bytes, at + 8)?, u16_at(bytes, at + 10)?);
    let (packed, size) = (size_at(bytes, at + 20)?, size_at(bytes, at + 24)?);
    if flags & 1 != 0 || method != 0 || packed != size {
        return Err(format!(
            "the zip entry {name:?} is compressed or encrypted; torch stores its entries plainly"
        ));
    }
    let local = size_at(bytes, at + 42)?;
    if slice(bytes, local, 4)? != b"PK\x03\x04" {
        return Err(format!(
            "no zip entry at byte {local}, where {name:?} should be"
        ));
    }
    let skip = usize::from(u16_at(bytes, local + 26)?) + usize::from(u16_at(bytes, local + 28)?);
    let data = local + 30 + skip;
    slice(bytes, data, size).map_err(|e| format!("the zip entry {name:?}: {e}"))?;
    let after = usize::from(u16_at(bytes, at + 30)?) + usize::from(u16_at(bytes, at + 32)?);
    Ok((
        name.to_owned(),
        data..data + size,
        at + 46 + name_length + after,
    ))
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], String> {
    at.checked_add(length)
        .and_then(|end| bytes.get(at..end))
        .ok_or_else(|| {
            format!(
                "{length} bytes at {at} reach beyond the file of {}",
                bytes.len()
            )
        })
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    let b = slice(bytes, at, 2)?;
    Ok(u16::from_le_bytes([b[0], b[1]]))
}

/// A 32-bit size or offset; the value that stands for "see the 64-bit record" is beyond any adapter.
fn size_at(bytes: &[u8], at: usize) -> Result<usize, String> {
    let b = slice(bytes, at, 4)?;
    match u32::from_le_bytes([b[0], b[1], b[2], b[3]]) {
        u32::MAX => Err("a zip archive beyond 4 GB".into()),
        n => Ok(n as usize),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A zip of stored entries, as torch writes it less the checksums.
    pub(in super::super) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut directory = Vec::new();
        for (name, data) in entries {
            let offset = out.len() as u32;
            let sizes = [data.len() as u32; 2].map(u32::to_le_bytes).concat();
            let name_length = (name.len() as u16).to_le_bytes();
            let fixed = [&[0; 10][..], &[0; 4], &sizes, &name_length, &[0, 0]].concat();
            out.extend(b"PK\x03\x04");
            out.extend(&fixed[..]);
            out.extend(name.as_bytes());
            out.extend(*data);
            directory.extend(b"PK\x01\x02\0\0");
            directory.extend(&fixed[..]);
            directory.extend([0; 10]);
            directory.extend(offset.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let (start, count) = (out.len() as u32, (entries.len() as u16).to_le_bytes());
        out.extend(&directory);
        out.extend(b"PK\x05\x06\0\0\0\0");
        out.extend([count, count].concat());
        out.extend((directory.len() as u32).to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0, 0]);
        out
    }

    #[test]
    fn entries_are_ranges_of_the_file() {
        let file = zip(&[
            ("r/data.pkl", b"abc"),
            ("r/data/0", b""),
            ("r/version", b"3\n"),
        ]);
        let a = Archive::parse(&file).unwrap();
        assert!(Archive::is_one(&file));
        assert_eq!(a.get("r/data.pkl").unwrap(), b"abc");
        assert_eq!((a.get("r/data/0").unwrap(), a.get("x")), (&b""[..], None));
        assert_eq!(
            a.names().collect::<Vec<_>>(),
            ["r/data.pkl", "r/data/0", "r/version"]
        );
    }

    #[test]
    fn no_change_of_one_byte_reaches_beyond_the_file() {
        let file = zip(&[("r/data.pkl", b"abc"), ("r/data/0", b"12345678")]);
        for cut in 0..file.len() {
            assert!(Archive::parse(&file[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..file.len() {
            for value in [0, 1, 8, 0x7f, 0x80, 0xff] {
                let mut changed = file.clone();
                changed[at] = value;
                if let Ok(a) = Archive::parse(&changed) {
                    a.names()
                        .for_each(|n| assert!(a.get(n).is_some_and(|b| b.len() <= 11)));
                }
            }
        }
        let message = |at: usize, value: u8| {
            let mut changed = file.clone();
            changed[at] = value;
            Archive::parse(&changed).unwrap_err()
        };
        let directory = file.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        assert!(message(directory + 10, 8).contains("compressed"));
        assert!(message(directory + 8, 1).contains("encrypted"));
        assert!(message(directory + 42 + 3, 0x7f).contains("beyond the file"));
        let twice = zip(&[("a", b"1"), ("a", b"2")]);
        assert!(Archive::parse(&twice).unwrap_err().contains("stands twice"));
    }
}
