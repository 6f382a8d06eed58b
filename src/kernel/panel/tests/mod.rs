//! Every product against an `f64` twin at every level; bit equality under every split and composition.

mod bits;
mod exact;
mod packing;

use super::merge::add_low_rank_at;
use super::*;
use crate::simd::{self, Kernel, LANES, Simd, levels};

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

/// One rounding of an `f32` sum, relative to the magnitudes in it; a chain of k has at most k, plus init and epilogue.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// Sizes around every edge of a tile, a panel, a step and a vector.
const M: [usize; 10] = [0, 1, 2, 6, 7, 8, 9, 13, 16, 17];
const N: [usize; 9] = [1, 15, 16, 17, 47, 48, 49, 64, 100];
const K: [usize; 9] = [0, 1, 2, 3, 8, 31, 63, 64, 257];

/// A deterministic matrix of numbers in -1..1.
fn noise(rows: usize, cols: usize, seed: u32) -> Matrix {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let mut next = || {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (s >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    Matrix::from_vec((0..rows * cols).map(|_| next()).collect(), rows, cols)
}

/// An owned packed weight at a multiple of 64 bytes.
struct Packed {
    bytes: Vec<u8>,
    start: usize,
    shape: PanelShape,
}

impl Packed {
    fn of(w: Mat<'_>, precision: Precision, tight: bool) -> Self {
        let shape = PanelShape {
            n: w.rows(),
            k: w.cols(),
            precision,
            tight,
        };
        let bytes = vec![0xa5; shape.bytes() + 64];
        let start = bytes.as_ptr().align_offset(64);
        let mut packed = Packed {
            bytes,
            start,
            shape,
        };
        pack(w, shape, packed.bytes_mut());
        packed
    }
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..][..self.shape.bytes()]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.shape.bytes()]
    }
    fn panels(&self) -> Panels<'_> {
        Panels::new(self.bytes(), self.shape)
    }
}

/// The sum that starts at `init`, and how far a right answer may be from it.
fn twin(precision: Precision, x: &[f32], w: &[f32], init: f32) -> (f64, f64) {
    let round = |x: f32| f64::from(half::bf16::from_f32(x));
    let (mut sum, mut size, mut quanta) = (f64::from(init), f64::from(init.abs()), 0.0);
    let low = x.iter().fold(0f32, |m, &x| m.min(x));
    let high = x.iter().fold(0f32, |m, &x| m.max(x));
    let step_x = f64::from(high - low) / 254.0;
    let step_w = w.iter().fold(0f64, |m, &x| m.max(f64::from(x.abs()))) / 127.0;
    for (&x, &w) in x.iter().zip(w) {
        let (x, w) = match precision {
            Precision::Bf16 => (round(x), round(w)),
            _ => (f64::from(x), f64::from(w)),
        };
        sum += x * w;
        size += (x * w).abs();
        // Half a quantum of each operand beside the whole of the other.
        quanta += step_x / 2.0 * w.abs() + step_w / 2.0 * x.abs() + step_x * step_w / 4.0;
    }
    match precision {
        Precision::Int8 => (sum, quanta + 8.0 * ROUNDING * size),
        _ => (sum, (x.len() + 4) as f64 * ROUNDING * size),
    }
}

