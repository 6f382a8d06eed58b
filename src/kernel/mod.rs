//! Pure math on matrix views: no I/O, no model words, no allocation in a hot call.
//!
//! Letters, everywhere in this crate: `T` tokens, `S` sequences, `H` hidden width, `N` heads (in a product:
//! output columns), `D` head width, `F` feed-forward width, `R` rank, `G` groups, `L` layers, `V` vocabulary.

pub mod activation;
pub mod attention;
pub mod bucketed;
pub mod dropout;
pub mod exp;
pub mod gemm;
#[cfg(test)]
mod naive;
pub mod norm;
pub mod outer;
pub mod panel;
pub mod pool;
pub mod ranks;
pub mod reduce;
pub mod relative;
pub mod rotary;
pub mod softmax;
pub mod transient;
