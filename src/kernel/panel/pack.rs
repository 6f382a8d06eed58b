//! Packing weights into panels, and back.

use std::ops::Range;

use super::{PanelShape, Precision, WIDTH};
use crate::mat::{Mat, MatMut};

/// Byte offset of the word that holds column `c` of `panel` at step `step`.
fn word(shape: &PanelShape, panel: usize, step: usize, c: usize) -> usize {
    panel * shape.panel_bytes() + shape.header() + (step * shape.stored_columns(panel) + c) * 4
}

/// Packs `w [n x k]`, row by row as a checkpoint stores it, into `out` of `shape.bytes()` bytes.
///
/// # Panics
/// When `w` or `out` has another shape.
pub fn pack(w: Mat<'_>, shape: PanelShape, out: &mut [u8]) {
    assert_eq!(
        (w.rows(), w.cols(), out.len()),
        (shape.n, shape.k, shape.bytes())
    );
    assert_eq!(shape.precision, Precision::F32);
    out.fill(0);
    for col in 0..shape.n {
        let (panel, c) = (col / WIDTH, col % WIDTH);
        for (step, &x) in w.row(col).iter().enumerate() {
            out[word(&shape, panel, step, c)..][..4].copy_from_slice(&x.to_ne_bytes());
        }
    }
}

/// Writes the weights that `bytes` packs to `to [n x k]`; `bf16` exactly, `int8` dequantised.
pub fn unpack(bytes: &[u8], shape: PanelShape, mut to: MatMut<'_>) {
    assert_eq!(
        (to.rows(), to.cols(), bytes.len()),
        (shape.n, shape.k, shape.bytes())
    );
    for col in 0..shape.n {
        let (panel, c) = (col / WIDTH, col % WIDTH);
        for (step, x) in to.row_mut(col).iter_mut().enumerate() {
            let b = &bytes[word(&shape, panel, step, c)..];
            *x = f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        }
    }
}

/// Adds `delta` to the output columns `rows` of a packed weight, in place.
pub fn add_to(bytes: &mut [u8], shape: PanelShape, rows: Range<usize>, delta: Mat<'_>) {
    assert_eq!(
        (delta.rows(), delta.cols(), bytes.len()),
        (rows.len(), shape.k, shape.bytes())
    );
    for (i, col) in rows.enumerate() {
        let (panel, c) = (col / WIDTH, col % WIDTH);
        for (step, &d) in delta.row(i).iter().enumerate() {
            let b = &mut bytes[word(&shape, panel, step, c)..][..4];
            let x = f32::from_ne_bytes([b[0], b[1], b[2], b[3]]) + d;
            b.copy_from_slice(&x.to_ne_bytes());
        }
    }
}
