//! What an encoder is, as data: `config.json` turned into facts. No weights, no arithmetic.
//!
//! One file a family turns its configuration into an [`EncoderSpec`]; `model/` branches on the facts in it
//! (`Position::Relative`), never on the family's name. A configuration key that would change the answer
//! and is not supported is refused by name.

mod albert;
mod bert;
mod config;
mod deberta;
mod distilbert;
mod electra;
mod gte;
pub mod head;
mod jina;
mod labels;
mod modernbert;
mod mpnet;
pub mod names;
mod nomic;
mod roberta;
mod rope;
pub mod sentence;

use std::path::Path;

pub use head::{DenseSpec, HeadSpec, Pooling};
pub use names::{ModulePart, Names};
pub use sentence::SentenceSpec;

use crate::{Error, Result, kernel::activation::Activation};
use config::Config;

/// One family: its `model_type`, how its configuration is read, and its keys that change nothing.
struct Family {
    model_type: &'static str,
    parse: fn(&Config<'_>) -> Result<EncoderSpec>,
    harmless: &'static [&'static str],
}

const fn family(
    model_type: &'static str,
    parse: fn(&Config<'_>) -> Result<EncoderSpec>,
    harmless: &'static [&'static str],
) -> Family {
    Family {
        model_type,
        parse,
        harmless,
    }
}

/// Every family there is. A new one is a file, a row here, and a fixture.
const FAMILIES: &[Family] = &[
    family("bert", bert::parse, bert::HARMLESS),
    family("roberta", roberta::parse, &[]),
    family("xlm-roberta", roberta::parse_xlm, &[]),
    family("camembert", roberta::parse_camembert, &[]),
    family("electra", electra::parse, electra::HARMLESS),
    family("distilbert", distilbert::parse, distilbert::HARMLESS),
    family("mpnet", mpnet::parse, &[]),
    family("deberta-v2", deberta::parse, deberta::HARMLESS),
    family("modernbert", modernbert::parse, modernbert::HARMLESS),
    family("albert", albert::parse, albert::HARMLESS),
    family("nomic_bert", nomic::parse, nomic::HARMLESS),
    family("gte", gte::parse, gte::HARMLESS),
    family("new", gte::parse_new, gte::HARMLESS),
    family("jina_embeddings_v3", jina::parse, &[]),
];

impl EncoderSpec {
    /// Reads a `config.json`, as transformers 4 and 5 write it; `path` is for messages.
    ///
    /// # Errors
    /// When it is not one, its `model_type` is not supported, a number in it is absurd, or a key might change the answer
    /// and is not supported; the message names the key.
    pub fn parse(config: &[u8], path: &Path) -> Result<EncoderSpec> {
        let config = Config::parse(config, path)?;
        let model_type = config.text("model_type", "")?;
        let Some(family) = FAMILIES.iter().find(|f| f.model_type == model_type) else {
            let known: Vec<&str> = FAMILIES.iter().map(|f| f.model_type).collect();
            return Err(Error::unsupported(
                path,
                format!("model_type {model_type:?}"),
                format!("the families are {}", known.join(", ")),
            ));
        };
        config.encoder_only(family.harmless.contains(&"auto_map"))?;
        let mut spec = (family.parse)(&config)?;
        spec.family = family.model_type.to_owned();
        spec.own_head = labels::own_head(&config)?;
        spec.labels = labels::labels(&config, spec.own_head)?;
        spec.problem = labels::problem(&config)?;
        config.finish(family.model_type, family.harmless)?;
        Ok(spec)
    }
}

/// Everything the forward pass needs to know about an encoder besides its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// `model_type` of the configuration; for people, never branched on.
    pub family: String,
    /// Rows of the word embedding table.
    pub vocab: usize,
    /// Hidden width H.
    pub hidden: usize,
    /// Attention heads N; the head width D is `hidden / heads`.
    pub heads: usize,
    /// Feed-forward width F.
    pub ffn: usize,
    /// The most tokens of one sequence, special tokens included.
    pub max_tokens: usize,
    /// Id of the padding token.
    pub pad_id: u32,
    /// Epsilon of every layer norm.
    pub norm_eps: f32,
    /// The embedding layer.
    pub embed: EmbedSpec,
    /// One entry a layer, first to last.
    pub layers: Vec<LayerSpec>,
    /// A norm after the last layer (pre-norm encoders).
    pub final_norm: bool,
    /// Tensor and module names.
    pub names: Names,
    /// How this family's sequence classifier is built.
    pub sequence_head: HeadSpec,
    /// How this family's token classifier is built.
    pub token_head: HeadSpec,
    /// What the checkpoint's own head is, when `architectures` names one.
    pub own_head: Option<OwnHead>,
    /// Labels of the checkpoint's own head, by index (`id2label`).
    pub labels: Vec<String>,
    /// `problem_type` of the configuration, where it says one.
    pub problem: Option<Problem>,
}

