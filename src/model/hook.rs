//! The Hook: who watches a forward pass sees every intermediate by name, and may change it.
//!
//! Parity tests name the first place that differs; the trainer records what backward needs and applies
//! dropout. Serving runs with `()`, which compiles to nothing.

use crate::{kernel::dropout::Dropout, mat::MatMut};

/// A named intermediate of the forward pass. `[T x ...]` over the packed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Output of the embedding layer, `[T x H]`.
    Embedded,
    /// Input of attention's projections (pre-norm: after the norm), `[T x H]`.
    AttnInput,
    /// q|k|v after the projections and any rotary embedding, `[T x 3H]`.
    Qkv,
    /// Output of attention before its output projection, `[T x H]`.
    Context,
    /// After the output projection, before the residual is added, `[T x H]`.
    AttnOut,
    /// The residual stream after the attention half, `[T x H]` (post-norm: before its norm).
    AttnSum,
    /// Input of the feed-forward block, `[T x H]`.
    MlpInput,
    /// After the first linear, before the activation, `[T x F]`, gated `[T x 2F]`.
    MlpIn,
    /// After the activation (and gate), `[T x F]`.
    MlpActive,
    /// After the second linear, before the residual is added, `[T x H]`.
    MlpOut,
    /// The residual stream after the feed-forward half, `[T x H]` (post-norm: before its norm).
    MlpSum,
    /// Output of the layer, `[T x H]`.
    LayerOut,
    /// Output of the encoder, `[T x H]`.
    Encoded,
}

/// Watches a forward pass.
pub trait Hook {
    /// Whether [`Hook::at`] does anything. When false, ops are fused and threads take whole sequences;
    /// when true, every place is visited, over the whole batch. The bits are the same either way.
    const WATCHES: bool = true;
    /// Called when `x` is complete, before anything reads it. What it writes is what the pass goes on with.
    fn at(&mut self, place: Place, layer: usize, x: MatMut<'_>);
    /// What drops elements of the input that the factors of the linear in `slot` read; its base weight reads all of it. A
    /// row of the mask is a row of the batch; sites of one linear share it.
    fn factor_dropout(&self, _layer: usize, _slot: usize) -> Option<Dropout> {
        None
    }
    /// What drops attention weights of sequence number `sequence` of the batch.
    fn attention_dropout(&self, _layer: usize, _sequence: usize) -> Option<Dropout> {
        None
    }
}

/// Nobody watches.
impl Hook for () {
    const WATCHES: bool = false;
    fn at(&mut self, _: Place, _: usize, _: MatMut<'_>) {}
}
