//! The base's own parameters, to be trained: their names and places, their values, and how a model takes new ones.
//!
//! A model that serves is frozen. One that trains biases, norms or weights is a [`Model::fork`] of its own, whose values
//! [`Model::change`] replaces between steps: the forward pass knows nothing of it. Linears are taken whole, as they
//! are fused.
//!
//! Not trained by anything here: tables of relative positions and their norm.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{
    Model,
    attention::LayerPositions,
    norm::Norm,
    reader::find,
    sites::{at_layer, linear_plans},
};
use crate::{
    error::{Error, Result},
    kernel::panel::{PanelShape, Precision, pack},
    mat::{Mat, Matrix},
};

/// Kinds of the base's parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BaseKinds {
    /// Biases of the linears.
    pub biases: bool,
    /// Weights and biases of the norms.
    pub norms: bool,
    /// Weights of the linears.
    pub weights: bool,
    /// Tables of words, positions and token types.
    pub embeddings: bool,
}

impl BaseKinds {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// A norm of the encoder; layers by the number of their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NormAt {
    /// Of the embedding layer.
    Embedding,
    /// Of the attention half.
    Attention(usize),
    /// Of the feed-forward half.
    Mlp(usize),
    /// After the last layer.
    Final,
}

/// A table of the embedding layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableAt {
    /// Words.
    Word,
    /// Positions.
    Position,
    /// Token types.
    Types,
}

/// Where a parameter of the base is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseAt {
    /// The weight in a slot, `[N x K]`.
    Weight(usize),
    /// The bias of the linear in a slot, `[1 x N]`.
    Bias(usize),
    /// The weight of a norm, `[1 x H]`.
    Gamma(NormAt),
    /// The bias of a norm, `[1 x H]`.
    Beta(NormAt),
    /// A table, `[rows x E]`.
    Table(TableAt),
}

/// One parameter of the base.
#[derive(Debug, Clone)]
pub struct BaseParameter {
    /// The tensors that it is made of, row after row, as this checkpoint spells them.
    pub names: Vec<String>,
    /// Where it is.
    pub at: BaseAt,
}

/// Gradients of the base's parameters, those that are trained.
#[derive(Debug, Clone, Default)]
pub struct BaseGradients {
    /// By slot, `[N x K]`.
    pub weights: Vec<Option<Matrix>>,
    /// By slot, `[1 x N]`.
    pub biases: Vec<Option<Matrix>>,
    /// Weight and bias of a norm, `[1 x H]` each; the bias unused where there is none.
    pub norms: BTreeMap<NormAt, (Matrix, Matrix)>,
    /// `[rows x E]`
    pub tables: BTreeMap<TableAt, Matrix>,
}

impl BaseGradients {
    /// Zeros for all of `kinds` that `model` has.
    pub fn zeros(model: &Model, kinds: BaseKinds) -> Self {
        let mut out = Self::default();
        let slots = model.packed.slots();
        if kinds.weights {
            let shapes = (0..slots).map(|s| model.packed.shape(s));
            out.weights = shapes.map(|s| Some(Matrix::zeros(s.n, s.k))).collect();
        }
        if kinds.biases {
            out.biases = vec![None; slots];
            for linear in model.linears() {
                if let (Some(slot), Some(bias)) = (linear.slot, &linear.bias) {
                    out.biases[slot] = Some(Matrix::zeros(1, bias.len()));
                }
            }
        }
        if kinds.norms {
            let zeros = |n: &Norm| {
                let row = || Matrix::zeros(1, n.gamma.len());
                (row(), row())
            };
            out.norms = model.norms().map(|(at, n)| (at, zeros(n))).collect();
        }
        if kinds.embeddings {
            let tables = model.embedding.tables();
            out.tables = tables
                .map(|(at, rows, cols)| (at, Matrix::zeros(rows, cols)))
                .collect();
        }
        out
    }

