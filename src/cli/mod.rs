//! The command line: what is read, what is printed. Needs the feature `cli`.
//!
//! Rows come in by [`input`], results leave by [`output`] (the one place that writes to stdout), and
//! [`progress`] tells on stderr how far it is.

pub mod input;
pub mod output;
pub mod progress;