/// The head that a checkpoint itself carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnHead {
    /// `...ForSequenceClassification`
    Sequence,
    /// `...ForTokenClassification`
    Token,
}

/// What the outputs of a sequence classifier mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// One real number (one output); the score is the logit itself.
    Regression,
    /// Exactly one label holds: softmax.
    SingleLabelClassification,
    /// Any number of labels hold: a sigmoid each.
    MultiLabelClassification,
}

/// The embedding layer.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedSpec {
    /// Width of the tables.
    pub width: usize,
    /// Whether a projection to `hidden`, with a bias, follows the norm. Always where the widths differ.
    pub project: bool,
    /// Learned positions, if any.
    pub positions: Positions,
    /// Rows of the token-type table; 0 where there is none.
    pub types: usize,
    /// A layer norm over the sum.
    pub norm: bool,
    /// Whether layer norms (all of the encoder's) have a bias.
    pub norm_bias: bool,
}

/// Learned positions of the embedding layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// None: the attention knows of positions.
    None,
    /// A table, the first token at row 0.
    FromZero {
        /// Rows of the table.
        rows: usize,
    },
    /// A table, the first token at row `pad + 1`; a pad token inside a text stands at row `pad` and is not counted.
    FromPad {
        /// Rows of the table.
        rows: usize,
    },
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// Where the norms stand.
    pub order: Order,
    /// What attention knows of positions.
    pub position: Position,
    /// Local attention: a token sees those at most this far away. `None`: all.
    pub window: Option<usize>,
    /// The feed-forward block.
    pub mlp: Mlp,
    /// Its activation.
    pub activation: Activation,
    /// Whether the linears have biases; the first of the feed-forward block says so itself.
    pub bias: bool,
    /// Whether the first linear of the feed-forward block has one.
    pub mlp_in_bias: bool,
    /// Whether the norm before attention exists (pre-norm: absent in ModernBERT's first layer).
    pub attn_norm: bool,
    /// What takes the place of `{}` in its tensors' names: its own index, or a smaller one where layers share.
    pub weights_of: usize,
}

/// Where a layer's norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `x = norm(x + f(x))`
    Post,
    /// `x = x + f(norm(x))`
    Pre,
}

/// What attention itself knows of positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// Nothing: positions are in the embeddings.
    Absolute,
    /// Rotary embedding of q and k (rotated halves).
    Rotary {
        /// Base of the frequencies.
        theta: f32,
        /// What every frequency is divided by; 1 but where positions are scaled to a longer context.
        stretch: f32,
    },
    /// DeBERTa's disentangled relative attention.
    Relative(Relative),
    /// A learned bias a head for each bucket of distance, one table for all layers (MPNet).
    Bucketed {
        /// Rows of the table.
        buckets: usize,
        /// Distance at which the last bucket begins.
        max_distance: usize,
    },
}

/// Facts of DeBERTa's relative attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relative {
    /// Buckets on each side (`position_buckets`); 0 or less in a config means distances are not bucketed.
    pub buckets: usize,
    /// Largest distance told apart (`max_relative_positions`).
    pub max_distance: usize,
    /// Content to position.
    pub c2p: bool,
    /// Position to content.
    pub p2c: bool,
    /// Positions go through the layer's own q and k projections.
    pub shared_keys: bool,
    /// The table of relative embeddings is normed.
    pub norm: bool,
}

/// The feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mlp {
    /// `out(act(in(x)))`
    Plain,
    /// `out(act(a) * b)` with `a | b` = in(x), of width 2F: the activated half first.
    Gated,
    /// `out(a * act(b))` with `a | b` = in(x), of width 2F: the activated half second.
    GatedSecond,
}

#[cfg(test)]
mod tests;
