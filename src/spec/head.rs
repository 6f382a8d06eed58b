//! How a family builds a classification head, as data.

use crate::kernel::activation::Activation;

/// Activation functions by the names that transformers gives them.
pub(super) const ACTIVATIONS: [(&str, Activation); 11] = [
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
];

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

impl DenseSpec {
    /// Whether `name`, as transformers calls activation functions, is this layer's.
    pub fn activates_as(&self, name: &str) -> bool {
        ACTIVATIONS.contains(&(name, self.activation))
    }
}
