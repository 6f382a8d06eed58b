//! The tensors of a checkpoint, read straight from the memory map.
//!
//! `model.safetensors`, or the shards that `model.safetensors.index.json` names. Opening reads headers alone;
//! a tensor's bytes are touched when it is asked for. F32, F16 and BF16 are only ways in which a checkpoint stores
//! its numbers: everything comes out as `f32`. Elements need not be aligned in the file and are little-endian.
//!
//! Pickled checkpoints (`.bin`) are refused: to read one is to run it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use half::{f16, slice::HalfFloatSliceExt};
use safetensors::Dtype;

use super::{
    header,
    shards::{INDEX, WHOLE, no_checkpoint, read_index},
    source::{Bytes, FileId, Source},
};
use crate::{Error, Result, mat::Matrix};

/// The tensors of one checkpoint, by name.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    directory: Option<PathBuf>,
    files: Vec<FileBytes>,
    entries: BTreeMap<String, (usize, header::Entry)>,
    fingerprint: OnceLock<String>,
}

#[derive(Debug)]
struct FileBytes {
    name: String,
    path: PathBuf,
    bytes: Arc<Bytes>,
    id: Option<FileId>,
}

/// One tensor, its bytes still as the file stores them.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// How its elements are stored.
    pub dtype: Dtype,
    /// Its elements, row-major, little-endian.
    pub bytes: &'a [u8],
    file: &'a FileBytes,
    start: usize,
}

/// A matrix looked up row by row, straight from the map (embedding tables). Holds on to its file.
#[derive(Debug, Clone)]
pub struct Table {
    bytes: Arc<Bytes>,
    start: usize,
    rows: usize,
    cols: usize,
    dtype: Dtype,
}

impl Tensors {
    /// Opens the checkpoint of a model by memory map.
    ///
    /// # Errors
    /// When there is none, a file is not a whole safetensors file, a shard lies outside the directory or lacks a
    /// tensor that the index promises, or a name stands twice.
    pub fn open(source: &Source) -> Result<Self> {
        Self::open_model(source, true)
    }

    /// As [`Tensors::open`], but read into memory instead of mapped.
    ///
    /// # Errors
    /// As [`Tensors::open`].
    pub fn open_in_memory(source: &Source) -> Result<Self> {
        Self::open_model(source, false)
    }

    /// Opens one safetensors file by name; `None` where there is no such file.
    ///
    /// # Errors
    /// When it is not a whole safetensors file.
    pub fn open_file(source: &Source, name: &str) -> Result<Option<Self>> {
        let mut tensors = Self::empty(source, name);
        Ok(tensors.add(source, name, true)?.then_some(tensors))
    }

    fn open_model(source: &Source, map: bool) -> Result<Self> {
        let mut tensors = Self::empty(source, WHOLE);
        if tensors.add(source, WHOLE, map)? {
            return Ok(tensors);
        }
        let Some(index) = source.read(INDEX)? else {
            return Err(no_checkpoint(source));
        };
        tensors.path = source.path(INDEX);
        let weight_map = read_index(&index, &tensors.path)?;
        let shards: BTreeSet<&String> = weight_map.values().collect();
        for shard in shards {
            if !tensors.add(source, shard, map)? {
                return Err(Error::format(
                    &tensors.path,
                    format!("names the shard {shard}, which is not there"),
                ));
            }
        }
        for (name, shard) in &weight_map {
            let held = tensors.entries.get(name).map(|e| &tensors.files[e.0].name);
            if held != Some(shard) {
                return Err(Error::format(
                    &source.path(shard),
                    format!("lacks tensor {name}, which {INDEX} says it holds"),
                ));
            }
        }
        Ok(tensors)
    }

    fn empty(source: &Source, name: &str) -> Self {
        Self {
            path: source.path(name),
            directory: source.directory().map(Path::to_owned),
            files: Vec::new(),
            entries: BTreeMap::new(),
            fingerprint: OnceLock::new(),
        }
    }

