//! The packed file: the base's linears in panels, as a safetensors file of our own.
//!
//! ```text
//! 8 bytes   length of the header
//! header    JSON: __metadata__ (see below), then one tensor a slot; spaces up to a multiple of 4096
//! data      the panels of each slot, each padded with zeros to a multiple of 4096
//! ```
//! 4096 is a multiple of the 64 bytes that kernels want, and makes slots end at page ends on most machines, so that
//! taking a merge back drops whole pages. Metadata: what the file was made from (content hash, and the identity of the
//! source files by which it is found again without reading them), what it holds (`plan`, `slots` with a checksum each),
//! and `layout`, which is the hash of a small matrix packed by this very program: should the panel layout ever
//! change, every older file is stale by itself. `checksum` covers the header, with its own 64 digits read as zeros.
//!
//! [`check`] reads the header alone, at every start; [`verify`] reads everything.

use std::{
    io::{self, Seek, SeekFrom, Write},
    ops::Range,
    path::Path,
};

use memmap2::MmapMut;
use serde_json::{Map, Value, json};

use super::{header, source::FileId};
use crate::{
    Error, Result,
    kernel::panel::{self, PanelShape, Precision},
    mat::Matrix,
};

/// Data and every slot begin at a multiple of this.
pub const ALIGN: usize = 4096;

const FORMAT: &str = "sorank-packed-1";
/// How every header begins; the checksum is at a fixed place.
const OPENING: &[u8] = br#"{"__metadata__":{"checksum":""#;
const DIGITS: usize = 64;

/// What a packed file holds: names and shapes, in order.
#[derive(Debug, Clone)]
pub struct Plan {
    slots: Vec<Slot>,
}

#[derive(Debug, Clone)]
struct Slot {
    name: String,
    shape: PanelShape,
    /// Where its padded bytes lie, counted from the start of the data.
    range: Range<usize>,
}

/// What a packed file was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Content hash of the checkpoint (`Tensors::fingerprint`).
    pub content: String,
    /// Directory of the checkpoint, for people and for sweeping.
    pub directory: String,
    /// Names and identities of its files; `None` where they are embedded.
    pub files: Option<Vec<(String, FileId)>>,
}

/// Why a packed file was not made.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The weights could not be had: an error whatever the place of the file.
    Weights(Error),
    /// The file could not be written: another place may do.
    Write(io::Error),
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Write(e)
    }
}

impl Plan {
    /// Lays out the slots one after the other.
    ///
    /// # Panics
    /// When a name stands twice.
    pub fn new(slots: &[(String, PanelShape)]) -> Self {
        let mut names: Vec<&String> = slots.iter().map(|s| &s.0).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "slot names differ");
        let mut at = 0;
        let place = |(name, shape): &(String, PanelShape)| {
            let start = at;
            at += shape.bytes().next_multiple_of(ALIGN);
            Slot {
                name: name.clone(),
                shape: *shape,
                range: start..at,
            }
        };
        Self {
            slots: slots.iter().map(place).collect(),
        }
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|s| s.name == name)
    }

    /// Name of a slot.
    pub fn name(&self, slot: usize) -> &str {
        &self.slots[slot].name
    }

    /// Shape of a slot.
    pub fn shape(&self, slot: usize) -> PanelShape {
        self.slots[slot].shape
    }

    /// The panels of a slot, without the padding, counted from the start of the data.
    pub fn range(&self, slot: usize) -> Range<usize> {
        let slot = &self.slots[slot];
        slot.range.start..slot.range.start + slot.shape.bytes()
    }

    /// Bytes of the data.
    pub fn data_len(&self) -> usize {
        self.slots.last().map_or(0, |s| s.range.end)
    }

    /// One value for names, shapes, precisions and layout: what must be the same for a file to serve.
    pub fn key(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(FORMAT.as_bytes());
        for slot in &self.slots {
            hash.update(&(slot.name.len() as u64).to_le_bytes());
            hash.update(slot.name.as_bytes());
            let PanelShape { n, k, .. } = slot.shape;
            hash.update(&(n as u64).to_le_bytes());
            hash.update(&(k as u64).to_le_bytes());
            hash.update(format!("{:?} {}", slot.shape.precision, slot.shape.tight).as_bytes());
        }
        hash.finalize().to_hex().to_string()
    }

    /// Hash of a small matrix in each kind of panel that occurs: changes whenever packing does.
    pub fn layout(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let mut seen: Vec<(Precision, bool)> = Vec::new();
        for slot in &self.slots {
            let kind = (slot.shape.precision, slot.shape.tight);
            if seen.contains(&kind) {
                continue;
            }
            seen.push(kind);
            let (n, k) = (37, 23);
            // Eighths of small integers: exact in every precision but int8, uneven in sign and place.
            let value = |i: usize| (((i * 31 + 7) % 127) as f32 - 60.0) / 8.0;
            let w = Matrix::from_vec((0..n * k).map(value).collect(), n, k);
            let shape = PanelShape { n, k, ..slot.shape };
            let bytes = Buffer::new(shape.bytes());
            let mut bytes = bytes.expect("a page of memory is granted, as for any allocation");
            panel::pack(w.view(), shape, bytes.slice(shape.bytes()));
            hash.update(bytes.slice(shape.bytes()));
        }
        hash.finalize().to_hex().to_string()
    }
}

