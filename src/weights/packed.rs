//! The base's linears in panels: one private copy-on-write mapping of a packed file.
//!
//! The file (see `sidecar`) is built once and shared by every process through the page cache. This process's mapping
//! is private: writing to it (a merge) copies the touched pages for this process alone, and dropping those pages
//! ([`Packed::restore`]) brings the file's bytes back, exactly, however often it is done. A second mapping of the same
//! file ([`Packed::fork`]) costs no memory until it is written.
//!
//! Without a cache directory, with a full or read-only one, or for an embedded base, the file is an anonymous one in
//! memory; all else is the same. What is in the slots, and when it is merged, is not known here.
#![allow(unsafe_code)] // memory maps, and giving pages back

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::{
    cache,
    sidecar::{self, Failure, Origin, Plan},
    tensors::Tensors,
};
use crate::{
    Error, Result,
    kernel::panel::{PanelShape, Panels, Precision},
    mat::Matrix,
};

/// Where packed files are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cache<'a> {
    /// In the directory that the environment names ([`cache::directory`]); nowhere if it names none.
    #[default]
    Environment,
    /// In this directory.
    Dir(&'a Path),
    /// Nowhere: weights are packed into memory at every start.
    None,
}

/// How [`Packed::open_or_build`] goes about it.
#[derive(Clone, Copy, Default)]
pub struct PackOptions<'a> {
    /// Where packed files are kept.
    pub cache: Cache<'a>,
    /// Told bytes done and bytes in all while a file is built.
    pub progress: Option<&'a dyn Fn(usize, usize)>,
    /// Pack into memory, whatever the cache holds.
    pub no_mmap: bool,
}

impl fmt::Debug for PackOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackOptions")
            .field("cache", &self.cache)
            .field("no_mmap", &self.no_mmap)
            .finish_non_exhaustive()
    }
}

impl Cache<'_> {
    fn directory(self) -> Option<PathBuf> {
        match self {
            Cache::Environment => cache::directory(),
            Cache::Dir(dir) => Some(dir.to_owned()),
            Cache::None => None,
        }
    }
}

/// Bytes that are brought in before it is asked again whether that is still wanted.
#[cfg(target_os = "linux")]
const PREFAULTED: usize = 8 << 20;

/// Packed weights, by slot.
#[derive(Debug)]
pub struct Packed {
    file: Arc<File>,
    plan: Arc<Plan>,
    content: Arc<str>,
    path: Option<PathBuf>,
    data: usize,
    map: MmapMut,
}

impl Packed {
    /// Opens the packed file of `tensors`, or builds it: slot `i` from the matrix `fill(i)`, `[n x k]`.
    ///
    /// # Errors
    /// Those of `fill`, and of memory. A cache that cannot be used is a warning, and memory is used.
    ///
    /// # Panics
    /// When a slot name stands twice or `fill(i)` has not the shape of slot `i`.
    pub fn open_or_build(
        tensors: &Tensors,
        slots: &[(String, PanelShape)],
        fill: &dyn Fn(usize) -> Result<Matrix>,
        options: &PackOptions<'_>,
    ) -> Result<Self> {
        let plan = Arc::new(Plan::new(slots));
        let dir = options.cache.directory().filter(|_| !options.no_mmap);
        if let (Some(dir), Some(files)) = (dir, tensors.files()) {
            let path = cache::path_of(&dir, &files, &plan);
            match Self::in_cache(&path, &files, tensors, &plan, fill, options) {
                Ok(packed) => return Ok(packed),
                Err(Failure::Weights(e)) => return Err(e),
                Err(Failure::Write(e)) => tracing::warn!(
                    "cannot keep the packed weights in {}: {e}; packing into memory instead",
                    dir.display()
                ),
            }
        }
        let at = Path::new("<memory>");
        Self::in_memory(tensors, &plan, fill, options).map_err(|failure| match failure {
            Failure::Weights(e) => e,
            Failure::Write(e) => Error::io(at)(e),
        })
    }

