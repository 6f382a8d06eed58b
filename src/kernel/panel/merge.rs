//! Adding a low-rank product to packed weights in place: `W[columns, :] += B A`.
//!
//! A step of a panel is one element of K in 16 output columns, and 16 rows of B at one rank are as many: so a step is
//! loaded, summed over the ranks beside it, added and stored, and no matrix of differences is ever made. What it costs is
//! reading and writing the weights.
//!
//! Only the panels of the named columns are touched: on a private mapping of a packed file, other pages stay shared.
//! Not here: threads (callers share out [`pieces`]), `int8` (what rounding took is gone: re-quantise from the source).

use std::ops::Range;

use half::bf16;

use super::{PanelShape, Precision, WIDTH};
use crate::{
    mat::Mat,
    simd::{self, Kernel, LANES, Level, Simd},
};

/// Steps that share a load of B.
const STEPS: usize = 4;

/// Some whole panels of a packed weight.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The columns of the weight that they are.
    pub columns: Range<usize>,
    /// Their shape, as of a weight of their own.
    pub shape: PanelShape,
    /// Their bytes.
    pub bytes: &'a mut [u8],
}

/// The weight in `bytes`, cut after every `panels` panels.
///
/// # Panics
/// When `bytes` has another size than `shape`, or is tight.
pub fn pieces(
    bytes: &mut [u8],
    shape: PanelShape,
    panels: usize,
) -> impl Iterator<Item = Piece<'_>> {
    assert_eq!(bytes.len(), shape.bytes(), "pieces of {shape:?}");
    assert!(!shape.tight, "a tight weight is one piece");
    let parts = bytes.chunks_mut((panels * shape.panel_bytes()).max(1));
    parts.enumerate().map(move |(i, bytes)| {
        let start = i * panels * WIDTH;
        let columns = start..(start + panels * WIDTH).min(shape.n);
        let shape = PanelShape {
            n: columns.len(),
            ..shape
        };
        Piece {
            columns,
            shape,
            bytes,
        }
    })
}

/// `W[columns, :] += up down`, in place.
///
/// # Shapes
/// `up [columns.len() x R]`, `down [R x k]`.
///
/// # Panics
/// When a shape disagrees, or the weight is tight or `int8`.
///
/// # Accuracy
/// An element's difference is one chain of fused multiply-adds over ascending ranks; one rounding of the sum, to `f32`, or
/// from that to `bf16`. Its bits depend on its own row of `up` and column of `down` alone.
pub fn add_low_rank(
    bytes: &mut [u8],
    shape: PanelShape,
    columns: Range<usize>,
    up: Mat<'_>,
    down: Mat<'_>,
) {
    add_low_rank_at(simd::level(), bytes, shape, columns, up, down);
}

/// [`add_low_rank`] at `level`.
pub(super) fn add_low_rank_at(
    level: Level,
    bytes: &mut [u8],
    shape: PanelShape,
    columns: Range<usize>,
    up: Mat<'_>,
    down: Mat<'_>,
) {
    assert!(
        shape.precision != Precision::Int8,
        "int8 weights cannot be added to"
    );
    assert!(!shape.tight, "tight weights are not merged into");
    assert!(columns.end <= shape.n, "columns {columns:?} of {}", shape.n);
    assert_eq!(
        (up.rows(), down.rows(), down.cols(), bytes.len()),
        (columns.len(), up.cols(), shape.k, shape.bytes()),
        "adding to {shape:?}"
    );
    let mut ranks = vec![[0.0; WIDTH]; up.cols()];
    let mut column = columns.start;
    while column < columns.end {
        let (panel, first) = (column / WIDTH, column % WIDTH);
        let end = ((panel + 1) * WIDTH).min(columns.end);
        for (r, lanes) in ranks.iter_mut().enumerate() {
            for c in column..end {
                lanes[c % WIDTH] = up.row(c - columns.start)[r];
            }
        }
        let words = &mut bytes[panel * shape.panel_bytes()..][..shape.panel_bytes()];
        let lanes = first..first + (end - column);
        simd::run_at(
            level,
            Add {
                words: words.as_chunks_mut().0,
                lanes,
                precision: shape.precision,
                up: &ranks,
                down,
            },
        );
        column = end;
    }
}

