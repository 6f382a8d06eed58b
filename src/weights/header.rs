//! The header of a safetensors file, checked.
//!
//! The `safetensors` crate proves that the tensors cover the data exactly, without holes or overlaps, and that
//! every length is that of its shape and type. Added here: a name that stands twice is refused (a JSON map would
//! silently keep the last), a header longer than [`LIMIT`] is refused, and messages say what was expected.

use std::{collections::BTreeMap, fmt, marker::PhantomData, ops::Range, path::Path};

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use crate::{Error, Result};

/// The longest header taken: a thousand layers of tensors need about 2 MB.
pub const LIMIT: u64 = 16 << 20;

/// What a header says.
#[derive(Debug, Clone)]
pub struct Header {
    /// The tensors, in the order of their bytes.
    pub entries: Vec<Entry>,
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

/// Reads the header of the safetensors file whose whole content is `bytes`; `path` is for messages.
///
/// # Errors
/// When it is not a safetensors file, or not a whole one.
pub fn read(bytes: &[u8], path: &Path) -> Result<Header> {
    let refuse = |why: String| Error::format(path, format!("not a safetensors file: {why}"));
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(refuse(format!("it has only {} bytes", bytes.len())));
    };
    if bytes.starts_with(b"version https://git-lfs") {
        let why = "it is a pointer of Git LFS to the real file; fetch that with `git lfs pull`";
        return Err(refuse(why.to_owned()));
    }
    let length = u64::from_le_bytes(*length);
    if length > LIMIT {
        return Err(refuse(format!(
            "its header claims {length} bytes, expected at most {LIMIT}"
        )));
    }
    let length = length as usize;
    if length > rest.len() {
        return Err(refuse(format!(
            "it is cut short: the header has {length} bytes and the file {} after its first eight",
            rest.len()
        )));
    }
    serde_json::from_slice::<Unique<IgnoredAny>>(&rest[..length])
        .map_err(|e| refuse(e.to_string()))?;
    let (n, parsed) = SafeTensors::read_metadata(bytes).map_err(|e| {
        refuse(match e {
            SafeTensorError::MetadataIncompleteBuffer => format!(
                "the header describes {} bytes of tensors and the file has {} after the header",
                described(&rest[..length]),
                rest.len() - length
            ),
            SafeTensorError::InvalidOffset(name) => {
                format!("tensor {name} does not begin where the one before it ends")
            }
            SafeTensorError::TensorInvalidInfo => {
                "the length of a tensor is not that of its shape and type".to_owned()
            }
            other => other.to_string(),
        })
    })?;
    let start = 8 + n;
    let entries = parsed
        .offset_keys()
        .into_iter()
        .filter_map(|name| {
            let info = parsed.info(&name)?;
            Some(Entry {
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: start + info.data_offsets.0..start + info.data_offsets.1,
                name,
            })
        })
        .collect();
    let metadata = parsed.metadata().iter().flatten();
    Ok(Header {
        entries,
        metadata: metadata.map(|(k, v)| (k.clone(), v.clone())).collect(),
    })
}

/// A map in which no key stands twice.
#[derive(Debug)]
pub(crate) struct Unique<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Walk<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Walk<V> {
            type Value = Unique<V>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<V>, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if let Some(twice) = all.insert(key.clone(), value).map(|_| key) {
                        return Err(serde::de::Error::custom(format!("{twice:?} stands twice")));
                    }
                }
                Ok(Unique(all))
            }
        }
        from.deserialize_map(Walk(PhantomData))
    }
}

/// Where the last tensor of a header ends; for a message about a header that has failed.
fn described(header: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Info {
        data_offsets: (u64, u64),
    }
    let Ok(all) = serde_json::from_slice::<BTreeMap<String, Value>>(header) else {
        return 0;
    };
    let ends = all.into_values().filter_map(|v| Info::deserialize(v).ok());
    ends.map(|info| info.data_offsets.1).max().unwrap_or(0)
}
