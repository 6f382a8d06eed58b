//! Packing weights into panels, and back.
//!
//! A panel is written whole, step after step, from its 16 rows; words of 32 bits are built from one, two or
//! four elements of a row. `bf16` rounds to nearest, ties to even; `int8` takes a scale a column, the largest
//! magnitude over 127. Not here: adding to what is packed (`merge`).

use half::bf16;

use super::{PanelShape, Precision, WIDTH, int8};
use crate::mat::{Mat, MatMut};

/// Packs `w [n x k]`, row by row as a checkpoint stores it, into `out` of `shape.bytes()` bytes.
///
/// # Panics
/// When `w` or `out` has another shape.
pub fn pack(w: Mat<'_>, shape: PanelShape, out: &mut [u8]) {
    assert_eq!(
        (w.rows(), w.cols(), out.len()),
        (shape.n, shape.k, shape.bytes()),
        "packing {shape:?}"
    );
    out.fill(0);
    for panel in 0..shape.panels() {
        let first = panel * WIDTH;
        let rows = w.row_range(first..(first + WIDTH).min(shape.n));
        let bytes = &mut out[panel * shape.panel_bytes()..];
        let (header, words) = bytes.split_at_mut(shape.header());
        let at = Words {
            stored: shape.stored_columns(panel),
        };
        for c in 0..rows.rows() {
            let row = rows.row(c);
            match shape.precision {
                Precision::F32 => at.write(words, c, row.iter().map(|x| x.to_ne_bytes())),
                Precision::Bf16 => at.write(words, c, row.chunks(2).map(pair)),
                Precision::Int8 => {
                    let scale = column_scale(row);
                    let quads = row.chunks(4).map(|x| quad(x, scale));
                    let sum: i32 = quads.clone().flatten().map(|q| i32::from(q as i8)).sum();
                    header[4 * c..][..4].copy_from_slice(&scale.to_ne_bytes());
                    header[4 * (WIDTH + c)..][..4].copy_from_slice(&sum.to_ne_bytes());
                    at.write(words, c, quads);
                }
            }
        }
    }
}

/// Writes the weights that `bytes` packs to `to [n x k]`: `f32` and `bf16` as they are, `int8` times its scales.
///
/// # Panics
/// When `bytes` or `to` has another shape.
pub fn unpack(bytes: &[u8], shape: PanelShape, mut to: MatMut<'_>) {
    assert_eq!(
        (to.rows(), to.cols(), bytes.len()),
        (shape.n, shape.k, shape.bytes()),
        "unpacking {shape:?}"
    );
    for col in 0..shape.n {
        let (panel, c) = (col / WIDTH, col % WIDTH);
        let bytes = &bytes[panel * shape.panel_bytes()..];
        let (header, words) = bytes.split_at(shape.header());
        let at = Words {
            stored: shape.stored_columns(panel),
        };
        let row = to.row_mut(col);
        match shape.precision {
            Precision::F32 => {
                for (step, x) in row.iter_mut().enumerate() {
                    *x = f32::from_ne_bytes(at.read(words, step, c));
                }
            }
            Precision::Bf16 => {
                for (step, x) in row.chunks_mut(2).enumerate() {
                    let [a, b, d, e] = at.read(words, step, c);
                    let pair = [bf16::from_ne_bytes([a, b]), bf16::from_ne_bytes([d, e])];
                    x.iter_mut().zip(pair).for_each(|(x, w)| *x = w.to_f32());
                }
            }
            Precision::Int8 => {
                let scale = f32::from_ne_bytes(Words { stored: WIDTH }.read(header, 0, c));
                for (step, x) in row.chunks_mut(4).enumerate() {
                    let quad = at.read(words, step, c).map(|q| f32::from(q as i8) * scale);
                    x.copy_from_slice(&quad[..x.len()]);
                }
            }
        }
    }
}

/// Addresses of words in a panel.
#[derive(Clone, Copy)]
struct Words {
    /// Columns that a step stores.
    stored: usize,
}

impl Words {
    fn read(self, words: &[u8], step: usize, c: usize) -> [u8; 4] {
        let word = &words[(step * self.stored + c) * 4..][..4];
        [word[0], word[1], word[2], word[3]]
    }

    fn write(self, words: &mut [u8], c: usize, values: impl Iterator<Item = [u8; 4]>) {
        let column = words.chunks_exact_mut(4).skip(c).step_by(self.stored);
        column
            .zip(values)
            .for_each(|(to, word)| to.copy_from_slice(&word));
    }
}

/// One or two elements as a pair of `bf16`.
fn pair(x: &[f32]) -> [u8; 4] {
    let [a, b] = bf16::from_f32(x[0]).to_ne_bytes();
    let [c, d] = bf16::from_f32(x.get(1).copied().unwrap_or(0.0)).to_ne_bytes();
    [a, b, c, d]
}

/// One to four elements as `i8` bytes, to nearest, ties to even; missing ones are 0.
fn quad(x: &[f32], scale: f32) -> [u8; 4] {
    /// Added to a small number, it leaves the nearest integer in the low bits (`f32::round_ties_even` calls a library).
    const MAGIC: f32 = 12_582_912.0; // 1.5 x 2^23
    let mut q = [0; 4];
    for (q, &x) in q.iter_mut().zip(x) {
        *q = (x / scale + MAGIC).to_bits() as u8;
    }
    q
}

/// The scale of a column: its largest magnitude over 127, so that `q` is in -127..=127. Not a number if any
/// element is not finite, so that the column's results are not either.
fn column_scale(row: &[f32]) -> f32 {
    assert!(
        row.len() <= int8::MOST_K,
        "int8 sums of {} products could overflow",
        row.len()
    );
    if !row.iter().all(|x| x.is_finite()) {
        return f32::NAN;
    }
    let scale = row.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
    // Where dividing by the scale is not exact enough (subnormal), the column counts as zeros.
    if scale < f32::MIN_POSITIVE {
        0.0
    } else {
        scale
    }
}
