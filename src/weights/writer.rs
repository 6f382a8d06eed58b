//! Writing a safetensors file: merged checkpoints and adapters.
//!
//! A tensor comes as bytes (copied as another file stores them), as numbers, or as a function that makes its
//! numbers when its turn comes, so that a merged checkpoint never stands in memory as a whole. Numbers are rounded
//! to the given type; one that the type cannot hold (F16 ends at 65504) or that is not finite is an error, never an
//! infinity in a file. The file replaces an old one as `durable` says.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::Path};

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::durable;
use crate::{Error, Result};

/// A tensor to write.
#[derive(Debug)]
pub struct Output<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How the file stores it.
    pub dtype: Dtype,
    /// Its elements.
    pub content: Content<'a>,
}

/// The elements of a tensor to write, row-major.
pub enum Content<'a> {
    /// As the file stores them, in the type given.
    Bytes(&'a [u8]),
    /// Numbers, rounded to the type given (F32, F16, BF16).
    Values(Cow<'a, [f32]>),
    /// Makes the numbers when they are due.
    Make(Box<dyn Fn() -> Result<Vec<f32>> + 'a>),
}

impl fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Bytes(b) => write!(f, "Bytes({})", b.len()),
            Content::Values(v) => write!(f, "Values({})", v.len()),
            Content::Make(_) => f.write_str("Make"),
        }
    }
}

/// Writes `tensors` and `metadata` as the safetensors file at `path`. Tensors are laid out as the reference
/// implementation does it, wide types first and then by name, so that every element is aligned.
///
/// # Errors
/// When the file cannot be written, a name stands twice, content and shape differ, or a number does not fit its type.
pub fn write(
    path: &Path,
    tensors: &[Output<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut order: Vec<&Output> = tensors.iter().collect();
    order.sort_by_key(|t| (std::cmp::Reverse(t.dtype.bitsize()), &t.name));
    let header = header(path, &order, metadata)?;
    durable::replace(path, |out| {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io(path));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        order.iter().try_for_each(|t| put(&encode(t, path)?))
    })
}

fn header(path: &Path, order: &[&Output], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut all = Map::new();
    if !metadata.is_empty() {
        all.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut at = 0;
    for t in order {
        let bits = t.shape.iter().product::<usize>() * t.dtype.bitsize();
        let info = json!({
            "dtype": t.dtype.to_string(),
            "shape": t.shape,
            "data_offsets": [at, at + bits / 8],
        });
        at += bits / 8;
        if all.insert(t.name.clone(), info).is_some() {
            return Err(Error::format(
                path,
                format!("tensor {} stands twice", t.name),
            ));
        }
    }
    let mut header = Value::Object(all).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn encode<'a>(tensor: &'a Output<'_>, path: &Path) -> Result<Cow<'a, [u8]>> {
    let refuse = |why: String| Error::format(path, format!("tensor {}: {why}", tensor.name));
    let count = tensor.shape.iter().product::<usize>();
    let values = match &tensor.content {
        Content::Bytes(bytes) => {
            let expected = count * tensor.dtype.bitsize() / 8;
            if bytes.len() != expected {
                return Err(refuse(format!(
                    "{} bytes, expected {expected}",
                    bytes.len()
                )));
            }
            return Ok(Cow::Borrowed(bytes));
        }
        Content::Values(values) => Cow::Borrowed(&**values),
        Content::Make(make) => Cow::Owned(make()?),
    };
    if values.len() != count {
        return Err(refuse(format!(
            "{} elements, expected {count} ({:?})",
            values.len(),
            tensor.shape
        )));
    }
    let mut fits = Ok(());
    let mut check = |x: f32, stored: f32| {
        if !stored.is_finite() && fits.is_ok() {
            fits = Err(refuse(format!("{x} cannot be stored as {}", tensor.dtype)));
        }
    };
    let mut bytes = Vec::with_capacity(count * 4);
    match tensor.dtype {
        Dtype::F32 => values.iter().for_each(|&x| {
            check(x, x);
            bytes.extend(x.to_le_bytes());
        }),
        Dtype::F16 => values.iter().for_each(|&x| {
            let h = f16::from_f32(x);
            check(x, h.to_f32());
            bytes.extend(h.to_le_bytes());
        }),
        Dtype::BF16 => values.iter().for_each(|&x| {
            let h = bf16::from_f32(x);
            check(x, h.to_f32());
            bytes.extend(h.to_le_bytes());
        }),
        other => return Err(refuse(format!("numbers cannot be written as {other}"))),
    }
    fits.map(|()| Cow::Owned(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Source, Tensors};

    fn values<'a>(name: &str, dtype: Dtype, shape: &[usize], values: &'a [f32]) -> Output<'a> {
        Output {
            name: name.to_owned(),
            shape: shape.to_vec(),
            dtype,
            content: Content::Values(values.into()),
        }
    }

    #[test]
    fn what_is_written_reads_back_in_its_type() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let numbers = [1.0, -2.5, 3.140625, 1e-3, 65504.0, -0.0];
        let ids = 7i64.to_le_bytes();
        let raw = Output {
            name: "ids".to_owned(),
            shape: vec![1],
            dtype: Dtype::I64,
            content: Content::Bytes(&ids),
        };
        let made = Output {
            content: Content::Make(Box::new(|| Ok(numbers.to_vec()))),
            ..values("made", Dtype::F32, &[6], &[])
        };
        let outputs = [
            values("half", Dtype::F16, &[2, 3], &numbers),
            values("brain", Dtype::BF16, &[3, 2], &numbers),
            values("full", Dtype::F32, &[6], &numbers),
            values("none", Dtype::F32, &[0, 4], &[]),
            made,
            raw,
        ];
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        write(&path, &outputs, &metadata).unwrap();

        let tensors = Tensors::open(&Source::dir(dir.path()).unwrap()).unwrap();
        let get = |name: &str| tensors.get(name).unwrap();
        assert_eq!(get("full").values(&[6]).unwrap(), numbers);
        assert_eq!(get("made").values(&[6]).unwrap(), numbers);
        assert_eq!(
            get("half").values(&[2, 3]).unwrap(),
            numbers.map(|x| f16::from_f32(x).to_f32())
        );
        assert_eq!(
            get("brain").values(&[3, 2]).unwrap(),
            numbers.map(|x| bf16::from_f32(x).to_f32())
        );
        assert!(get("none").values(&[0, 4]).unwrap().is_empty());
        assert_eq!(get("ids").bytes, ids);
        for t in tensors.iter() {
            let aligned = t.bytes.as_ptr().align_offset(t.dtype.bitsize() / 8) == 0;
            assert!(aligned || t.is_empty(), "{}", t.name);
        }
    }

    #[test]
    fn a_number_that_the_type_cannot_hold_is_refused_and_the_old_file_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, "old").unwrap();
        for (dtype, bad) in [
            (Dtype::F16, 65520.0),
            (Dtype::BF16, f32::MAX),
            (Dtype::F32, f32::NAN),
            (Dtype::I64, 1.0),
        ] {
            let numbers = [1.0, bad];
            let outputs = [values("w", dtype, &[2], &numbers)];
            let error = write(&path, &outputs, &BTreeMap::new()).unwrap_err();
            assert!(error.to_string().contains("tensor w"), "{error}");
        }
        let twice = [
            values("w", Dtype::F32, &[], &[1.0]),
            values("w", Dtype::F32, &[], &[1.0]),
        ];
        assert!(write(&path, &twice, &BTreeMap::new()).is_err());
        let short = [values("w", Dtype::F32, &[3], &[1.0])];
        assert!(write(&path, &short, &BTreeMap::new()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }
}