#[test]
fn every_size_precision_and_level_equals_the_twin() {
    let mut cases = 0;
    for (&m, &n, &k) in triples() {
        let wide = noise(m, k + 5, 1);
        let x = wide.view().col_range(3..k + 3);
        let (w, bias) = (noise(n, k, 2), noise(1, n, 3));
        for precision in PRECISIONS {
            cases += 1;
            let packed = Packed::of(w.view(), precision, cases % 3 == 0);
            let before = noise(m, n + 7, 4);
            for &level in levels() {
                let init = match cases % 3 {
                    0 => Init::Zero,
                    1 => Init::Bias(bias.row(0)),
                    _ => Init::Keep,
                };
                let mut y = before.clone();
                let w_view = packed.panels();
                Product {
                    x,
                    w: w_view,
                    init,
                    activation: None,
                    residual: None,
                }
                .into_at(level, None, y.view_mut().col_range(2..n + 2));
                for r in 0..m {
                    for c in 0..n {
                        let from = match init {
                            Init::Zero => 0.0,
                            Init::Bias(b) => b[c],
                            Init::Keep => before.row(r)[c + 2],
                        };
                        let (want, tolerance) = twin(precision, x.row(r), w.row(c), from);
                        let got = f64::from(y.row(r)[c + 2]);
                        assert!(
                            (got - want).abs() <= tolerance,
                            "{precision:?} {m} x {n} x {k} at {level:?}, {init:?}: \
                             {got} for {want} +- {tolerance} at {r}, {c}"
                        );
                    }
                    let outside = (0..2).chain(n + 2..n + 7);
                    for c in outside {
                        assert_eq!(
                            y.row(r)[c],
                            before.row(r)[c],
                            "column {c} outside was written"
                        );
                    }
                }
            }
        }
    }
}

fn triples() -> impl Iterator<Item = (&'static usize, &'static usize, &'static usize)> {
    M.iter()
        .flat_map(|m| N.iter().flat_map(move |n| K.iter().map(move |k| (m, n, k))))
}

/// An activation on whole rows at a stated level.
struct Activate<'a>(Activation, &'a mut [f32]);

impl Kernel for Activate<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for chunk in self.1.chunks_mut(LANES) {
            let mut padded = [0.0; LANES];
            padded[..chunk.len()].copy_from_slice(chunk);
            s.store(self.0.vector(s, s.load(&padded)), &mut padded);
            chunk.copy_from_slice(&padded[..chunk.len()]);
        }
    }
}

/// Low-rank part, activation and residual in one call have the bits of one call for each.
#[test]
fn an_epilogue_has_the_bits_of_its_parts() {
    for (m, n, k, rank) in [
        (17, 100, 64, 8),
        (9, 48, 31, 1),
        (1, 1, 3, 5),
        (8, 21, 8, 0),
    ] {
        let (x, w, bias) = (noise(m, k, 1), noise(n, k, 2), noise(1, n, 3));
        let (t, up, residual) = (noise(m, rank, 4), noise(n, rank, 5), noise(m, n, 6));
        for precision in PRECISIONS {
            for (tight, scale) in [(false, 1.0), (true, 1.0), (true, 0.37)] {
                let packed = Packed::of(w.view(), precision, tight);
                let up = Packed::of(up.view(), Precision::F32, tight);
                for &level in levels() {
                    let init = Init::Bias(bias.row(0));
                    let plain = Product {
                        x: x.view(),
                        w: packed.panels(),
                        init,
                        activation: None,
                        residual: None,
                    };
                    let mut want = Matrix::zeros(m, n);
                    plain.into_at(level, None, want.view_mut());
                    let scaled = t.as_slice().iter().map(|t| t * scale).collect();
                    let scaled = Matrix::from_vec(scaled, m, rank);
                    Product {
                        x: scaled.view(),
                        w: up.panels(),
                        init: Init::Keep,
                        ..plain
                    }
                    .into_at(level, None, want.view_mut());
                    for r in 0..m {
                        let mut view = want.view_mut();
                        simd::run_at(level, Activate(Activation::Tanh, view.row_mut(r)));
                        view.row_mut(r)
                            .iter_mut()
                            .zip(residual.row(r))
                            .for_each(|(y, r)| *y += r);
                    }
                    let mut got = noise(m, n, 9);
                    let activation = Some(Activation::Tanh);
                    let extra = Extra {
                        t: t.view(),
                        up: up.panels(),
                        scale,
                    };
                    Product {
                        activation,
                        residual: Some(residual.view()),
                        ..plain
                    }
                    .into_at(level, Some(extra), got.view_mut());
                    same_bits(
                        got.view(),
                        want.view(),
                        &format!("{precision:?} at {level:?}"),
                    );
                }
            }
        }
    }
}

