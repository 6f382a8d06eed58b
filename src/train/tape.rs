//! The hook that remembers: what backward reads of a forward pass, and dropout.
//!
//! Memory is linear in tokens: one matrix a place and layer, kept from step to step. Dropout zeroes elements with
//! a mask that is a function of a key and the element's number, so backward makes the same mask again and none is
//! stored.

use std::collections::HashMap;

use super::random;
use crate::{
    mat::{Mat, MatMut, Matrix},
    model::{Hook, Place, backward::Recorded},
    spec::Order,
};

/// A recording of one forward pass.
#[derive(Debug)]
pub struct Tape {
    kept: HashMap<(Place, usize), Matrix>,
    order: Order,
    dropout: f32,
    key: u64,
}

impl Tape {
    /// Records what an encoder of this order of norms needs.
    pub fn new(order: Order) -> Self {
        Self {
            kept: HashMap::new(),
            order,
            dropout: 0.0,
            key: 0,
        }
    }

    /// Drops a share `p` of the elements that each half (and the embedding) adds, from here on; `key` is the step's.
    pub fn drop_out(&mut self, p: f32, key: u64) {
        (self.dropout, self.key) = (p, key);
    }

    fn keeps(&self, place: Place) -> bool {
        match place {
            Place::AttnInput
            | Place::Qkv
            | Place::Context
            | Place::AttnSum
            | Place::MlpInput
            | Place::MlpIn
            | Place::MlpActive => true,
            Place::MlpSum => self.order == Order::Post,
            Place::LayerOut | Place::Embedded => self.order == Order::Pre,
            Place::AttnOut | Place::MlpOut | Place::Encoded => false,
        }
    }

    fn mask(&self, place: Place, layer: usize, mut x: MatMut<'_>) {
        let name = [place as u64, layer as u64];
        let key = name.iter().fold(self.key, |k, &n| random::word(k, n));
        let limit = (f64::from(self.dropout) * 2f64.powi(32)) as u64;
        let scale = 1.0 / (1.0 - self.dropout);
        let width = x.cols();
        for r in 0..x.rows() {
            for (c, v) in x.row_mut(r).iter_mut().enumerate() {
                let low = random::word(key, (r * width + c) as u64) >> 32;
                *v = if low < limit { 0.0 } else { *v * scale };
            }
        }
    }
}

impl Hook for Tape {
    fn at(&mut self, place: Place, layer: usize, mut x: MatMut<'_>) {
        if self.changes(place) {
            self.mask(place, layer, x.reborrow());
        }
        if self.keeps(place) {
            let to = self.kept.entry((place, layer)).or_default();
            to.reshape(x.rows(), x.cols()).copy_from(x.as_ref());
        }
    }
}

impl Recorded for Tape {
    fn at(&self, place: Place, layer: usize) -> Mat<'_> {
        let kept = self.kept.get(&(place, layer));
        kept.expect("a place that backward reads is recorded")
            .view()
    }

    fn changes(&self, place: Place) -> bool {
        self.dropout > 0.0 && matches!(place, Place::Embedded | Place::AttnOut | Place::MlpOut)
    }

    fn backward(&self, place: Place, layer: usize, d: MatMut<'_>) {
        if self.changes(place) {
            self.mask(place, layer, d);
        }
    }
}
