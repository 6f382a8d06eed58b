//! The hook that remembers: what backward reads of a forward pass, and dropout.
//!
//! Memory is linear in tokens: one matrix a place and layer, kept from step to step; recomputing, one a layer. Masks of dropout are
//! functions of the step's key and of where they are, so backward makes the same again and none is stored.

use std::collections::HashMap;

use super::random;
use crate::{
    kernel::dropout::Dropout,
    mat::{Mat, MatMut, Matrix},
    model::{Hook, Place, backward::Recorded},
    spec::Order,
};

/// Shares of elements that are dropped in training, each from 0 to below 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Shares {
    /// Of what each half (and the embedding) adds to the residual stream.
    pub hidden: f32,
    /// Of the inputs that A reads.
    pub factors: f32,
    /// Of attention weights.
    pub attention: f32,
}

/// A recording of one forward pass.
#[derive(Debug)]
pub struct Tape {
    kept: HashMap<(Place, usize), Matrix>,
    order: Order,
    /// Where nothing but the layers' outputs is kept: which layer is run again, once forward is done.
    again: Option<Option<usize>>,
    shares: Shares,
    key: u64,
}

impl Tape {
    /// Records what an encoder of this order of norms needs; with `recompute` its layers' outputs alone, and one layer's
    /// more at a time.
    pub fn new(order: Order, recompute: bool) -> Self {
        Self {
            kept: HashMap::new(),
            order,
            again: recompute.then_some(None),
            shares: Shares::default(),
            key: 0,
        }
    }

    /// Begins a pass with these shares dropped; `key` is the step's.
    pub fn start(&mut self, shares: Shares, key: u64) {
        (self.shares, self.key) = (shares, key);
        self.again = self.again.map(|_| None);
    }

    /// Bytes that it holds on to.
    pub fn bytes(&self) -> usize {
        4 * self
            .kept
            .values()
            .map(|m| m.as_slice().len())
            .sum::<usize>()
    }

    /// Under which layer's number what is at `place` of `layer` is kept, if it is.
    ///
    /// Inputs of linears that a norm or an activation makes from what is kept here are made again.
    fn keeps(&self, place: Place, layer: usize) -> Option<usize> {
        let stream = matches!(place, Place::LayerOut | Place::Embedded);
        let inside = match place {
            Place::Qkv | Place::Context | Place::AttnSum | Place::MlpIn => true,
            Place::MlpSum => self.order == Order::Post,
            _ => false,
        };
        match self.again {
            None => {
                let stream = stream && (self.order == Order::Pre || place == Place::Embedded);
                (stream || inside).then_some(layer)
            }
            Some(None) => stream.then_some(layer),
            // One layer's buffers serve all.
            Some(Some(again)) => (inside && layer == again).then_some(0),
        }
    }

    /// A key for one use of randomness under the step's: no two of (kind, layer, number) have the same.
    fn key(&self, kind: u64, layer: usize, number: usize) -> u64 {
        let name = [kind, layer as u64, number as u64];
        name.iter().fold(self.key, |k, &n| random::word(k, n))
    }

    fn mask(&self, place: Place, layer: usize) -> Option<Dropout> {
        let dropped = matches!(place, Place::Embedded | Place::AttnOut | Place::MlpOut);
        let key = || self.key(HIDDEN, layer, place as usize);
        dropped.then(|| Dropout::new(self.shares.hidden, key()))?
    }
}

/// What a key is for.
const HIDDEN: u64 = 0;
const FACTORS: u64 = 1;
const ATTENTION: u64 = 2;

impl Hook for Tape {
    fn at(&mut self, place: Place, layer: usize, mut x: MatMut<'_>) {
        if let Some(mask) = self.mask(place, layer) {
            mask.rows(x.reborrow());
        }
        if let Some(number) = self.keeps(place, layer) {
            let to = self.kept.entry((place, number)).or_default();
            to.reshape(x.rows(), x.cols()).copy_from(x.as_ref());
        }
    }

    fn factor_dropout(&self, layer: usize, slot: usize) -> Option<Dropout> {
        Dropout::new(self.shares.factors, self.key(FACTORS, layer, slot))
    }

    fn attention_dropout(&self, layer: usize, sequence: usize) -> Option<Dropout> {
        Dropout::new(self.shares.attention, self.key(ATTENTION, layer, sequence))
    }
}

impl Tape {
    fn find(&self, place: Place, layer: usize) -> Option<&Matrix> {
        let stream = matches!(place, Place::LayerOut | Place::Embedded);
        let number = match self.again {
            Some(again) if !stream => (again == Some(layer)).then_some(0)?,
            _ => layer,
        };
        self.kept.get(&(place, number))
    }
}

impl Recorded for Tape {
    fn kept(&self, place: Place, layer: usize) -> Mat<'_> {
        let kept = self.find(place, layer);
        kept.expect("a place that backward reads is recorded")
            .view()
    }

    fn has(&self, place: Place, layer: usize) -> bool {
        self.find(place, layer).is_some()
    }

    fn recomputes(&self) -> bool {
        self.again.is_some()
    }

    fn turn_to(&mut self, layer: usize) {
        self.again = Some(Some(layer));
    }

    fn changes(&self, place: Place) -> bool {
        self.mask(place, 0).is_some()
    }

    fn backward(&self, place: Place, layer: usize, d: MatMut<'_>) {
        if let Some(mask) = self.mask(place, layer) {
            mask.rows(d);
        }
    }
}
