//! Instruction levels: one tiny vector trait, one implementor a level, one trampoline a level.
//!
//! A kernel is a struct of borrowed operands that implements [`Kernel`]; its `run` is generic over
//! [`Simd`] and is compiled once for each level inside a function that carries the `target_feature`s.
//! [`run`] picks the level of this process (detected once, capped by `SORANK_SIMD`), [`run_at`] any level
//! this CPU has, which is how tests and benches visit all of them.
//!
//! Every level works on vectors of [`LANES`] = 16 `f32`: one register with AVX-512, two with AVX2, four
//! with NEON, an array without any. One lane count for all levels means one layout for packed weights, one
//! order of summation and so the same bits from every level that has a fused multiply-add.
//!
//! Rules: an operation enters the trait when two kernels need it; everything reached from
//! [`Kernel::run`] is `#[inline(always)]`, closures included (otherwise intrinsics become calls);
//! threads are outside (`rayon` hands out row blocks, each block enters the level once).
//!
//! Not here: integer and bf16 dot products, which only the panel micro-kernels need.
#![allow(unsafe_code)] // the trampolines promise that detection came first

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub use self::{avx2::Avx2, avx512::Avx512};
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{V as NeonVector, widen as widen_bf16};
pub use scalar::Scalar;

/// Lanes of a vector, at every level.
pub const LANES: usize = 16;

/// An instruction level, from the plainest to the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust without fused multiply-add: runs anywhere.
    Scalar,
    /// NEON, which every AArch64 CPU has.
    Neon,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL besides.
    Avx512,
}

impl Level {
    /// The name that `SORANK_SIMD` and logs use.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
}

/// The levels this CPU has, plainest first; `SORANK_SIMD` does not change this list.
pub fn levels() -> &'static [Level] {
    static LEVELS: OnceLock<Vec<Level>> = OnceLock::new();
    LEVELS.get_or_init(|| {
        let mut found = vec![Level::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                found.push(Level::Avx2);
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    found.push(Level::Avx512);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        found.push(Level::Neon);
        found
    })
}

/// The level of this process: the widest this CPU has, at most what `SORANK_SIMD`
/// (`scalar`, `neon`, `avx2`, `avx512`) names. Chosen at the first call and never changed.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let cap = std::env::var("SORANK_SIMD").unwrap_or_default();
        let best = *levels().last().expect("the scalar level always exists");
        match levels().iter().find(|l| l.name() == cap) {
            Some(&level) => level,
            None => {
                if !cap.is_empty() {
                    tracing::warn!(
                        "SORANK_SIMD={cap} names no level of this CPU ({:?}); using {}",
                        levels().iter().map(|l| l.name()).collect::<Vec<_>>(),
                        best.name()
                    );
                }
                best
            }
        }
    })
}

/// A computation that can run at any level: a struct of borrowed operands.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// The computation; mark the implementation `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs `kernel` at the level of this process.
#[inline]
pub fn run<K: Kernel>(kernel: K) -> K::Out {
    dispatch(level(), kernel)
}

/// Runs `kernel` at `level`.
///
/// # Panics
/// When this CPU has not that level.
#[inline]
pub fn run_at<K: Kernel>(level: Level, kernel: K) -> K::Out {
    assert!(levels().contains(&level), "this CPU has no {level:?}");
    dispatch(level, kernel)
}

/// Enters the trampoline of a level that was detected (both callers see to that).
#[inline(always)]
fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Out {
    match level {
        Level::Scalar => kernel.run(Scalar),
        // SAFETY: `level()` returns only detected levels and `run_at` asserts it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::trampoline(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::trampoline(kernel) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => kernel.run(Neon),
        // Another architecture's: `level()` and `levels()` never name it.
        _ => unreachable!("{level:?} on this CPU"),
    }
}

/// Asks for the cache line of `p`, which may be any address. Does nothing where there is no such hint.
#[inline(always)]
pub fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it never faults, and SSE is part of the target's baseline.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    neon::prefetch(p);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