/// One panel: `lanes` of every step gets its differences.
struct Add<'a> {
    words: &'a mut [[u8; 4 * WIDTH]],
    lanes: Range<usize>,
    precision: Precision,
    /// B of this panel: a vector a rank.
    up: &'a [[f32; LANES]],
    down: Mat<'a>,
}

impl Kernel for Add<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.precision {
            Precision::F32 => self.steps::<S, 1>(s, |word, [d]| {
                let sum = std::array::from_fn(|c| f32::from_ne_bytes(four(word, c)) + d[c]);
                bytes(sum.map(f32::to_bits))
            }),
            _ => self.steps::<S, 2>(s, |word, [even, odd]| {
                let w: [[bf16; 2]; WIDTH] = std::array::from_fn(|c| {
                    let [a, b, x, y] = four(word, c);
                    [bf16::from_ne_bytes([a, b]), bf16::from_ne_bytes([x, y])]
                });
                let low = round(s, std::array::from_fn(|c| w[c][0].to_f32() + even[c]));
                let high = round(s, std::array::from_fn(|c| w[c][1].to_f32() + odd[c]));
                let pair = |c: usize| low[c].to_bits() >> 16 | high[c].to_bits() & 0xffff_0000;
                bytes(std::array::from_fn(pair))
            }),
        }
    }
}

/// Exactly what `bf16::from_f32` gives, in vectors. A function, for a closure may be left without the level's instructions.
#[inline(always)]
fn round<S: Simd>(s: S, x: [f32; LANES]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    s.store(s.round_bf16(s.load(&x)), &mut out);
    out
}

impl Add<'_> {
    /// `word = add(word, differences)` for every step; a step has `E` elements of K, of which one past the end is 0.
    #[inline(always)]
    fn steps<S: Simd, const E: usize>(
        self,
        s: S,
        add: impl Fn(&[u8; 4 * WIDTH], [[f32; LANES]; E]) -> [u8; 4 * WIDTH],
    ) {
        let (k, down) = (self.down.cols(), self.down);
        for (block, words) in self.words.chunks_mut(STEPS).enumerate() {
            let from = block * STEPS * E;
            let mut sums = [[s.splat(0.0); E]; STEPS];
            for (r, up) in self.up.iter().enumerate() {
                let (up, a) = (s.load(up), &down.row(r)[from..k.min(from + STEPS * E)]);
                if a.len() == STEPS * E {
                    // Said again with a constant: sums stay in registers.
                    for i in 0..STEPS * E {
                        sums[i / E][i % E] = s.fma(s.splat(a[i]), up, sums[i / E][i % E]);
                    }
                } else {
                    for (i, &a) in a.iter().enumerate() {
                        sums[i / E][i % E] = s.fma(s.splat(a), up, sums[i / E][i % E]);
                    }
                }
            }
            for (word, sums) in words.iter_mut().zip(sums) {
                let differences = sums.map(|sum| {
                    let mut lanes = [0.0; LANES];
                    s.store(sum, &mut lanes);
                    lanes
                });
                let changed = add(word, differences);
                if self.lanes.len() == WIDTH {
                    *word = changed;
                } else {
                    let at = 4 * self.lanes.start..4 * self.lanes.end;
                    word[at.clone()].copy_from_slice(&changed[at]);
                }
            }
        }
    }
}

#[inline(always)]
fn four(word: &[u8; 4 * WIDTH], c: usize) -> [u8; 4] {
    [
        word[4 * c],
        word[4 * c + 1],
        word[4 * c + 2],
        word[4 * c + 3],
    ]
}

#[inline(always)]
fn bytes(words: [u32; WIDTH]) -> [u8; 4 * WIDTH] {
    let mut out = [0; 4 * WIDTH];
    for c in 0..WIDTH {
        out[4 * c..4 * c + 4].copy_from_slice(&words[c].to_ne_bytes());
    }
    out
}
