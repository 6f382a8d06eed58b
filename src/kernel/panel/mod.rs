//! Products against weights packed in panels of 16 output columns: one layout for every instruction set.
//!
//! `y = epilogue(init + x Wt)`, where `W [n x k]` was packed once ([`pack`]) and is read for ever after,
//! usually from a mapped file. A panel holds 16 output columns, K running slowest: a *step* of K is 16
//! words of 32 bits, each one `f32`, a pair of `bf16` or a quad of `i8` of one column, which is what
//! FMA, VDPBF16PS and VPDPBUSD take. K is padded with zeros to whole steps, the last panel to 16 columns.
//!
//! | precision | a step | header of a panel |
//! |---|---|---|
//! | `F32`  | 1 k | none |
//! | `Bf16` | 2 k | none |
//! | `Int8` | 4 k | 16 scales (`f32`), 16 column sums (`i32`): a panel's bytes stand alone |
//!
//! A panel starts at a multiple of 64 bytes from the first. A *tight* weight (small adapter factors) stores
//! only the real columns of its last panel, and 64 spare bytes at its end because steps are read whole.
//!
//! Every product runs on the calling thread; split rows ([`Mat::row_range`]) or columns
//! ([`Panels::panel_range`]) over threads: no split changes a bit of the answer.
//!
//! Not here: products of two activations (see `kernel::gemm`), threads, files.
#![allow(unsafe_code)] // micro-kernels work on addresses; shapes are asserted once per product

mod bf16;
mod dot;
mod drive;
mod f32;
mod int8;
mod merge;
#[cfg(target_arch = "aarch64")]
mod neon;
mod owned;
mod pack;
mod quantise;
mod scratch;
mod tile;
mod words;

use std::{cell::Cell, ops::Range};

use drive::{Job, Low};

pub use merge::{Piece, add_low_rank, pieces};
pub use owned::OwnedPanels;
pub use pack::{pack, unpack};