/// Writes the packed file of `plan` to `out`, which is empty and stands at its start.
pub(crate) fn build(
    out: &mut (impl Write + Seek),
    plan: &Plan,
    origin: &Origin,
    fill: &dyn Fn(usize) -> Result<Matrix>,
    progress: Option<&dyn Fn(usize, usize)>,
) -> Result<(), Failure> {
    let mut sums = vec!["0".repeat(DIGITS); plan.len()];
    // Sums have a fixed length, so this header is as long as the final one, which takes its place at the end.
    out.write_all(&header_of(plan, origin, &sums))?;
    let total = plan.data_len();
    let largest = plan.slots.iter().map(|s| s.range.len()).max();
    let mut buffer = Buffer::new(largest.unwrap_or(0))?;
    for (i, slot) in plan.slots.iter().enumerate() {
        if let Some(report) = progress {
            report(slot.range.start, total);
        }
        let w = fill(i).map_err(Failure::Weights)?;
        let PanelShape { n, k, .. } = slot.shape;
        assert_eq!((w.rows(), w.cols()), (n, k), "shape of slot {}", slot.name);
        let bytes = buffer.slice(slot.range.len());
        bytes.fill(0);
        panel::pack(w.view(), slot.shape, &mut bytes[..slot.shape.bytes()]);
        sums[i] = blake3::hash(bytes).to_hex().to_string();
        out.write_all(bytes)?;
    }
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&header_of(plan, origin, &sums))?;
    out.flush()?;
    if let Some(report) = progress {
        report(total, total);
    }
    Ok(())
}

fn header_of(plan: &Plan, origin: &Origin, sums: &[String]) -> Vec<u8> {
    let slot = |(s, sum): (&Slot, &String)| json!([s.name, s.shape.n, s.shape.k, sum]);
    let slots: Vec<Value> = plan.slots.iter().zip(sums).map(slot).collect();
    let mut all = Map::new();
    let metadata = json!({
        "checksum": "0".repeat(DIGITS),
        "format": FORMAT,
        "layout": plan.layout(),
        "plan": plan.key(),
        "content": origin.content,
        "directory": origin.directory,
        "files": json!(origin.files).to_string(),
        "slots": Value::Array(slots).to_string(),
    });
    all.insert("__metadata__".to_owned(), metadata);
    for slot in &plan.slots {
        let (dtype, width) = match slot.shape.precision {
            Precision::F32 => ("F32", 4),
            Precision::Bf16 => ("BF16", 2),
            Precision::Int8 => ("U8", 1),
        };
        let info = json!({
            "dtype": dtype,
            "shape": [slot.range.len() / width],
            "data_offsets": [slot.range.start, slot.range.end],
        });
        all.insert(slot.name.clone(), info);
    }
    let mut text = Value::Object(all).to_string().into_bytes();
    assert!(
        text.starts_with(OPENING),
        "the checksum is at a fixed place"
    );
    text.resize((8 + text.len()).next_multiple_of(ALIGN) - 8, b' ');
    let sum = blake3::hash(&text).to_hex();
    text[OPENING.len()..][..DIGITS].copy_from_slice(sum.as_bytes());
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}

