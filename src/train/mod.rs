//! Training: from a frozen base and labelled rows to a pruned adapter of variable rank.
//!
//! It runs the runtime's own forward with a recording hook (`tape`), and the hand-written backward beside it.
//! Parameters live as plain f32 matrices (`sora`) and are packed into a task at each step, so that what is trained
//! is what is served. Knows nothing of queues and requests (`engine/`), and prints nothing: progress is told to
//! whoever asks.

pub mod adalora;
pub mod checkpoint;
pub mod choice;
pub mod data;
pub mod learner;
pub mod loss;
pub mod metrics;
pub mod optim;
pub mod order;
pub mod random;
pub mod run;
pub mod schedule;
pub mod sora;
pub mod sweep;
pub mod tape;

pub use self::{
    learner::{Example, Learner},
    loss::Target,
    optim::{Optimizer, Prox, Rates, Settings},
    sora::{Facts, Kind, Live, Method, Parameter},
    tape::Shares,
};