    /// Adds the tensors of one file; false where there is no such file.
    fn add(&mut self, source: &Source, name: &str, map: bool) -> Result<bool> {
        let Some((mut bytes, mut id)) = source.map(name)? else {
            return Ok(false);
        };
        let path = source.path(name);
        let mut header = header::read(&bytes, &path)?;
        if !map {
            // Read only now that the header has been found to be one: a sparse giant ends above.
            if let Some(loaded) = source.load(name)? {
                (bytes, id) = loaded;
                header = header::read(&bytes, &path)?;
            }
        }
        for entry in header.entries {
            let (key, at) = (entry.name.clone(), self.files.len());
            if let Some((first, _)) = self.entries.insert(key.clone(), (at, entry)) {
                let first = &self.files[first].name;
                return Err(Error::format(
                    &path,
                    format!("tensor {key} is also in {first}"),
                ));
            }
        }
        self.files.push(FileBytes {
            name: name.to_owned(),
            path,
            bytes: Arc::new(bytes),
            id,
        });
        Ok(true)
    }

    /// The file, or the index of the shards; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, unless the files are embedded.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Every name, in ascending order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        self.entries
            .get(name)
            .map(|(file, e)| self.tensor(*file, e))
    }

    /// Every tensor, in ascending order of names.
    pub fn iter(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.entries.values().map(|(file, e)| self.tensor(*file, e))
    }

    fn tensor<'a>(&'a self, file: usize, entry: &'a header::Entry) -> Tensor<'a> {
        let file = &self.files[file];
        Tensor {
            name: &entry.name,
            shape: &entry.shape,
            dtype: entry.dtype,
            bytes: &file.bytes[entry.range.clone()],
            start: entry.range.start,
            file,
        }
    }

    /// Bytes of all tensors, as stored.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|t| t.bytes.len() as u64).sum()
    }

    /// What identifies the files without reading them; `None` for embedded ones.
    pub fn files(&self) -> Option<Vec<(String, FileId)>> {
        let one = |f: &FileBytes| Some((f.name.clone(), f.id?));
        self.files.iter().map(one).collect()
    }

    /// The content hash of the tensors: BLAKE3 over name, type, shape and bytes of each, in ascending order of
    /// names. How they are spread over shards, and metadata, do not enter. Reads everything once, and remembers.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| {
            let mut hash = blake3::Hasher::new();
            for t in self.iter() {
                hash.update(&(t.name.len() as u64).to_le_bytes());
                hash.update(t.name.as_bytes());
                let dtype = t.dtype.to_string();
                hash.update(&(dtype.len() as u64).to_le_bytes());
                hash.update(dtype.as_bytes());
                hash.update(&(t.shape.len() as u64).to_le_bytes());
                for &n in t.shape {
                    hash.update(&(n as u64).to_le_bytes());
                }
                hash.update(t.bytes);
            }
            hash.finalize().to_hex().to_string()
        })
    }
}

