//! Products with packed weights: operations a second and share of the peak measured in the same run.
//!
//! `cargo bench --bench kernels` prints a table; `-- --check` multiplies each case once and compares with
//! plain `f64` sums instead; other arguments are substrings of the precisions and shapes to run.
//!
//! One core. *hot* multiplies by one weight again and again; *cold* rotates over more than 64 MB of them, as a model
//! does. Bias and conversion of activations are counted in. Each round measures the peak and all cases of a shape in
//! turn, and a cell is the median over rounds of the ratio to that round's peak: a noisy neighbour slows both.
#![allow(clippy::print_stdout)] // a bench prints its figures

use rustix::time::{ClockId, clock_gettime};
use sorank::{
    kernel::{
        gemm::gemm,
        panel::{Init, PanelShape, Panels, Precision, Product, pack, peak},
    },
    mat::{Mat, Matrix},
    simd,
};

const SHAPES: [(usize, usize); 3] = [(768, 768), (768, 3072), (3072, 768)];
const ROWS: [usize; 4] = [16, 32, 128, 512];
const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];
/// More than the last-level cache share of a core.
const COLD_BYTES: usize = 80 << 20;
const ROUNDS: usize = 9;
/// Seconds a measurement lasts at least.
const SLICE: f64 = 0.01;

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let check = args.iter().any(|a| a == "--check");
    let wanted = |name: &str| {
        let mut words = args.iter().filter(|a| !a.starts_with("--")).peekable();
        words.peek().is_none() || words.any(|w| name.contains(w.as_str()))
    };
    println!("level {}", simd::level().name());
    for precision in PRECISIONS {
        for (n, k) in SHAPES {
            if wanted(&format!("{precision:?} {n}x{k}").to_lowercase()) {
                let case = Case::new(precision, n, k);
                if check { case.check() } else { case.measure() }
            }
        }
    }
}

/// A weight in every form that is measured.
struct Case {
    shape: PanelShape,
    w: Matrix,
    /// Copies of the packed weight, enough to be cold, each at a multiple of 64 bytes.
    packed: Vec<u8>,
    copies: usize,
    bias: Vec<f32>,
}

fn noise(rows: usize, cols: usize, seed: u32) -> Matrix {
    let mut s = seed;
    let mut next = || {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (s >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    Matrix::from_vec((0..rows * cols).map(|_| next()).collect(), rows, cols)
}

impl Case {
    fn new(precision: Precision, n: usize, k: usize) -> Self {
        let shape = PanelShape {
            n,
            k,
            precision,
            tight: false,
        };
        let w = noise(n, k, 1);
        let copies = COLD_BYTES.div_ceil(shape.bytes());
        let mut packed = vec![0; copies * shape.bytes() + 64];
        let start = packed.as_ptr().align_offset(64);
        packed.truncate(start + copies * shape.bytes());
        for copy in packed[start..].chunks_exact_mut(shape.bytes()) {
            pack(w.view(), shape, copy);
        }
        Self {
            shape,
            w,
            packed,
            copies,
            bias: noise(1, n, 2).row(0).to_vec(),
        }
    }

    fn panels(&self, copy: usize) -> Panels<'_> {
        let bytes = self.shape.bytes();
        let start = self.packed.len() - self.copies * bytes;
        Panels::new(
            &self.packed[start + copy % self.copies * bytes..][..bytes],
            self.shape,
        )
    }

    fn product<'a>(&'a self, x: Mat<'a>, copy: usize) -> Product<'a> {
        let init = Init::Bias(&self.bias);
        Product {
            x,
            w: self.panels(copy),
            init,
            activation: None,
            residual: None,
        }
    }

    fn measure(&self) {
        let PanelShape {
            n, k, precision, ..
        } = self.shape;
        println!(
            "{precision:?} {n} x {k}       hot: GOP/s, share   cold: GOP/s, share   gemm f32 hot"
        );
        for m in ROWS {
            let x = noise(m, k, 3);
            let mut y = Matrix::zeros(m, n);
            let ops = (2 * m * n * k) as f64;
            let mut rows: Vec<[f64; 4]> = Vec::new();
            let mut copy = 0;
            for _ in 0..ROUNDS {
                let top = rate(|| peak(simd::level(), precision, 20_000) as f64);
                let hot = rate(|| {
                    self.product(x.view(), 0).into(y.view_mut());
                    ops
                });
                let cold = rate(|| {
                    copy += 1;
                    self.product(x.view(), copy).into(y.view_mut());
                    ops
                });
                let other = rate(|| {
                    gemm(y.view_mut(), 0.0, 1.0, x.view(), false, self.w.view(), true);
                    ops
                });
                rows.push([top, hot, cold, other]);
            }
            let median = |f: &dyn Fn(&[f64; 4]) -> f64| {
                let mut v: Vec<f64> = rows.iter().map(f).collect();
                v.sort_by(f64::total_cmp);
                v[v.len() / 2]
            };
            println!(
                "  M {m:4}  peak {:5.0}      {:5.0} {:5.1} %          {:5.0} {:5.1} %         {:5.0}",
                median(&|r| r[0]),
                median(&|r| r[1]),
                median(&|r| 100.0 * r[1] / r[0]),
                median(&|r| r[2]),
                median(&|r| 100.0 * r[2] / r[0]),
                median(&|r| r[3]),
            );
        }
    }

    /// A sample of elements against `f64` sums, and the rest of the row against being alone.
    fn check(&self) {
        let PanelShape {
            n, k, precision, ..
        } = self.shape;
        // Rounding of one operand, times the spread of a sum of k products of numbers of variance 1/3.
        let spread = (k as f64).sqrt();
        let tolerance = match precision {
            Precision::F32 => 1e-5,
            Precision::Bf16 => 8e-3,
            Precision::Int8 => 2e-2,
        } * spread;
        for m in ROWS {
            let x = noise(m, k, 3);
            let (mut y, mut alone) = (Matrix::zeros(m, n), Matrix::zeros(1, n));
            self.product(x.view(), 0).into(y.view_mut());
            for r in (0..m).step_by(7) {
                self.product(x.view().row_range(r..r + 1), 1)
                    .into(alone.view_mut());
                assert_eq!(y.row(r), alone.row(0), "row {r} of {m} differs alone");
                for c in (0..n).step_by(13) {
                    let pairs = x.row(r).iter().zip(self.w.row(c));
                    let sum: f64 = pairs.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    let (want, got) = (sum + f64::from(self.bias[c]), f64::from(y.row(r)[c]));
                    assert!(
                        (got - want).abs() <= tolerance,
                        "{precision:?} {m} x {n} x {k}: {got} for {want} at {r}, {c}"
                    );
                }
            }
        }
        println!("{precision:?} {n} x {k}: answers checked at M = {ROWS:?}");
    }
}

/// Operations a nanosecond of `run`, repeated for a slice of time.
fn rate(mut run: impl FnMut() -> f64) -> f64 {
    run();
    let start = seconds();
    let mut ops = 0.0;
    while seconds() - start < SLICE {
        ops += run();
    }
    ops / (seconds() - start) / 1e9
}

/// Time that this thread has spent on a core: what others take of it on a shared machine does not count.
fn seconds() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}
