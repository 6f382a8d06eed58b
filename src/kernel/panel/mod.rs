//! Products against weights packed in panels of 16 output columns: one layout for every instruction set.
//!
//! (interface; the helper who lands the kernels replaces the naive body below)
#![allow(unsafe_code)] // micro-kernels work on addresses

mod words;

use crate::{
    kernel::activation::Activation,
    mat::{Mat, MatMut},
};

/// Output columns of a panel.
pub const WIDTH: usize = 16;

/// How the weights of a product are stored and multiplied. Activations between ops and sums are `f32` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `f32` weights, fused multiply-adds.
    F32,
    /// `bf16` weights and activations, `f32` sums.
    Bf16,
    /// Per-channel `i8` weights, per-row dynamic `u8` activations, `i32` sums, dequantised in the epilogue.
    Int8,
}

/// The shape of a packed weight `W [n x k]` (row = output column, as checkpoints store it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PanelShape {
    /// Output columns.
    pub n: usize,
    /// Input width.
    pub k: usize,
    /// Element storage.
    pub precision: Precision,
    /// When set, the last panel stores only its `n % 16` real columns (small adapter factors); else it is zero-padded to 16.
    pub tight: bool,
}

impl PanelShape {
    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(WIDTH)
    }

    /// Bytes of the packed weight.
    pub fn bytes(&self) -> usize {
        assert_eq!(self.precision, Precision::F32, "stub");
        if self.tight {
            (self.n * self.k + WIDTH) * 4
        } else {
            self.panels() * WIDTH * self.k * 4
        }
    }
}

/// A packed weight: bytes and their shape.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    bytes: &'a [u8],
    shape: PanelShape,
}

impl<'a> Panels<'a> {
    /// Views `bytes` as a packed weight.
    ///
    /// # Panics
    /// When the length is not `shape.bytes()` or the start is not aligned to 4 bytes (64 is what is fast).
    pub fn new(bytes: &'a [u8], shape: PanelShape) -> Self {
        assert_eq!(bytes.len(), shape.bytes(), "packed weight of {shape:?}");
        assert_eq!(
            bytes.as_ptr().align_offset(4),
            0,
            "packed weight must be aligned"
        );
        Self { bytes, shape }
    }

    /// Its shape.
    pub fn shape(&self) -> PanelShape {
        self.shape
    }

    /// The panels in `range` as a weight of their own (columns `16 * range.start ..`).
    pub fn panel_range(&self, range: std::ops::Range<usize>) -> Panels<'a> {
        let per = self.shape.k * WIDTH * 4;
        let n = (range.end * WIDTH).min(self.shape.n) - range.start * WIDTH;
        assert!(!self.shape.tight);
        Panels {
            bytes: &self.bytes[range.start * per..range.end * per],
            shape: PanelShape { n, ..self.shape },
        }
    }
}

/// Packs `w [n x k]`, row by row as a checkpoint stores it, into `out` of `shape.bytes()` bytes.
pub fn pack(w: Mat<'_>, shape: PanelShape, out: &mut [u8]) {
    assert_eq!(
        (w.rows(), w.cols(), out.len()),
        (shape.n, shape.k, shape.bytes())
    );
    out.fill(0);
    let mut at = 0;
    for panel in 0..shape.panels() {
        let cols = (shape.n - panel * WIDTH).min(WIDTH);
        let stride = if shape.tight { cols } else { WIDTH };
        for k in 0..shape.k {
            for c in 0..cols {
                let x = w.row(panel * WIDTH + c)[k];
                out[(at + k * stride + c) * 4..][..4].copy_from_slice(&x.to_ne_bytes());
            }
        }
        at += stride * shape.k;
    }
}

/// What the sum of a product starts from.
#[derive(Debug, Clone, Copy)]
pub enum Init<'a> {
    /// Zero.
    Zero,
    /// One value a column, `[n]`.
    Bias(&'a [f32]),
    /// What `y` holds: the product is added to it, continuing the same chain of fused multiply-adds.
    Keep,
}

/// `y = epilogue(init + x Wt)`: the operands of one product.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// Activations, `[m x k]`.
    pub x: Mat<'a>,
    /// Packed weight, `[n x k]`.
    pub w: Panels<'a>,
    /// Where the sum starts.
    pub init: Init<'a>,
    /// Applied to the finished sum.
    pub activation: Option<Activation>,
    /// Added after the activation, `[m x n]`.
    pub residual: Option<Mat<'a>>,
}

impl Product<'_> {
    /// Computes the product into `y [m x n]`, on this thread.
    ///
    /// # Accuracy
    /// An element is one chain over K in ascending order, so its bits depend on its own row of `x`, its own
    /// column of `w` and the instruction level alone: never on the number of rows in the call.
    pub fn into(&self, mut y: MatMut<'_>) {
        let shape = self.w.shape;
        assert_eq!(
            (self.x.cols(), y.rows(), y.cols()),
            (shape.k, self.x.rows(), shape.n)
        );
        for r in 0..y.rows() {
            let mut at = 0;
            for panel in 0..shape.panels() {
                let cols = (shape.n - panel * WIDTH).min(WIDTH);
                let stride = if shape.tight { cols } else { WIDTH };
                for c in 0..cols {
                    let col = panel * WIDTH + c;
                    let mut sum = match self.init {
                        Init::Zero => 0.0,
                        Init::Bias(b) => b[col],
                        Init::Keep => y.row_mut(r)[col],
                    };
                    for (k, &x) in self.x.row(r).iter().enumerate() {
                        let bytes = &self.w.bytes[(at + k * stride + c) * 4..][..4];
                        sum += x * f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                    }
                    if let Some(a) = self.activation {
                        let mut one = [sum];
                        a.apply(&mut one);
                        sum = one[0];
                    }
                    if let Some(res) = self.residual {
                        sum += res.row(r)[col];
                    }
                    y.row_mut(r)[col] = sum;
                }
                at += stride * shape.k;
            }
        }
    }
}