/// As [`prefetch`], to the second cache and no nearer: for what is large or needed later. What comes from memory on its way to
/// the first cache holds one of its few places for waiting lines all the time (Zen 4: half of the rate of memory).
#[inline(always)]
pub fn prefetch_far(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    neon::prefetch_far(p);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

/// Proof that a set of vector instructions exists on this CPU, and the operations on its vectors of
/// [`LANES`] `f32`. Values exist only inside the trampolines.
pub trait Simd: Copy + Send + Sync + 'static {
    /// The level this is.
    const LEVEL: Level;
    /// Rows of the panel micro-kernel's register tile.
    const TILE_ROWS: usize;
    /// Panels (of 16 columns) of that tile.
    const TILE_PANELS: usize;
    /// Rows of the tallest tile of one panel, for products of few rows; 0 where registers are too few for more than
    /// [`Simd::TILE_ROWS`].
    const TALL_ROWS: usize = 0;
    /// A vector of 16 `f32`.
    type F: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Loads 16 elements.
    ///
    /// # Safety
    /// `p` is readable for 16 elements; no alignment is needed.
    unsafe fn load_ptr(self, p: *const f32) -> Self::F;
    /// Loads `n < 16` elements; the other lanes are 0.
    ///
    /// # Safety
    /// `p` is readable for `n` elements.
    unsafe fn load_part_ptr(self, p: *const f32, n: usize) -> Self::F;
    /// Stores 16 elements.
    ///
    /// # Safety
    /// `p` is writable for 16 elements.
    unsafe fn store_ptr(self, v: Self::F, p: *mut f32);
    /// Stores the first `n < 16` lanes.
    ///
    /// # Safety
    /// `p` is writable for `n` elements.
    unsafe fn store_part_ptr(self, v: Self::F, p: *mut f32, n: usize);

    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, fused where the level can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Lane-wise minimum; `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane-wise maximum; `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `|a|`
    fn abs(self, a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `n` in -252..=254 (no overflow of the intermediate power), rounded once if `|a| >= 2^-50`.
    fn scale2(self, a: Self::F, n: Self::F) -> Self::F;
    /// `if a < b { x } else { y }`, lane-wise.
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// To the nearest `bf16`, ties to even, as `f32`; a NaN stays one.
    fn round_bf16(self, a: Self::F) -> Self::F;
    /// Loads 16 pairs of `bf16`: the first of each pair, and the second.
    ///
    /// # Safety
    /// `p` is readable for 64 bytes; no alignment is needed.
    unsafe fn load_bf16_pairs_ptr(self, p: *const u8) -> (Self::F, Self::F);
    /// The larger of two lanes' bits as signed integers: for bits of `f32`, the larger of 0 and them if one is 0 and the
    /// other not NaN; a positive NaN is larger than any number.
    fn max_bits_signed(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger of two lanes' bits as unsigned integers: for bits of `f32`, the lesser of two negative numbers, and a
    /// negative one before a positive one; a negative NaN before any number.
    fn max_bits_unsigned(self, a: Self::F, b: Self::F) -> Self::F;
    /// Stores the low byte of each lane's bits.
    ///
    /// # Safety
    /// `p` is writable for 16 bytes.
    unsafe fn store_low_bytes_ptr(self, v: Self::F, p: *mut u8);
    /// Sum of the lanes by a fixed tree: halves are added until one lane is left.
    fn sum(self, a: Self::F) -> f32;
    /// [`Simd::sum`] of four vectors: the same trees, side by side where the level can.
    #[inline(always)]
    fn sum_each(self, v: [Self::F; 4]) -> [f32; 4] {
        v.map(|v| self.sum(v))
    }
    /// Largest lane.
    fn max_lane(self, a: Self::F) -> f32;

    /// Loads the first 16 elements of `s`.
    #[inline(always)]
    fn load(self, s: &[f32]) -> Self::F {
        assert!(s.len() >= LANES);
        // SAFETY: 16 elements are there.
        unsafe { self.load_ptr(s.as_ptr()) }
    }
    /// Loads all of `s`, fewer than 16 elements; the other lanes are 0.
    #[inline(always)]
    fn load_part(self, s: &[f32]) -> Self::F {
        assert!(s.len() < LANES);
        // SAFETY: exactly `s.len()` elements are read.
        unsafe { self.load_part_ptr(s.as_ptr(), s.len()) }
    }
    /// Stores to the first 16 elements of `d`.
    #[inline(always)]
    fn store(self, v: Self::F, d: &mut [f32]) {
        assert!(d.len() >= LANES);
        // SAFETY: 16 elements are there.
        unsafe { self.store_ptr(v, d.as_mut_ptr()) }
    }
    /// Stores the first lanes to all of `d`, fewer than 16 elements.
    #[inline(always)]
    fn store_part(self, v: Self::F, d: &mut [f32]) {
        assert!(d.len() < LANES);
        // SAFETY: exactly `d.len()` elements are written.
        unsafe { self.store_part_ptr(v, d.as_mut_ptr(), d.len()) }
    }
}

#[cfg(test)]
mod tests;