/// What [`check`] found in a packed file.
#[derive(Debug)]
pub struct Checked {
    /// Where the data begins.
    pub data: usize,
    /// What it was made from.
    pub origin: Origin,
    /// Its plan, as [`Plan::key`] says it.
    pub plan: String,
    layout: String,
    sums: Vec<String>,
}

impl Checked {
    /// An error where the file does not hold `plan` as this program packs it.
    ///
    /// # Errors
    /// [`Error::Format`], for the log: the file is then built anew.
    pub fn serves(&self, plan: &Plan, path: &Path) -> Result<()> {
        if self.layout != plan.layout() {
            return Err(Error::format(
                path,
                "was packed in another layout of panels",
            ));
        }
        if self.plan != plan.key() {
            return Err(Error::format(
                path,
                "holds other weights than were asked for",
            ));
        }
        Ok(())
    }
}

/// Checks the header of the packed file whose whole content is `bytes`, and that the file is whole.
///
/// # Errors
/// When it is not a whole packed file with an intact header.
pub fn check(bytes: &[u8], path: &Path) -> Result<Checked> {
    let refuse = |why: &str| Error::format(path, format!("not a packed file: {why}"));
    let header = header::read(bytes, path)?;
    let data = header
        .entries
        .first()
        .map_or(bytes.len(), |e| e.range.start);
    let mut text = bytes[8..data].to_vec();
    if !text.starts_with(OPENING) || text.len() < OPENING.len() + DIGITS {
        return Err(refuse("its header begins in another way"));
    }
    let digits = &mut text[OPENING.len()..][..DIGITS];
    let written = digits.to_vec();
    digits.fill(b'0');
    if blake3::hash(&text).to_hex().as_bytes() != written {
        return Err(refuse("the checksum of its header differs"));
    }
    let field = |key: &str| header.metadata.get(key).ok_or_else(|| refuse(key));
    if field("format")? != FORMAT || !data.is_multiple_of(ALIGN) {
        return Err(refuse("its format is another"));
    }
    let json = |key: &str| serde_json::from_str(field(key)?).map_err(|_| refuse(key));
    let files = serde_json::from_value(json("files")?).map_err(|_| refuse("files"))?;
    let slots: Vec<(String, usize, usize, String)> =
        serde_json::from_value(json("slots")?).map_err(|_| refuse("slots"))?;
    Ok(Checked {
        data,
        origin: Origin {
            content: field("content")?.clone(),
            directory: field("directory")?.clone(),
            files,
        },
        plan: field("plan")?.clone(),
        layout: field("layout")?.clone(),
        sums: slots.into_iter().map(|s| s.3).collect(),
    })
}

/// Reads the whole file and compares the checksum of every slot.
///
/// # Errors
/// When the header is not intact, the file holds another plan, or a slot's bytes have changed; the message names it.
pub fn verify(bytes: &[u8], plan: &Plan, path: &Path) -> Result<()> {
    let checked = check(bytes, path)?;
    checked.serves(plan, path)?;
    for (slot, sum) in plan.slots.iter().zip(&checked.sums) {
        let range = checked.data + slot.range.start..checked.data + slot.range.end;
        if blake3::hash(&bytes[range]).to_hex().as_str() != sum {
            let why = format!("the packed weight {} is damaged", slot.name);
            return Err(Error::format(path, why));
        }
    }
    Ok(())
}

/// Zeroed bytes at a page's start, as aligned as a mapping is.
struct Buffer {
    bytes: Option<MmapMut>,
}

impl Buffer {
    fn new(len: usize) -> io::Result<Self> {
        let bytes = (len > 0).then(|| MmapMut::map_anon(len));
        Ok(Self {
            bytes: bytes.transpose()?,
        })
    }

    fn slice(&mut self, len: usize) -> &mut [u8] {
        match &mut self.bytes {
            Some(bytes) => &mut bytes[..len],
            None => &mut [],
        }
    }
}

#[cfg(test)]
mod tests;
