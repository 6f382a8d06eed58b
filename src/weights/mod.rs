//! Files and bytes: checkpoints by memory map, and the packed form of the base's linears.
//!
//! - [`source`]: where a model's files come from, a directory or the binary itself.
//! - [`tensors`]: the tensors of a checkpoint, read straight from the map.
//! - [`packed`]: the base's linears in panels, in one private copy-on-write mapping of a file that is built once;
//!   [`sidecar`] is that file's form, [`cache`] where it lives.
//! - [`writer`]: a safetensors file written so that a crash leaves the old one or the new one; [`durable`] is how.
//!
//! Nothing here knows a model: names and shapes come from the caller. A mapped file must not be changed in place
//! while it is mapped (replacing it by rename is fine); a file cut short under a running process ends that
//! process with SIGBUS, as with every memory map. [`tensors::Tensors::open_in_memory`] is for those who cannot promise that.

pub mod cache;
pub mod durable;
pub mod header;
pub mod packed;
pub mod shards;
pub mod sidecar;
pub mod source;
pub mod tensors;
pub mod writer;

pub use packed::{Cache, PackOptions, Packed};
pub use safetensors::Dtype;
pub use source::{Bytes, COMPANIONS, Source};
pub use tensors::{Table, Tensor, Tensors};
