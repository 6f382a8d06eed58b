//! sorank: SoRA (sparse low-rank adaptation) for encoders, and a CPU runtime that runs many pruned,
//! variable-rank adapters over one memory-mapped frozen base in one ragged batch.

pub mod adapter;
#[cfg(feature = "cli")]
pub mod cli;
pub mod embedded;
pub mod engine;
pub mod error;
#[cfg(feature = "hub")]
pub mod hub;
pub mod kernel;
pub mod mat;
pub mod model;
pub mod report;
#[cfg(feature = "server")]
pub mod server;
pub mod simd;
pub mod spec;
pub mod text;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
