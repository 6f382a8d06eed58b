//! The integration tests: one binary, public API only.
//!
//! parity: answers equal those of transformers and peft · batching: alone equals batched, bit for bit ·
//! adapters: binding, refusals · merge: in place and to a file · cli: the binary as a person runs it ·
//! precision: bf16 and int8 near f32, and alone equals batched there too ·
//! hostile: damaged files are refused by name · layering: the house keeps its shape · tag: entities equal the pipeline's ·
//! fanout: one text, many adapters · rerank: pairs, sorted; prompts and dimensions · tools: prune, verify, import ·
//! server: HTTP over real sockets · training: gradients and steps equal torch's · runs: runs that are cut,
//! stopped, repeated · metrics: scores equal sklearn's, scipy's and seqeval's

#![allow(clippy::print_stdout)] // tests say what they measured and what they skipped

mod adapters;
mod batching;
mod cli;
mod fanout;
mod fixtures;
mod gradients;
mod hostile;
mod layering;
mod merge;
mod metrics;
mod minilm;
mod parity;
mod precision;
mod rerank;
mod runs;
#[cfg(feature = "server")]
mod server;
#[cfg(all(feature = "server", target_os = "linux"))]
mod serving;
mod tag;
mod tools;
mod training;