    /// The gradient of one parameter, taken out.
    ///
    /// # Panics
    /// When it is not among those that are trained.
    pub fn take(&mut self, at: BaseAt) -> Matrix {
        let taken = match at {
            BaseAt::Weight(slot) => self.weights[slot].take(),
            BaseAt::Bias(slot) => self.biases[slot].take(),
            BaseAt::Gamma(at) => self.norms.get_mut(&at).map(|n| std::mem::take(&mut n.0)),
            BaseAt::Beta(at) => self.norms.get_mut(&at).map(|n| std::mem::take(&mut n.1)),
            BaseAt::Table(at) => self.tables.remove(&at),
        };
        taken.expect("every trained parameter has a gradient")
    }

    /// Every matrix, in an order that depends on what is trained alone.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Matrix> {
        let linears = self.weights.iter_mut().chain(&mut self.biases).flatten();
        let norms = self.norms.values_mut().flat_map(|(g, b)| [g, b]);
        linears.chain(norms).chain(self.tables.values_mut())
    }
}

impl Model {
    /// The base's parameters of these kinds.
    ///
    /// # Errors
    /// Weights of an int8 base, which rounding would freeze.
    pub fn base_parameters(&self, kinds: BaseKinds) -> Result<Vec<BaseParameter>> {
        if kinds.weights && self.packed.precision() == Precision::Int8 {
            return Err(Error::unsupported(
                self.tensors.path(),
                "training int8 weights",
                "a step is smaller than their rounding; train at f32 or bf16",
            ));
        }
        let (names, mut out) = (&self.spec.names, Vec::new());
        let mut push = |modules: &[String], part: &str, at| {
            let names = modules.iter().map(|m| {
                let name = format!("{}{m}.{part}", self.prefix);
                find(&self.tensors, &self.spec, &name).unwrap_or(name)
            });
            let names = names.collect();
            out.push(BaseParameter { names, at });
        };
        if kinds.embeddings {
            for (at, ..) in self.embedding.tables() {
                let name = match at {
                    TableAt::Word => names.word,
                    TableAt::Position => names.position,
                    TableAt::Types => names.types,
                };
                push(&[name.to_owned()], "weight", BaseAt::Table(at));
            }
        }
        for (slot, plan) in linear_plans(&self.spec).iter().enumerate() {
            if kinds.weights {
                push(&plan.modules, "weight", BaseAt::Weight(slot));
            }
            let linear = self.linears().find(|l| l.slot == Some(slot));
            if kinds.biases && linear.is_some_and(|l| l.bias.is_some()) {
                push(&plan.modules, "bias", BaseAt::Bias(slot));
            }
        }
        if kinds.norms {
            for (at, norm) in self.norms() {
                let module = match at {
                    NormAt::Embedding => names.embed_norm.to_owned(),
                    NormAt::Attention(layer) => at_layer(names.attn_norm, layer),
                    NormAt::Mlp(layer) => at_layer(names.mlp_norm, layer),
                    NormAt::Final => names.final_norm.to_owned(),
                };
                push(std::slice::from_ref(&module), "weight", BaseAt::Gamma(at));
                if norm.beta.is_some() {
                    push(&[module], "bias", BaseAt::Beta(at));
                }
            }
        }
        Ok(out)
    }

