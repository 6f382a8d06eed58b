//! Tensor and module names of a family, as tables.
//!
//! A name is a prefix, a template with `{}` for the layer, and `.weight` or `.bias`. The prefix is what a
//! model class adds around the encoder (`bert.`); a checkpoint of the bare encoder has none.

/// Where a family keeps its tensors. Names are module paths without `.weight` / `.bias`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// What transformers calls this family's model classes, up to `ForSequenceClassification`.
    pub class: &'static str,
    /// What may stand before every name of the encoder; the first that matches a checkpoint is taken.
    pub prefixes: &'static [&'static str],
    /// Word embedding table.
    pub word: &'static str,
    /// Position embedding table.
    pub position: &'static str,
    /// Token-type embedding table.
    pub types: &'static str,
    /// Norm of the embedding layer.
    pub embed_norm: &'static str,
    /// Projection from the embedding width to the hidden width.
    pub embed_project: &'static str,
    /// The modules of each linear of a layer, in column order; `{}` is the layer.
    pub qkv: &'static [&'static str],
    /// Output of attention.
    pub attn_out: &'static str,
    /// Into the feed-forward block (gated: the activated half first).
    pub mlp_in: &'static [&'static str],
    /// Out of it.
    pub mlp_out: &'static str,
    /// Norm of the attention half.
    pub attn_norm: &'static str,
    /// Norm of the feed-forward half.
    pub mlp_norm: &'static str,
    /// Norm after the last layer.
    pub final_norm: &'static str,
    /// Table of relative embeddings, or of bucketed biases.
    pub relative: &'static str,
    /// Norm of the table of relative embeddings.
    pub relative_norm: &'static str,
    /// Projections of relative positions where they are not shared: key, query.
    pub relative_projections: &'static [&'static str],
    /// Other names of the linears, as modules, where a model class does not name them as the files name tensors.
    pub modules: &'static [ModulePart],
    /// Whether the class that this configuration is for is the one with those names. Adapters come under either.
    pub in_modules: bool,
    /// Other spellings of a part of a name: (found, meant), e.g. (`gamma`, `weight`).
    pub aliases: &'static [(&'static str, &'static str)],
    /// Starts of tensor names (after the prefix) that are known and not needed.
    pub ignored: &'static [&'static str],
}

/// A module of the model class that is, or is a part of, a linear whose tensors are named otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModulePart {
    /// Path of the module; `{}` is the layer.
    pub path: &'static str,
    /// The name in `qkv`, `attn_out`, `mlp_in` or `mlp_out` that it belongs to.
    pub of: &'static str,
    /// Which of the `parts` equal runs of output columns it is.
    pub part: usize,
    /// Into how many parts that linear is cut.
    pub parts: usize,
}

impl ModulePart {
    /// Part `part` of `parts` of the linear `of`.
    pub const fn new(path: &'static str, of: &'static str, part: usize, parts: usize) -> Self {
        Self {
            path,
            of,
            part,
            parts,
        }
    }

    /// The whole of the linear `of`.
    pub const fn whole(path: &'static str, of: &'static str) -> Self {
        Self::new(path, of, 0, 1)
    }
}
