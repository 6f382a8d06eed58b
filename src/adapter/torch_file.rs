//! The tensors of a checkpoint written by `torch.save` (1.6 or newer): an archive, a pickle that describes views, and
//! storages that hold their bytes.
//!
//! Nothing is executed (see `unpickle`) and nothing is larger than the file it came from. Views may be transposed or
//! share a storage, as torch leaves them. Decoding is on demand, like that of `tensors`.

use std::{cell::Cell, collections::BTreeMap, path::Path};

use half::{bf16, f16};

use super::{
    SavedTensor,
    archive::Archive,
    tensors::{check_name, refuse_non_finite},
    unpickle::{self, Strided},
};
use crate::{Error, Result};

/// A checkpoint: described tensors by name over the storages of an archive.
#[derive(Debug)]
pub(super) struct TorchFile<'a> {
    path: &'a Path,
    archive: Archive<'a>,
    /// What stands before `data.pkl` and `data/` in the archive.
    root: String,
    tensors: BTreeMap<String, Strided>,
    /// Elements that may yet be decoded: views of one storage must not multiply it without end.
    left: Cell<usize>,
}

impl<'a> TorchFile<'a> {
    /// Reads the descriptions in `bytes`, a whole file.
    pub(super) fn parse(bytes: &'a [u8], path: &'a Path) -> Result<Self> {
        let refuse = |why: String| Error::format(path, why);
        if !Archive::is_one(bytes) {
            // A bare pickle: what it wants is worth telling, but torch writes none that could be read.
            let why = unpickle::state_dict(bytes).err().unwrap_or_default();
            return Err(refuse(format!(
                "not a checkpoint of torch 1.6 or newer: {why}"
            )));
        }
        let archive = Archive::parse(bytes).map_err(refuse)?;
        let roots: Vec<&str> = archive
            .names()
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .collect();
        let root = match roots.as_slice() {
            [root] => (*root).to_owned(),
            _ => return Err(refuse("expected one data.pkl in the zip archive".into())),
        };
        if archive
            .get(&format!("{root}byteorder"))
            .is_some_and(|order| order != b"little")
        {
            return Err(refuse("a checkpoint of a big-endian machine".into()));
        }
        let pickle = archive.get(&format!("{root}data.pkl")).unwrap_or_default();
        let tensors = unpickle::state_dict(pickle).map_err(refuse)?;
        tensors.keys().try_for_each(|name| check_name(name, path))?;
        Ok(Self {
            path,
            archive,
            root,
            tensors,
            left: Cell::new(bytes.len()),
        })
    }

    /// Every name, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor `name`, decoded.
    ///
    /// # Errors
    /// A tensor that is empty, of a type other than float, half and bfloat16, not finite, or beyond its storage.
    pub(super) fn decode(&self, name: &str) -> Result<SavedTensor> {
        let refuse = |why: String| Error::format(self.path, format!("tensor {name}: {why}"));
        let t = self
            .tensors
            .get(name)
            .ok_or_else(|| refuse("there is none".into()))?;
        let count = t.shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
        let count = count.filter(|n| (1..=t.elements).contains(n));
        let count = count.ok_or_else(|| {
            refuse(format!(
                "shape {:?} over a storage of {} elements",
                t.shape, t.elements
            ))
        })?;
        let left = self.left.get().checked_sub(count);
        self.left
            .set(left.ok_or_else(|| refuse("views of the same storage, time and again".into()))?);

        let entry = format!("{}data/{}", self.root, t.storage);
        let bytes = self
            .archive
            .get(&entry)
            .ok_or_else(|| refuse(format!("no storage {entry}")))?;
        let size = match t.kind {
            "Float" => 4,
            "Half" | "BFloat16" => 2,
            other => {
                let why = "an adapter's tensors are float, half or bfloat16";
                return Err(Error::unsupported(
                    self.path,
                    format!("tensor {name} of type {other}"),
                    why,
                ));
            }
        };
        if t.elements.checked_mul(size) != Some(bytes.len()) {
            return Err(refuse(format!(
                "{} bytes of storage for {} elements",
                bytes.len(),
                t.elements
            )));
        }
        let last = t
            .shape
            .iter()
            .zip(&t.strides)
            .try_fold(t.offset, |at, (d, stride)| {
                at.checked_add((d - 1).checked_mul(*stride)?)
            });
        if last.is_none_or(|last| last >= t.elements) {
            return Err(refuse(format!(
                "a view beyond its storage of {} elements",
                t.elements
            )));
        }
        let element = |at: usize| {
            let b = &bytes[at * size..][..size];
            match t.kind {
                "Float" => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                "Half" => f16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            }
        };
        let data: Vec<f32> = Positions::of(t, count).map(element).collect();
        refuse_non_finite(self.path, name, &data)?;
        Ok(SavedTensor {
            shape: t.shape.clone(),
            data,
        })
    }
}

/// Places in the storage of a view's elements, the last dimension fastest.
struct Positions<'a> {
    view: &'a Strided,
    index: Vec<usize>,
    left: usize,
}

impl<'a> Positions<'a> {
    fn of(view: &'a Strided, count: usize) -> Self {
        Self {
            view,
            index: vec![0; view.shape.len()],
            left: count,
        }
    }
}

impl Iterator for Positions<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let steps = self
            .index
            .iter()
            .zip(&self.view.strides)
            .map(|(i, s)| i * s);
        let at = self.view.offset + steps.sum::<usize>();
        for (i, d) in self.index.iter_mut().zip(&self.view.shape).rev() {
            *i += 1;
            if *i < *d {
                break;
            }
            *i = 0;
        }
        Some(at)
    }
}
