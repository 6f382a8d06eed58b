//! How a family builds a classification head, as data.

use crate::kernel::activation::Activation;

/// One row for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token's row.
    Cls,
    /// The mean over tokens.
    Mean,
    /// The largest value of each column.
    Max,
    /// The last token's row.
    Last,
}

/// A head: pool (for sequences), an optional dense layer, and the output layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSpec {
    /// How a sequence becomes one row; token heads keep every row.
    pub pool: Pooling,
    /// The layer before the output layer.
    pub dense: Option<DenseSpec>,
    /// Module of the output layer, full path (`classifier`, `classifier.out_proj`).
    pub out: &'static str,
    /// Modules that PEFT's `modules_to_save` names for this head, outermost first.
    pub saved_as: &'static [&'static str],
}

/// The dense layer of a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseSpec {
    /// Module path.
    pub name: &'static str,
    /// Whether the module lies inside the encoder, under its prefix (BERT's pooler does).
    pub in_encoder: bool,
    /// Whether it has a bias.
    pub bias: bool,
    /// Its activation.
    pub activation: Activation,
    /// Module path of a norm after the activation, if there is one.
    pub norm: Option<&'static str>,
}