fn same_bits(got: Mat<'_>, want: Mat<'_>, what: &str) {
    for r in 0..want.rows() {
        for (c, (a, b)) in got.row(r).iter().zip(want.row(r)).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "{what}: {a} for {b} at {r}, {c}");
        }
    }
}

/// A row alone, rows in blocks, and columns in parts have the bits of one call.
#[test]
fn no_split_changes_a_bit() {
    let (m, n, k) = (29, 117, 70);
    let (x, w, bias) = (noise(m, k, 1), noise(n, k, 2), noise(1, n, 3));
    let residual = noise(m, n, 4);
    for precision in PRECISIONS {
        for tight in [false, true] {
            let packed = Packed::of(w.view(), precision, tight);
            for &level in levels() {
                let what = format!("{precision:?} at {level:?}, tight {tight}");
                let part = |rows: Range<usize>, panels: Range<usize>, y: MatMut<'_>| {
                    let cols = (panels.start * WIDTH).min(n)..(panels.end * WIDTH).min(n);
                    Product {
                        x: x.view().row_range(rows.clone()),
                        w: packed.panels().panel_range(panels),
                        init: Init::Bias(&bias.row(0)[cols.clone()]),
                        activation: Some(Activation::Relu),
                        residual: Some(
                            residual
                                .view()
                                .row_range(rows.clone())
                                .col_range(cols.clone()),
                        ),
                    }
                    .into_at(level, None, y.row_range(rows).col_range(cols));
                };
                let mut whole = Matrix::zeros(m, n);
                part(0..m, 0..8, whole.view_mut());
                for block in [1, 2, 5, 8, 9, 13, 16] {
                    let mut y = Matrix::zeros(m, n);
                    for start in (0..m).step_by(block) {
                        part(start..(start + block).min(m), 0..8, y.view_mut());
                    }
                    same_bits(
                        y.view(),
                        whole.view(),
                        &format!("{what}, blocks of {block} rows"),
                    );
                }
                for at in 0..=8 {
                    let mut y = Matrix::zeros(m, n);
                    part(0..m, 0..at, y.view_mut());
                    part(0..m, at..8, y.view_mut());
                    same_bits(
                        y.view(),
                        whole.view(),
                        &format!("{what}, columns split at panel {at}"),
                    );
                }
            }
        }
    }
}

#[test]
fn rows_that_share_a_cache_set_keep_their_bits_in_a_tall_tile() {
    let (m, n, k) = (13, 40, 1024);
    let (x, w) = (noise(m, k, 1), noise(n, k, 2));
    let packed = Packed::of(w.view(), Precision::F32, false);
    let product = |rows: Range<usize>, y: MatMut<'_>| {
        Product {
            x: x.view().row_range(rows),
            w: packed.panels(),
            init: Init::Zero,
            activation: None,
            residual: None,
        }
        .into(y);
    };
    let (mut whole, mut apart) = (Matrix::zeros(m, n), Matrix::zeros(m, n));
    product(0..m, whole.view_mut());
    for r in 0..m {
        product(r..r + 1, apart.view_mut().row_range(r..r + 1));
    }
    same_bits(whole.view(), apart.view(), "one tile of 13 rows");
}

#[test]
#[should_panic(expected = "bias of")]
fn a_bias_of_another_length_panics() {
    let w = noise(16, 4, 1);
    let packed = Packed::of(w.view(), Precision::F32, false);
    let x = Matrix::zeros(2, 4);
    let (x, w, init) = (x.view(), packed.panels(), Init::Bias(&[0.0; 15]));
    Product {
        x,
        w,
        init,
        activation: None,
        residual: None,
    }
    .into(Matrix::zeros(2, 16).view_mut());
}

#[test]
#[should_panic(expected = "x, y and")]
fn activations_of_another_width_panic() {
    let w = noise(16, 4, 1);
    let packed = Packed::of(w.view(), Precision::Int8, false);
    let x = Matrix::zeros(2, 5);
    let (x, w, init) = (x.view(), packed.panels(), Init::Zero);
    Product {
        x,
        w,
        init,
        activation: None,
        residual: None,
    }
    .into(Matrix::zeros(2, 16).view_mut());
}
