//! What a step of K means at one precision and level: the few lines that the shared tile is generic over.
//!
//! Not here: loops over K and rows (`tile`), and the dots themselves (the precision's file).

use std::ops::Range;

use super::WIDTH;
use crate::{mat::Mat, simd::Simd};

/// Steps of K that a tile multiplies between prefetches.
pub(super) const CHUNK: usize = 4;

/// How one step of K is multiplied at one level. Everything is inlined into the level's trampoline.
pub(super) trait Dot: Copy {
    /// Vectors of the epilogue.
    type S: Simd;
    /// Sixteen sums in the making.
    type Acc: Copy;
    /// A step of a panel: 16 words.
    type W: Copy;
    /// A step of a row, in all lanes.
    type X: Copy;
    /// Elements of K a step.
    const K_STEP: usize;
    /// Bytes of a row a step.
    const X_STEP: usize;
    /// Rows and panels of the register tile, at most the level's.
    const TILE: (usize, usize) = (Self::S::TILE_ROWS, Self::S::TILE_PANELS);

    /// Rows of the tallest tile of one panel; no taller than [`Dot::TILE`] where registers are few.
    const TALL: usize = Self::S::TALL_ROWS;

    /// The level's vectors.
    fn simd(self) -> Self::S;
    /// Writes the rows `which` of `x` to `rows` as this dot reads them; nothing to do where it reads `f32`.
    ///
    /// # Safety
    /// `x` has as many rows as `rows`, which lie in the scratch that the precision laid out.
    unsafe fn prepare(self, x: Mat<'_>, rows: Rows, which: Range<usize>);
    /// The first value of a chain: `from` is the initial sum of 16 columns, `panel` their panel (its header), `row`
    /// the row.
    ///
    /// # Safety
    /// `from` is readable for 16 elements, `panel` for the header.
    unsafe fn start(self, row: usize, panel: *const u8, from: *const f32) -> Self::Acc;
    /// Loads a step of a panel.
    ///
    /// # Safety
    /// `p` is readable for 64 bytes.
    unsafe fn load(self, p: *const u8) -> Self::W;
    /// Broadcasts a step of a row.
    ///
    /// # Safety
    /// `p` is readable for [`Dot::X_STEP`] bytes.
    unsafe fn splat(self, p: *const u8) -> Self::X;
    /// `acc + x . w`
    fn dot(self, acc: Self::Acc, x: Self::X, w: Self::W) -> Self::Acc;
    /// [`CHUNK`] steps of K: the bits of so many calls of [`step`], which is what it does where a level has nothing
    /// better. Rows and panels as there; a panel's steps are `w.1` bytes apart, panels `w.2`. Returns where the next step's row
    /// and panel begin: two pointers that move, and nothing computed from a step's number, leave x86 its registers.
    ///
    /// # Safety
    /// As [`step`], for each of them.
    #[inline(always)]
    unsafe fn chunk<const R: usize, const P: usize>(
        self,
        acc: &mut [[Self::Acc; P]; R],
        (mut x, stride): (*const u8, usize),
        (mut w, w_step, pitch): (*const u8, usize, usize),
    ) -> (*const u8, *const u8) {
        for _ in 0..CHUNK {
            // SAFETY: the caller's promise.
            unsafe {
                step(self, acc, (x, stride), (w, pitch));
                x = x.add(Self::X_STEP);
                w = w.add(w_step);
            }
        }
        (x, w)
    }
    /// The finished sums, as `f32`. Same meaning and duties as [`Dot::start`].
    ///
    /// # Safety
    /// As [`Dot::start`].
    unsafe fn finish(
        self,
        acc: Self::Acc,
        row: usize,
        panel: *const u8,
        from: *const f32,
    ) -> <Self::S as Simd>::F;
}

/// One step of K: `acc += x w`.
///
/// # Safety
/// At `x.0` are `R` rows of a step, `x.1` bytes apart; `w.0` is readable for 64 bytes at `P` places, `w.1` bytes apart.
#[inline(always)]
pub(super) unsafe fn step<D: Dot, const R: usize, const P: usize>(
    d: D,
    acc: &mut [[D::Acc; P]; R],
    x: (*const u8, usize),
    w: (*const u8, usize),
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut panels = [d.load(w.0); P];
        for p in 1..P {
            panels[p] = d.load(w.0.add(p * w.1));
        }
        for r in 0..R {
            let word = d.splat(x.0.add(r * x.1));
            for p in 0..P {
                acc[r][p] = d.dot(acc[r][p], word, panels[p]);
            }
        }
    }
}

/// Rows of activations as the micro-kernel reads them: `m` rows of [`Dot::X_STEP`] bytes a step.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) ptr: *mut u8,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    pub(super) m: usize,
}

impl Rows {
    /// `f32` activations as they are, never written.
    pub(super) fn of(x: Mat<'_>) -> Self {
        Self {
            ptr: x.as_ptr().cast_mut().cast(),
            stride: x.stride() * 4,
            m: x.rows(),
        }
    }
}

/// Runs `rounds` steps of 24 independent chains with nothing but registers, and returns the multiplications and
/// additions that were done: what the arithmetic units can do at most.
#[inline(always)]
pub(super) fn peak<D: Dot>(d: D, rounds: usize) -> u64 {
    let bytes = std::hint::black_box([0x01u8; 128]);
    let sums = [0.0f32; WIDTH];
    let chains = D::TILE.0 * D::TILE.1;
    // SAFETY: the arrays are as long as a header, a step and a vector.
    unsafe {
        let (x, w) = (d.splat(bytes.as_ptr()), d.load(bytes.as_ptr()));
        let mut acc = [d.start(0, bytes.as_ptr(), sums.as_ptr()); 24];
        for _ in 0..rounds {
            for i in 0..24 {
                if i < chains {
                    acc[i] = d.dot(acc[i], x, w);
                }
            }
        }
        for acc in acc {
            let sum = d.finish(acc, 0, bytes.as_ptr(), sums.as_ptr());
            std::hint::black_box(d.simd().sum(sum));
        }
    }
    (rounds * chains * WIDTH * D::K_STEP * 2) as u64
}
