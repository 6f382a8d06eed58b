//! A packed weight on the heap, aligned for vector loads: adapter factors and heads.
//!
//! Base linears are not held here: theirs live in a mapped file (`weights::Packed`).

use super::{PanelShape, Panels, Precision, pack, unpack};
use crate::mat::{Mat, Matrix};

/// One cache line; a vector of them is 64-byte aligned.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A packed weight that owns its bytes.
#[derive(Debug, Clone)]
pub struct OwnedPanels {
    lines: Vec<Line>,
    shape: PanelShape,
}

impl OwnedPanels {
    /// Packs `w [n x k]`; `tight` as in [`PanelShape`].
    pub fn pack(w: Mat<'_>, precision: Precision, tight: bool) -> Self {
        let shape = PanelShape {
            n: w.rows(),
            k: w.cols(),
            precision,
            tight,
        };
        let mut lines = vec![Line([0; 64]); shape.bytes().div_ceil(64)];
        // SAFETY: `Line` is 64 plain bytes without padding, so a slice of lines is a slice of bytes.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), lines.len() * 64)
        };
        pack(w, shape, &mut bytes[..shape.bytes()]);
        Self { lines, shape }
    }

    /// The weight as the kernels take it.
    pub fn view(&self) -> Panels<'_> {
        Panels::new(self.bytes(), self.shape)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: as in `pack`.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.lines.as_ptr().cast::<u8>(), self.lines.len() * 64)
        };
        &bytes[..self.shape.bytes()]
    }

    /// The weight again, `[n x k]`.
    pub fn unpack(&self) -> Matrix {
        let mut out = Matrix::zeros(self.shape.n, self.shape.k);
        unpack(self.bytes(), self.shape, out.view_mut());
        out
    }

    /// Its shape.
    pub fn shape(&self) -> PanelShape {
        self.shape
    }

    /// Heap bytes it holds.
    pub fn heap_bytes(&self) -> usize {
        self.lines.len() * 64
    }
}