use crate::{
    kernel::activation::Activation,
    mat::{Mat, MatMut, Matrix},
    simd::{self, Level},
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

impl Precision {
    /// How products of two activations (attention) are made beside weights of this precision: in `bf16` where weights
    /// are no more exact than that and this CPU multiplies `bf16` itself, else in `f32`.
    pub fn between_activations(self) -> Precision {
        match self {
            Precision::Bf16 | Precision::Int8 if bf16::native(simd::level()) => Precision::Bf16,
            _ => Precision::F32,
        }
    }
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

    /// Steps of K.
    fn steps(&self) -> usize {
        match self.precision {
            Precision::F32 => self.k,
            Precision::Bf16 => self.k.div_ceil(2),
            Precision::Int8 => self.k.div_ceil(4),
        }
    }

    /// Bytes before a panel's first step.
    fn header(&self) -> usize {
        match self.precision {
            Precision::Int8 => 2 * WIDTH * 4,
            _ => 0,
        }
    }

    /// Bytes of a whole panel: a multiple of 64.
    fn panel_bytes(&self) -> usize {
        self.header() + self.steps() * WIDTH * 4
    }

    /// Columns that a step of `panel` stores.
    fn stored_columns(&self, panel: usize) -> usize {
        if self.tight {
            (self.n - panel * WIDTH).min(WIDTH)
        } else {
            WIDTH
        }
    }

    /// Where the panels of `columns` lie in a weight that is not tight.
    pub fn bytes_of(&self, columns: &Range<usize>) -> Range<usize> {
        let panels = columns.start / WIDTH..columns.end.div_ceil(WIDTH);
        panels.start * self.panel_bytes()..panels.end * self.panel_bytes()
    }

    /// Bytes of the packed weight.
    pub fn bytes(&self) -> usize {
        let whole = self.n / WIDTH * self.panel_bytes();
        match (self.tight, self.n % WIDTH) {
            (false, _) => self.panels() * self.panel_bytes(),
            (true, 0) => whole + WIDTH * 4,
            (true, left) => whole + self.header() + self.steps() * left * 4 + WIDTH * 4,
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

    /// Its bytes, as packed.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The panels in `range` as a weight of their own (columns `16 * range.start ..`).
    ///
    /// # Panics
    /// When the range is not inside `0..shape().panels()`.
    pub fn panel_range(&self, range: Range<usize>) -> Panels<'a> {
        let (shape, panels) = (self.shape, self.shape.panels());
        assert!(
            range.start <= range.end && range.end <= panels,
            "panels {range:?} of {panels}"
        );
        let n = (range.end * WIDTH)
            .min(shape.n)
            .saturating_sub(range.start * WIDTH);
        // Without the last panel nothing is tight: neither its steps nor the spare bytes are part.
        let tight = shape.tight && range.end == panels && !range.is_empty();
        let part = PanelShape { n, tight, ..shape };
        let start = if range.is_empty() {
            0
        } else {
            range.start * shape.panel_bytes()
        };
        let bytes = &self.bytes[start..];
        Panels {
            bytes: &bytes[..part.bytes()],
            shape: part,
        }
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

/// A low-rank update as extra K: `scale t Upt` is added after the weight's own sum and before the activation.
#[derive(Debug, Clone, Copy)]
pub struct Extra<'a> {
    /// `[m x R]`: the activations times the adapter's first factor.
    pub t: Mat<'a>,
    /// `[n x R]`, always `f32`.
    pub up: Panels<'a>,
    /// Multiplies `t` (rounded to `f32` before the chain).
    pub scale: f32,
}

/// A low-rank update of a rectangle of `y`, as [`Extra`] with scale 1: a batch has several, one a task and site.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Rows of `y`.
    pub rows: Range<usize>,
    /// Columns of `y`: from a multiple of 16 to another, or to the last column.
    pub columns: Range<usize>,
    /// `[rows x R]`
    pub t: Mat<'a>,
    /// `[columns x R]`, `f32`, not tight.
    pub up: Panels<'a>,
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
    /// # Panics
    /// When the shapes disagree.
    ///
    /// # Accuracy
    /// An element is one chain over K in ascending order, so its bits depend on its own row of `x`, its own
    /// column of `w` and the instruction level alone: never on the number of rows in the call. In `f32` the levels
    /// with fused multiply-add agree bit for bit.
    pub fn into(self, y: MatMut<'_>) {
        self.into_at(simd::level(), None, y);
    }

    /// [`Product::into`] with a low-rank update: the bits are those of a second product with [`Init::Keep`], of
    /// `scale * t` and `up`, before activation and residual.
    pub fn into_with(self, extra: Extra<'_>, y: MatMut<'_>) {
        self.into_at(simd::level(), Some(extra), y);
    }

    /// The product at a stated level, for tests and benches.
    ///
    /// # Panics
    /// When the shapes disagree, or this CPU has not that level.
    pub fn into_at(self, level: Level, extra: Option<Extra<'_>>, y: MatMut<'_>) {
        match extra {
            None => self.dispatch(level, &[], y),
            Some(Extra { t, up, scale: 1.0 }) => self.dispatch(level, &[self.whole(t, up)], y),
            Some(Extra { t, up, scale }) => SCALED.with(|cell| {
                let mut scaled = cell.take();
                scale_into(t, scale, scaled.reshape(t.rows(), t.cols()));
                self.dispatch(level, &[self.whole(scaled.view(), up)], y);
                cell.set(scaled);
            }),
        }
    }

    /// A part that covers all of `y`.
    fn whole<'p>(&self, t: Mat<'p>, up: Panels<'p>) -> Part<'p> {
        let (rows, columns) = (0..self.x.rows(), 0..self.w.shape.n);
        Part {
            rows,
            columns,
            t,
            up,
        }
    }

    /// [`Product::into_with`] for several low-rank parts, disjoint and in row order.
    ///
    /// # Panics
    /// When shapes disagree or the parts are out of order.
    pub fn into_with_parts(self, parts: &[Part<'_>], y: MatMut<'_>) {
        self.dispatch(simd::level(), parts, y);
    }

    /// Asserts everything that the micro-kernels rely on.
    fn check(&self, parts: &[Part<'_>], y: &MatMut<'_>) {
        let (m, shape) = (self.x.rows(), self.w.shape);
        assert_eq!(
            (self.x.cols(), y.rows(), y.cols()),
            (shape.k, m, shape.n),
            "x, y and {shape:?}"
        );
        if let Init::Bias(bias) = self.init {
            assert_eq!(bias.len(), shape.n, "bias of {shape:?}");
        }
        if let Some(r) = self.residual {
            assert_eq!((r.rows(), r.cols()), (m, shape.n), "residual of {shape:?}");
        }
        let mut row = 0;
        for Part {
            rows,
            columns,
            t,
            up,
        } in parts
        {
            assert_eq!(
                (t.rows(), t.cols(), up.shape.n),
                (rows.len(), up.shape.k, columns.len()),
                "low-rank part"
            );
            assert_eq!(up.shape.precision, Precision::F32, "low-rank part");
            let whole_panels =
                columns.start % WIDTH == 0 && (columns.end % WIDTH == 0 || columns.end == shape.n);
            assert!(
                rows.start >= row && rows.end <= m && columns.end <= shape.n && whole_panels,
                "low-rank part at rows {rows:?}, columns {columns:?} of {m} x {}",
                shape.n
            );
            row = rows.start;
        }
    }

    fn dispatch(&self, level: Level, low: Low<'_>, y: MatMut<'_>) {
        self.check(low, &y);
        let (product, x) = (self, self.x);
        // SAFETY: `check` saw the shapes, and each precision makes the rows that its dots read.
        unsafe {
            match self.w.shape.precision {
                Precision::F32 => f32::with_rows(level, x, |rows| {
                    f32::run(
                        level,
                        Job::Product {
                            product,
                            low,
                            rows,
                            y,
                        },
                    )
                }),
                Precision::Bf16 => bf16::with_rows(level, x, |rows| {
                    bf16::run(
                        level,
                        Job::Product {
                            product,
                            low,
                            rows,
                            y,
                        },
                    )
                }),
                Precision::Int8 => int8::with_rows(level, x, |quantised| {
                    let rows = quantised.rows;
                    int8::run(
                        level,
                        Some(quantised),
                        Job::Product {
                            product,
                            low,
                            rows,
                            y,
                        },
                    )
                }),
            }
        };
    }
}

/// Multiplies and adds `rounds` times a tile of registers, touching no memory, and returns the number of
/// operations: timed, it gives the peak that a product at `level` is measured against.
pub fn peak(level: Level, precision: Precision, rounds: usize) -> u64 {
    // SAFETY: a peak reads no operand.
    unsafe {
        match precision {
            Precision::F32 => f32::run(level, Job::Peak(rounds)),
            Precision::Bf16 => bf16::run(level, Job::Peak(rounds)),
            Precision::Int8 => int8::run(level, None, Job::Peak(rounds)),
        }
    }
}

thread_local! {
    /// Scaled low-rank rows: grown once a thread.
    static SCALED: Cell<Matrix> = Cell::default();
}

fn scale_into(t: Mat<'_>, scale: f32, mut to: MatMut<'_>) {
    for r in 0..t.rows() {
        for (to, &x) in to.row_mut(r).iter_mut().zip(t.row(r)) {
            *to = scale * x;
        }
    }
}

#[cfg(test)]
mod tests;
