//! `f32` weights: a step of K is one `f32` a column, a dot is one multiply-add, at every level.

use super::{
    Product,
    tile::{Dot, Low, Rows, drive, peak},
};
use crate::{
    mat::MatMut,
    simd::{self, Kernel, Level, Simd},
};

/// Multiply-adds of `f32`, fused where the level can.
#[derive(Clone, Copy)]
pub(super) struct Fma<S>(pub(super) S);

impl<S: Simd> Dot for Fma<S> {
    type S = S;
    type Acc = S::F;
    type W = S::F;
    type X = S::F;
    const X_STEP: usize = 4;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }
    #[inline(always)]
    unsafe fn start(self, _row: usize, _panel: *const u8, from: *const f32) -> S::F {
        // SAFETY: the caller promises 16 elements.
        unsafe { self.0.load_ptr(from) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const u8) -> S::F {
        // SAFETY: the caller promises 64 bytes, and the load needs no alignment.
        unsafe { self.0.load_ptr(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(self, p: *const u8) -> S::F {
        // SAFETY: the caller promises 4 bytes, of a row of `f32`.
        self.0.splat(unsafe { *p.cast::<f32>() })
    }
    #[inline(always)]
    fn dot(self, acc: S::F, x: S::F, w: S::F) -> S::F {
        self.0.fma(x, w, acc)
    }
    #[inline(always)]
    unsafe fn finish(self, acc: S::F, _: usize, _: *const u8, _: *const f32) -> S::F {
        acc
    }
}

/// The product with `f32` weights; shapes were checked.
pub(super) fn product(level: Level, product: &Product<'_>, low: Low<'_>, y: MatMut<'_>) {
    simd::run_at(level, Run { product, low, y });
}

struct Run<'a> {
    product: &'a Product<'a>,
    low: Low<'a>,
    y: MatMut<'a>,
}

impl Kernel for Run<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `x` has k columns, and the shapes were checked.
        unsafe {
            drive(
                Fma(s),
                Fma(s),
                Rows::of(self.product.x),
                self.product,
                self.low,
                self.y,
            )
        }
    }
}

/// See [`super::peak`].
pub(super) fn peak_at(level: Level, rounds: usize) -> u64 {
    struct Peak(usize);
    impl Kernel for Peak {
        type Out = u64;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> u64 {
            peak(Fma(s), self.0, 2 * 16)
        }
    }
    simd::run_at(level, Peak(rounds))
}