    fn in_cache(
        path: &Path,
        files: &[(String, super::source::FileId)],
        tensors: &Tensors,
        plan: &Arc<Plan>,
        fill: &dyn Fn(usize) -> Result<Matrix>,
        options: &PackOptions<'_>,
    ) -> Result<Self, Failure> {
        let open = || match Self::open(path, plan) {
            Ok(packed) => Some(packed),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                tracing::info!("{e}; it is built anew");
                None
            }
        };
        // The name was made from the identity of the source files and from the plan, so a whole file serves.
        if let Some(packed) = open() {
            return Ok(packed);
        }
        let Some(mut building) = cache::Building::claim(path, || Self::open(path, plan).is_ok())?
        else {
            return open().ok_or_else(|| Failure::Write(io::ErrorKind::NotFound.into()));
        };
        let origin = Origin {
            content: tensors.fingerprint().to_owned(),
            directory: directory_text(tensors),
            files: Some(files.to_vec()),
        };
        sidecar::build(building.file(), plan, &origin, fill, options.progress)?;
        let file = building.finish()?;
        if let Some(dir) = path.parent() {
            cache::sweep(dir, path, plan, &origin);
        }
        Self::map(file, plan, Some(path.to_owned())).map_err(Failure::Weights)
    }

    fn in_memory(
        tensors: &Tensors,
        plan: &Arc<Plan>,
        fill: &dyn Fn(usize) -> Result<Matrix>,
        options: &PackOptions<'_>,
    ) -> Result<Self, Failure> {
        let origin = Origin {
            content: tensors.fingerprint().to_owned(),
            directory: directory_text(tensors),
            files: tensors.files(),
        };
        let mut file = anonymous_file()?;
        sidecar::build(&mut file, plan, &origin, fill, options.progress)?;
        Self::map(file, plan, None).map_err(Failure::Weights)
    }

    /// Opens the packed file at `path`, which must hold `plan` in the layout of this program. Reads its header alone.
    fn open(path: &Path, plan: &Arc<Plan>) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        Self::map(file, plan, Some(path.to_owned()))
    }

    fn map(file: File, plan: &Arc<Plan>, path: Option<PathBuf>) -> Result<Self> {
        let at = path.as_deref().unwrap_or(Path::new("<memory>"));
        let map = map_private(&file).map_err(Error::io(at))?;
        let checked = sidecar::check(&map, at)?;
        checked.serves(plan, at)?;
        if map.len() != checked.data + plan.data_len() {
            return Err(Error::format(at, "has another length than its plan"));
        }
        Ok(Self {
            file: Arc::new(file),
            plan: Arc::clone(plan),
            content: checked.origin.content.into(),
            data: checked.data,
            path,
            map,
        })
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.plan.len()
    }

    /// Precision of the slots (of the first, should they differ).
    pub fn precision(&self) -> Precision {
        match self.plan.is_empty() {
            true => Precision::F32,
            false => self.plan.shape(0).precision,
        }
    }

    /// The slot of this name.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.plan.find(name)
    }

    /// Name of a slot.
    pub fn name(&self, slot: usize) -> &str {
        self.plan.name(slot)
    }

    /// The weight in a slot, as it stands: merged where it was merged.
    pub fn panels(&self, slot: usize) -> Panels<'_> {
        Panels::new(&self.map[self.at(slot)], self.plan.shape(slot))
    }

    /// The bytes of a slot, to merge into: pages that are written become this mapping's own.
    pub fn panels_mut(&mut self, slot: usize) -> &mut [u8] {
        let at = self.at(slot);
        &mut self.map[at]
    }

    /// The bytes of every slot, as [`Packed::panels_mut`].
    pub fn all_panels_mut(&mut self) -> Vec<&mut [u8]> {
        let ranges: Vec<_> = (0..self.slots()).map(|s| self.at(s)).collect();
        let (mut rest, mut start, mut out) = (&mut self.map[..], 0, Vec::new());
        for range in ranges {
            let (_, after) = rest.split_at_mut(range.start - start);
            let (slot, after) = after.split_at_mut(range.len());
            out.push(slot);
            (rest, start) = (after, range.end);
        }
        out
    }

    /// Shape of a slot.
    pub fn shape(&self, slot: usize) -> PanelShape {
        self.plan.shape(slot)
    }

    fn at(&self, slot: usize) -> std::ops::Range<usize> {
        let range = self.plan.range(slot);
        self.data + range.start..self.data + range.end
    }

    /// Brings the pages of the weights into this process's page table, from the page cache or the file, for as long as `wanted`:
    /// reading them one by one later costs a fault each. A hint where the system has a call for that; it never fails.
    pub fn prefault(&self, wanted: &dyn Fn() -> bool) {
        #[cfg(target_os = "linux")]
        for start in (0..self.map.len()).step_by(PREFAULTED) {
            let len = PREFAULTED.min(self.map.len() - start);
            if !wanted() {
                return;
            }
            let advice = memmap2::Advice::PopulateRead;
            if let Err(e) = self.map.advise_range(advice, start, len) {
                return tracing::debug!("the weights are not brought in ahead: {e}");
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = wanted;
    }

    /// Makes this mapping's own copies of the pages that hold `bytes` of `slot`, which are to be written, and at once: a page
    /// that is copied while another thread runs interrupts that thread. A hint; it never fails.
    pub fn own_pages(&mut self, slot: usize, bytes: std::ops::Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            let (start, advice) = (self.at(slot).start, memmap2::Advice::PopulateWrite);
            let pages = (self.map).advise_range(advice, start + bytes.start, bytes.len());
            if let Err(e) = pages {
                tracing::debug!("pages are copied as they are written: {e}");
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (slot, bytes);
    }

    /// Takes every merge back: all bytes are the file's again.
    ///
    /// # Errors
    /// When the system cannot map the file anew (never on Linux, short of memory for page tables).
    pub fn restore(&mut self) -> Result<()> {
        self.restore_bytes(0..self.map.len())
    }

    /// As [`Packed::restore`], for some slots; the others keep what they hold.
    ///
    /// # Errors
    /// As [`Packed::restore`].
    pub fn restore_slots(&mut self, slots: &[usize]) -> Result<()> {
        slots
            .iter()
            .try_for_each(|&slot| self.restore_bytes(self.at(slot)))
    }

    fn restore_bytes(&mut self, range: std::ops::Range<usize>) -> Result<()> {
        let whole = drop_pages(&mut self.map, range.clone());
        // What lies outside the dropped pages shares a page with a neighbour: copied back, not dropped.
        let edges = [range.start..whole.start, whole.end..range.end];
        if edges.iter().all(|edge| edge.is_empty()) {
            return Ok(());
        }
        let original = map_shared(&self.file).map_err(Error::io(self.path_or_memory()))?;
        for edge in edges {
            self.map[edge.clone()].copy_from_slice(&original[edge]);
        }
        Ok(())
    }

    /// A second private mapping of the same file, without this one's merges.
    ///
    /// # Errors
    /// When the system cannot map the file.
    pub fn fork(&self) -> Result<Self> {
        Ok(Self {
            file: Arc::clone(&self.file),
            plan: Arc::clone(&self.plan),
            content: Arc::clone(&self.content),
            path: self.path.clone(),
            data: self.data,
            map: map_private(&self.file).map_err(Error::io(self.path_or_memory()))?,
        })
    }

    /// Reads the whole file (not this mapping's merges) and compares every checksum.
    ///
    /// # Errors
    /// When a byte of it has changed since it was built; the message names the weight.
    pub fn verify(&self) -> Result<()> {
        let at = self.path_or_memory();
        let bytes = map_shared(&self.file).map_err(Error::io(at))?;
        sidecar::verify(&bytes, &self.plan, at)
    }

    /// Whether the weights lie in a file that other processes share.
    pub fn is_shared_file(&self) -> bool {
        self.path.is_some()
    }

    /// The packed file, where it has a name.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Content hash of the checkpoint it was packed from (`Tensors::fingerprint`), known without reading that.
    pub fn content_hash(&self) -> &str {
        &self.content
    }

    /// Bytes of the mapping.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    fn path_or_memory(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("<memory>"))
    }
}

/// The directory of a checkpoint, resolved, as text.
fn directory_text(tensors: &Tensors) -> String {
    let resolved = tensors
        .directory()
        .map(|d| d.canonicalize().unwrap_or(d.to_owned()));
    resolved.map_or(String::new(), |d| d.display().to_string())
}

/// A private copy-on-write mapping of a whole packed file.
fn map_private(file: &File) -> io::Result<MmapMut> {
    // No swap is set aside for copies that mostly never happen: else a strict system would charge the base twice.
    let mut options = MmapOptions::new();
    options.no_reserve_swap();
    // SAFETY: the file is anonymous, or a packed file, which is read-only by mode and only ever replaced by rename
    // (`cache`); that nobody changes it in place is the contract stated at the head of `weights/`.
    unsafe { options.map_copy(file) }
}

/// A shared read-only mapping of a packed file: its bytes whatever was merged.
pub(super) fn map_shared(file: &File) -> io::Result<Mmap> {
    // SAFETY: as in `map_private`.
    unsafe { Mmap::map(file) }
}

/// An empty file without a name, in memory where the system can do that.
fn anonymous_file() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{MemfdFlags, memfd_create};
        Ok(File::from(memfd_create(
            "sorank-packed",
            MemfdFlags::CLOEXEC,
        )?))
    }
    #[cfg(not(target_os = "linux"))]
    tempfile::tempfile()
}

/// Drops this process's copies of the whole pages inside `range`, and says which bytes those were.
#[cfg(target_os = "linux")]
fn drop_pages(map: &mut MmapMut, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let page = rustix::param::page_size();
    let start = range.start.next_multiple_of(page);
    // The page of the mapping's end reaches past it and is nobody else's.
    let end = if range.end == map.len() {
        range.end
    } else {
        range.end / page * page
    };
    if start >= end {
        return range.start..range.start;
    }
    // SAFETY: `map` is borrowed exclusively, so no reference into it exists whose bytes could change; the pages are
    // of a private mapping of a file, so they read as the file's bytes afterwards, and any byte is a valid `u8`.
    let dropped = unsafe {
        map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
    };
    match dropped {
        Ok(()) => start..end,
        Err(_) => range.start..range.start, // locked pages cannot be dropped: copy all of it back
    }
}

/// Other systems give no promise about private pages of a file: everything is copied back.
#[cfg(not(target_os = "linux"))]
fn drop_pages(_: &mut MmapMut, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    range.start..range.start
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod tests;
