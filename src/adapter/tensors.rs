//! The tensors of a small safetensors file, decoded to finite `f32` on the heap.
//!
//! The `safetensors` crate checks that offsets are in bounds, contiguous and agree with the shapes. On top of it:
//! the header is small, holds no name twice, and names are printable; nothing empty is decoded. Elements are decoded
//! when they are asked for, so that tensors nobody wants cost nothing and refuse nothing. Knows nothing of what
//! the names mean.

use std::{collections::BTreeMap, path::Path};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{SavedTensor, json};
use crate::{Error, Result};

/// The most bytes of a header; 70 adapted modules take about 20 KB.
const MAX_HEADER: u64 = 4 << 20;
/// The most tensors of one file.
const MAX_TENSORS: usize = 1 << 16;
/// More dimensions than any weight has.
const MAX_DIMENSIONS: usize = 8;

/// A weight file: views by name, in name order, and its metadata.
#[derive(Debug)]
pub(super) struct TensorFile<'a> {
    path: &'a Path,
    views: BTreeMap<String, TensorView<'a>>,
    /// The strings under `__metadata__`.
    pub(super) metadata: BTreeMap<String, String>,
}

impl<'a> TensorFile<'a> {
    /// Checks the header of `bytes`, a whole file, and indexes its tensors.
    pub(super) fn parse(bytes: &'a [u8], path: &'a Path) -> Result<Self> {
        refuse_duplicate_names(bytes, path)?;
        let refuse = |e| Error::format(path, format!("not a safetensors file: {e}"));
        let file = SafeTensors::deserialize(bytes).map_err(refuse)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(refuse)?;
        if file.len() > MAX_TENSORS {
            let why = format!("{} tensors, and at most {MAX_TENSORS} are read", file.len());
            return Err(Error::format(path, why));
        }
        let mut views = BTreeMap::new();
        for (name, view) in file.tensors() {
            check_name(&name, path)?;
            views.insert(name, view);
        }
        let metadata = header
            .metadata()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect();
        Ok(Self {
            path,
            views,
            metadata,
        })
    }

    /// Every name, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.views.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, if there is one.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.views.get(name).map(TensorView::shape)
    }

    /// The tensor `name`, decoded.
    ///
    /// # Errors
    /// An empty tensor, a storage type other than F32, F16, BF16, and a value that is not finite.
    pub(super) fn decode(&self, name: &str) -> Result<SavedTensor> {
        let Some(view) = self.views.get(name) else {
            return Err(Error::Tensors {
                path: self.path.to_owned(),
                missing: vec![name.to_owned()],
                unused: Vec::new(),
            });
        };
        if view.shape().contains(&0) || view.shape().len() > MAX_DIMENSIONS {
            return Err(Error::Shape {
                path: self.path.to_owned(),
                name: name.to_owned(),
                expected: format!("at most {MAX_DIMENSIONS} dimensions, none of them 0"),
                found: view.shape().to_vec(),
            });
        }
        let data = elements(view.dtype(), view.data()).ok_or_else(|| {
            Error::unsupported(
                self.path,
                format!("tensor {name} of type {:?}", view.dtype()),
                "an adapter's tensors are F32, F16 or BF16",
            )
        })?;
        refuse_non_finite(self.path, name, &data)?;
        Ok(SavedTensor {
            shape: view.shape().to_vec(),
            data,
        })
    }
}

/// An error that names the tensor, the index and the value where `data` is not finite.
pub(super) fn refuse_non_finite(path: &Path, name: &str, data: &[f32]) -> Result<()> {
    match data.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::format(
            path,
            format!(
                "tensor {name} holds {} at element {i} of {}",
                data[i],
                data.len()
            ),
        )),
    }
}

/// Little-endian elements as `f32`; `None` for a type that is not a float of 16 or 32 bits.
fn elements(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    Some(match dtype {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => return None,
    })
}

/// A name is one line of printable text: it goes into messages, and patterns are matched against it.
pub(super) fn check_name(name: &str, path: &Path) -> Result<()> {
    const LONGEST: usize = 512;
    let empty_part = name.split('.').any(str::is_empty);
    if empty_part || name.len() > LONGEST || name.chars().any(char::is_control) {
        let start: String = name.chars().take(64).collect();
        return Err(Error::format(
            path,
            format!("tensor name {start:?}: expected dotted, printable, at most {LONGEST} bytes"),
        ));
    }
    Ok(())
}

/// The crate keeps the last of two equal names; which one a reader keeps must not matter.
fn refuse_duplicate_names(bytes: &[u8], path: &Path) -> Result<()> {
    let short = || Error::format(path, "not a safetensors file: shorter than its header");
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let why = format!(
            "not a safetensors adapter: a header of {length} bytes, and at most {MAX_HEADER} are read"
        );
        return Err(Error::format(path, why));
    }
    let header = rest.get(..length as usize).ok_or_else(short)?;
    json::parse(header, path).map(|_| ())
}