    /// The values of a parameter in the checkpoint, f32: vectors as one row.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn base_value(&self, parameter: &BaseParameter) -> Result<Matrix> {
        let (mut data, mut rows, mut cols) = (Vec::new(), 0, 0);
        for name in &parameter.names {
            let tensor = self.tensors.get(name);
            let tensor = tensor.expect("the loader found every tensor of the base");
            data.extend(tensor.values(tensor.shape)?);
            match *tensor.shape {
                [n, k] => (rows, cols) = (rows + n, k),
                _ => (rows, cols) = (1, data.len()),
            }
        }
        Ok(Matrix::from_vec(data, rows, cols))
    }

    /// Puts new values in place; what is made from them (projected tables of relative positions) follows.
    ///
    /// # Panics
    /// When a shape is another.
    pub fn change(&mut self, changes: &[(BaseAt, Mat<'_>)]) {
        let (mut weights, mut linears) = (BTreeMap::new(), false);
        for &(at, value) in changes {
            linears |= matches!(at, BaseAt::Weight(_) | BaseAt::Bias(_));
            match at {
                BaseAt::Weight(slot) => {
                    weights.insert(slot, value);
                }
                BaseAt::Bias(slot) => {
                    for linear in self.linears_mut().filter(|l| l.slot == Some(slot)) {
                        linear.bias = Some(value.row(0).to_vec());
                    }
                }
                BaseAt::Gamma(norm) => {
                    let to = self.norms_mut().filter(|(at, _)| *at == norm);
                    to.for_each(|(_, n)| n.gamma = value.row(0).into());
                }
                BaseAt::Beta(norm) => {
                    let to = self.norms_mut().filter(|(at, _)| *at == norm);
                    to.for_each(|(_, n)| n.beta = Some(value.row(0).into()));
                }
                BaseAt::Table(at) => self.embedding.set_table(at, value),
            }
        }
        let shapes: Vec<PanelShape> = (0..self.packed.slots())
            .map(|s| self.packed.shape(s))
            .collect();
        let panels = self.packed.all_panels_mut();
        panels.into_par_iter().enumerate().for_each(|(slot, to)| {
            if let Some(value) = weights.get(&slot) {
                pack(*value, shapes[slot], to);
            }
        });
        if linears {
            self.project_positions();
        }
    }

    /// The base's projections of relative positions, from the linears as they are now.
    fn project_positions(&mut self) {
        for i in 0..self.blocks.len() {
            let block = &self.blocks[i];
            let LayerPositions::Relative(relative) = &block.positions else {
                continue;
            };
            let base = relative.project(block, &self.packed, self.spec.heads, None);
            if let LayerPositions::Relative(relative) = &mut self.blocks[i].positions {
                relative.base = base.into();
            }
        }
    }

    /// Every linear, those of layers that share weights more than once.
    pub(super) fn linears(&self) -> impl Iterator<Item = &super::linear::Linear> {
        let blocks = self.blocks.iter().flat_map(|b| {
            let linears = [&b.qkv, &b.attn_out, &b.mlp_in, &b.mlp_out];
            linears.into_iter().chain(&b.own_positions)
        });
        self.embedding.linear().into_iter().chain(blocks)
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut super::linear::Linear> {
        let blocks = self.blocks.iter_mut().flat_map(|b| {
            let linears = [&mut b.qkv, &mut b.attn_out, &mut b.mlp_in, &mut b.mlp_out];
            linears.into_iter().chain(&mut b.own_positions)
        });
        self.embedding.linear_mut().into_iter().chain(blocks)
    }

    /// Every norm once.
    fn norms(&self) -> impl Iterator<Item = (NormAt, &Norm)> {
        let mut found: BTreeMap<NormAt, &Norm> = BTreeMap::new();
        found.extend(self.embedding.norm().map(|n| (NormAt::Embedding, n)));
        for b in &self.blocks {
            let layer = b.spec.weights_of;
            found.extend(b.attn_norm.as_ref().map(|n| (NormAt::Attention(layer), n)));
            found.insert(NormAt::Mlp(layer), &b.mlp_norm);
        }
        found.extend(self.final_norm.as_ref().map(|n| (NormAt::Final, n)));
        found.into_iter()
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = (NormAt, &mut Norm)> {
        let embedding = self.embedding.norm_mut().map(|n| (NormAt::Embedding, n));
        let blocks = self.blocks.iter_mut().flat_map(|b| {
            let layer = b.spec.weights_of;
            let attention = b.attn_norm.as_mut().map(|n| (NormAt::Attention(layer), n));
            [attention, Some((NormAt::Mlp(layer), &mut b.mlp_norm))]
        });
        let last = self.final_norm.as_mut().map(|n| (NormAt::Final, n));
        embedding.into_iter().chain(blocks.flatten()).chain(last)
    }
}
