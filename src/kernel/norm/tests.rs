//! Layer norm and its gradient at every level, against `f64`.

use super::*;
use crate::{
    kernel::naive::{Noise, assert_near, differences, wide},
    mat::Matrix,
    simd::levels,
};

const WIDTHS: [usize; 10] = [1, 2, 7, 15, 16, 17, 64, 67, 312, 768];
/// A few roundings of values near 1.
const FORWARD: f64 = 1e-6;
/// The backward subtracts two means; sums of `f32` over a few hundred elements.
const BACKWARD: f64 = 5e-6;

fn naive(x: &[f64], weight: &[f64], bias: Option<&[f64]>, eps: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    x.iter()
        .enumerate()
        .map(|(i, x)| (x - mean) / (variance + eps).sqrt() * weight[i] + bias.map_or(0.0, |b| b[i]))
        .collect()
}

#[test]
fn rows_are_normalised_as_the_formula_says() {
    for &level in levels() {
        for width in WIDTHS {
            let mut noise = Noise::new(width as u64);
            let (weight, bias) = (noise.vec(width, 2.0), noise.vec(width, 1.0));
            for (with_bias, with_residual) in [(true, false), (false, true), (true, true)] {
                let x = noise.matrix(3, width, 4.0);
                let residual = noise.matrix(3, width, 1.0);
                let norm = LayerNorm {
                    weight: &weight,
                    bias: with_bias.then_some(&bias),
                    eps: 1e-5,
                };
                let mut y = x.clone();
                norm.in_place_at(
                    level,
                    y.view_mut(),
                    with_residual.then_some(residual.view()),
                );
                for r in 0..3 {
                    // The sum is an f32 by contract.
                    let sum: Vec<f32> = (x.row(r).iter().zip(residual.row(r)))
                        .map(|(x, r)| if with_residual { x + r } else { *x })
                        .collect();
                    let bias = wide(&bias);
                    let want = naive(
                        &wide(&sum),
                        &wide(&weight),
                        with_bias.then_some(&bias[..]),
                        1e-5f32.into(),
                    );
                    assert_near(
                        &format!("width {width} at {level:?}"),
                        y.row(r),
                        &want,
                        FORWARD,
                    );
                }
            }
        }
    }
}

#[test]
fn a_large_mean_costs_no_digits() {
    let mut noise = Noise::new(1);
    let x: Vec<f32> = noise.vec(768, 1.0).iter().map(|x| x + 300.0).collect();
    let ones = vec![1.0; 768];
    for &level in levels() {
        let mut y = Matrix::from_vec(x.clone(), 1, 768);
        let norm = LayerNorm {
            weight: &ones,
            bias: None,
            eps: 1e-12,
        };
        norm.in_place_at(level, y.view_mut(), None);
        let want = naive(&wide(&x), &vec![1.0; 768], None, 1e-12);
        // The mean itself is rounded at 300: 1.5e-5 in units of a spread of 0.58.
        assert_near(&format!("{level:?}"), y.row(0), &want, 3e-5);
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch() {
    let mut noise = Noise::new(2);
    let (weight, x) = (noise.vec(67, 1.0), noise.matrix(5, 67, 2.0));
    let norm = LayerNorm {
        weight: &weight,
        bias: None,
        eps: 1e-5,
    };
    for &level in levels() {
        let mut all = x.clone();
        norm.in_place_at(level, all.view_mut(), None);
        for r in 0..5 {
            let mut one = Matrix::from_vec(x.row(r).to_vec(), 1, 67);
            norm.in_place_at(level, one.view_mut(), None);
            assert_eq!(one.row(0), all.row(r), "row {r} at {level:?}");
        }
    }
}

#[test]
fn gradients_equal_differences() {
    const EPS: f32 = 1e-5;
    for &level in levels() {
        for width in [1, 2, 7, 16, 17, 67] {
            let mut noise = Noise::new(100 + width as u64);
            let (weight, bias) = (noise.vec(width, 2.0), noise.vec(width, 1.0));
            let (x, dy) = (noise.matrix(2, width, 2.0), noise.matrix(2, width, 1.0));
            let norm = LayerNorm {
                weight: &weight,
                bias: Some(&bias),
                eps: EPS,
            };
            let mut dx = Matrix::zeros(2, width);
            let (mut dw, mut db) = (vec![0.25; width], vec![0.5; width]);
            norm.backward_at(
                level,
                x.view(),
                dy.view(),
                dx.view_mut(),
                Some(&mut dw),
                Some(&mut db),
            );

            let loss = |x: &[f64], w: &[f64], b: &[f64]| -> f64 {
                (0..2)
                    .flat_map(|r| naive(&x[r * width..][..width], w, Some(b), EPS.into()))
                    .zip(dy.as_slice())
                    .map(|(y, &d)| y * f64::from(d))
                    .sum()
            };
            let (x64, w64, b64) = (wide(x.as_slice()), wide(&weight), wide(&bias));
            let what = format!("width {width} at {level:?}");
            let want = differences(&x64, |x| loss(x, &w64, &b64));
            // A row of width 1 has a variance of 0: the difference quotient itself loses digits there.
            assert_near(&format!("dx, {what}"), dx.as_slice(), &want, BACKWARD);
            let want = differences(&w64, |w| loss(&x64, w, &b64) + 0.25 * w.iter().sum::<f64>());
            assert_near(&format!("dweight, {what}"), &dw, &want, BACKWARD);
            let want = differences(&b64, |b| loss(&x64, &w64, b) + 0.5 * b.iter().sum::<f64>());
            assert_near(&format!("dbias, {what}"), &db, &want, BACKWARD);
        }
    }
}
