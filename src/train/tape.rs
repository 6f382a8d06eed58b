//! The hook that remembers: what backward reads of a forward pass, and dropout.
//!
//! Memory is linear in tokens: one matrix a place and layer, kept from step to step; recomputing, one a layer. Dropout zeroes elements with
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
    /// Where nothing but the layers' outputs is kept: which layer is run again, once forward is done.
    again: Option<Option<usize>>,
    dropout: f32,
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
            dropout: 0.0,
            key: 0,
        }
    }

    /// Begins a pass. Drops a share `p` of the elements that each half (and the embedding) adds; `key` is the step's.
    pub fn start(&mut self, p: f32, key: u64) {
        (self.dropout, self.key) = (p, key);
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

    fn mask(&self, place: Place, layer: usize, mut x: MatMut<'_>) {
        let name = [place as u64, layer as u64];
        let key = name.iter().fold(self.key, |k, &n| random::word(k, n));
        // Sixteen bits an element, four elements a word: shares are as good as 1 / 65536.
        let limit = (f64::from(self.dropout) * 65536.0).round() as u64;
        let scale = (65536.0 / (65536 - limit) as f64) as f32;
        let words = x.cols().div_ceil(4);
        for r in 0..x.rows() {
            for (c, four) in x.row_mut(r).chunks_mut(4).enumerate() {
                let word = random::word(key, (r * words + c) as u64);
                for (i, v) in four.iter_mut().enumerate() {
                    let kept = (word >> (16 * i)) & 0xffff >= limit;
                    *v *= if kept { scale } else { 0.0 };
                }
            }
        }
    }
}

impl Hook for Tape {
    fn at(&mut self, place: Place, layer: usize, mut x: MatMut<'_>) {
        if self.changes(place) {
            self.mask(place, layer, x.reborrow());
        }
        if let Some(number) = self.keeps(place, layer) {
            let to = self.kept.entry((place, number)).or_default();
            to.reshape(x.rows(), x.cols()).copy_from(x.as_ref());
        }
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
        self.dropout > 0.0 && matches!(place, Place::Embedded | Place::AttnOut | Place::MlpOut)
    }

    fn backward(&self, place: Place, layer: usize, d: MatMut<'_>) {
        if self.changes(place) {
            self.mask(place, layer, d);
        }
    }
}
