//! The integration tests: one binary, public API only.
//!
//! parity: answers equal those of transformers and peft · batching: alone equals batched, bit for bit ·
//! adapters: binding, refusals · merge: in place and to a file · cli: the binary as a person runs it ·
//! training: gradients and steps equal torch's · hostile: damaged files are refused by name · layering: the house keeps its shape

mod adapters;
mod batching;
mod cli;
mod fixtures;
mod hostile;
mod layering;
mod merge;
mod minilm;
mod parity;
mod training;
