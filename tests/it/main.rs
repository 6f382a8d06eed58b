//! The integration tests: one binary, public API only.
//!
//! adalora: steps and budgets equal peft's · parity: answers equal those of transformers and peft ·
//! batching: alone equals batched, bit for bit · adapters: binding, refusals · fused: either naming of one linear ·
//! imports: against the models that they come from · merge: in place and to a file · cli: the binary as a person runs it ·
//! precision: bf16 and int8 near f32, and alone equals batched there too ·
//! hostile: damaged files are refused by name, and cost little · corpus: past crashes ·
//! layering: the house keeps its shape · tag: entities equal the pipeline's ·
//! fanout: one text, many adapters · rerank: pairs, sorted; prompts and dimensions · tools: prune, verify, import ·
//! sweep: schedules of phases, many runs · server: HTTP over real sockets · hub: repositories pulled from a mock of the hub ·
//! training: gradients and steps equal torch's · runs: runs that are killed, stopped, repeated · cuts: checkpoints after any step

#![allow(clippy::print_stdout)] // tests say what they measured and what they skipped

mod adalora;
mod adapters;
mod batching;
mod cli;
mod corpus;
mod cuts;
mod fanout;
mod fixtures;
mod fused;
mod gradients;
mod hostile;
#[cfg(feature = "hub")]
mod hub;
mod imports;
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
mod sweep;
mod tag;
mod tools;
mod training;