impl<'a> Tensor<'a> {
    /// The file it is in.
    pub fn path(&self) -> &'a Path {
        &self.file.path
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements.
    ///
    /// # Errors
    /// When they are not stored as F32, F16 or BF16.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.check_float()?;
        let mut out = Vec::new();
        // Asked for and not assumed: a sparse file may hold more than the machine does.
        if out.try_reserve_exact(self.len()).is_err() {
            let why = format!(
                "tensor {} {:?} does not fit in memory",
                self.name, self.shape
            );
            return Err(Error::format(self.path(), why));
        }
        let mut block = [0.0; 1024];
        let width = width(self.dtype).unwrap_or(1);
        for bytes in self.bytes.chunks(block.len() * width) {
            let block = &mut block[..bytes.len() / width];
            convert(self.dtype, bytes, block);
            out.extend_from_slice(block);
        }
        Ok(out)
    }

    /// Its elements, where its shape is `shape` and each is finite.
    ///
    /// # Errors
    /// When the shape is another, the elements are not floats, or one is NaN or infinite.
    pub fn values(&self, shape: &[usize]) -> Result<Vec<f32>> {
        self.check_shape(shape)?;
        let out = self.to_f32()?;
        self.check_finite(&out)?;
        Ok(out)
    }

    /// As [`Tensor::values`], as a matrix.
    ///
    /// # Errors
    /// As [`Tensor::values`].
    pub fn matrix(&self, rows: usize, cols: usize) -> Result<Matrix> {
        Ok(Matrix::from_vec(self.values(&[rows, cols])?, rows, cols))
    }

    /// Row `i` of a matrix, into `out` of its width.
    ///
    /// # Errors
    /// When it is not a matrix of floats.
    ///
    /// # Panics
    /// When there is no such row or `out` is not as long as a row.
    pub fn row_f32(&self, i: usize, out: &mut [f32]) -> Result<()> {
        self.table()?.row(i, out);
        Ok(())
    }

    /// A view of a matrix that is looked up row by row and keeps its file alive.
    ///
    /// # Errors
    /// When it is not a matrix of floats.
    pub fn table(&self) -> Result<Table> {
        self.check_float()?;
        let &[rows, cols] = self.shape else {
            return Err(self.shape_error("a matrix".to_owned()));
        };
        Ok(Table {
            bytes: Arc::clone(&self.file.bytes),
            start: self.start,
            rows,
            cols,
            dtype: self.dtype,
        })
    }

    /// An error where its shape is not `shape`.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn check_shape(&self, shape: &[usize]) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        Err(self.shape_error(format!("{shape:?}")))
    }

    /// An error where one of `values`, which are this tensor's, is NaN or infinite.
    ///
    /// # Errors
    /// [`Error::Format`], with the place of the first one.
    pub fn check_finite(&self, values: &[f32]) -> Result<()> {
        match first_not_finite(values) {
            None => Ok(()),
            Some(at) => Err(Error::format(
                self.path(),
                format!("tensor {} holds {} at element {at}", self.name, values[at]),
            )),
        }
    }

    fn check_float(&self) -> Result<()> {
        if width(self.dtype).is_some() {
            return Ok(());
        }
        Err(Error::format(
            self.path(),
            format!(
                "tensor {} is stored as {}, expected F32, F16 or BF16",
                self.name, self.dtype
            ),
        ))
    }

    fn shape_error(&self, expected: String) -> Error {
        Error::Shape {
            path: self.path().to_owned(),
            name: self.name.to_owned(),
            expected,
            found: self.shape.to_vec(),
        }
    }
}

impl Table {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i`, into `out`.
    ///
    /// # Panics
    /// When there is no such row or `out` is not as long as a row.
    pub fn row(&self, i: usize, out: &mut [f32]) {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "width of a row");
        let width = width(self.dtype).expect("a table is of floats, as `Tensor::table` checked");
        let bytes = self.cols * width;
        convert(
            self.dtype,
            &self.bytes[self.start + i * bytes..][..bytes],
            out,
        );
    }
}

/// Where the first NaN or infinity of `values` stands.
pub fn first_not_finite(values: &[f32]) -> Option<usize> {
    // A block at a time: the sum of exponents that are all ones is found without a branch an element.
    const BLOCK: usize = 4096;
    let bad = |x: &f32| !x.is_finite();
    values.chunks(BLOCK).enumerate().find_map(|(i, block)| {
        let any = block.iter().fold(false, |any, x| any | bad(x));
        any.then(|| block.iter().position(bad).map(|at| i * BLOCK + at))?
    })
}

/// Bytes of an element of a type that holds weights.
fn width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Little-endian elements of a float type, widened.
fn convert(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    let pairs = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match dtype {
        Dtype::F32 => {
            for (x, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Dtype::BF16 => {
            for (x, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *x = f32::from_bits(u32::from(pairs(b)) << 16);
            }
        }
        Dtype::F16 => {
            // By way of an aligned block, for the conversion instructions.
            let mut block = [f16::ZERO; 256];
            for (xs, bs) in out.chunks_mut(256).zip(bytes.chunks(512)) {
                for (h, b) in block.iter_mut().zip(bs.chunks_exact(2)) {
                    *h = f16::from_bits(pairs(b));
                }
                block[..xs.len()].convert_to_f32_slice(xs);
            }
        }
        other => unreachable!("{other} was refused by `check_float`"),
    }
}

#[cfg(test)]
mod tests;
