//! Every activation and derivative at every level, against `f64`.

use super::*;
use crate::simd::levels;

/// `1 - erf(z)` for `z >= 0`: Taylor's series below 2.5, the continued fraction above.
fn erfc(z: f64) -> f64 {
    if z < 2.5 {
        let (mut term, mut sum) = (z, z);
        for n in 1..80 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        1.0 - sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let tail = (1..200).rev().fold(z, |f, n| z + f64::from(n) / 2.0 / f);
        (-z * z).exp() / (tail * std::f64::consts::PI.sqrt())
    }
}

fn naive(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Gelu => {
            let tail = 0.5 * erfc(x.abs() / std::f64::consts::SQRT_2);
            x * if x < 0.0 { tail } else { 1.0 - tail }
        }
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

const ALL: [Activation; 5] = [
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Silu,
    Activation::Tanh,
];

/// A dense walk over small, ordinary and large arguments of both signs.
fn grid() -> Vec<f32> {
    let mut xs = vec![
        0.0,
        -0.0,
        1e-40,
        -1e-40,
        f32::MIN_POSITIVE,
        1e30,
        -1e30,
        f32::MAX,
    ];
    for i in 0..40_000 {
        let x = 15.0 * (i as f32 + 0.5) / 40_000.0;
        xs.extend([x, -x, x * 1e-3, -x * 1e-3, x * 20.0, -x * 20.0]);
    }
    xs
}

/// What one rounding of the result allows, plus the error that the documentation grants.
fn budget(x: f64, want: f64) -> f64 {
    1e-7 * x.abs().max(1.0) + want.abs() * f64::from(f32::EPSILON) / 2.0
}

#[test]
fn every_activation_is_near_the_true_value() {
    for &level in levels() {
        for f in ALL {
            let xs = grid();
            let mut got = xs.clone();
            f.apply_at(level, &mut got);
            let mut worst = (0.0, 0.0);
            for (&x, &y) in xs.iter().zip(&got) {
                let x = f64::from(x);
                let want = naive(f, x);
                let ratio = (f64::from(y) - want).abs() / budget(x, want);
                // NaN must fail.
                if ratio > worst.0 || ratio.is_nan() {
                    worst = (ratio, x);
                }
            }
            assert!(worst.0 <= 1.0, "{f:?} at {level:?}: {worst:?}");
        }
    }
}

#[test]
fn small_arguments_keep_their_relative_accuracy() {
    for &level in levels() {
        for f in ALL {
            for i in 1..2000 {
                let x = i as f32 * 2.5e-4;
                for x in [x, -x] {
                    let mut y = [x];
                    f.apply_at(level, &mut y);
                    let want = naive(f, f64::from(x));
                    let error = (f64::from(y[0]) - want).abs();
                    // Four roundings.
                    assert!(
                        error <= 2.4e-7 * want.abs(),
                        "{f:?}({x}) at {level:?}: {y:?} for {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_ends_are_right() {
    for &level in levels() {
        let mut x = [f32::INFINITY, 200.0, -200.0, f32::NAN];
        Activation::Gelu.apply_at(level, &mut x);
        assert_eq!(x[..2], [f32::INFINITY, 200.0]);
        assert!(x[2].abs() < 1e-30 && x[3].is_nan(), "{x:?}");
        for f in ALL {
            let mut x = [f32::NAN, 100.0, -100.0];
            f.apply_at(level, &mut x);
            assert!(x[0].is_nan(), "{f:?} hides NaN at {level:?}");
            assert_eq!(x[1], if f == Activation::Tanh { 1.0 } else { 100.0 });
            let low = if f == Activation::Tanh { -1.0 } else { 0.0 };
            assert!((x[2] - low).abs() < 1e-30, "{f:?}(-100) = {}", x[2]);
        }
    }
}

#[test]
fn a_value_does_not_depend_on_its_place_in_the_slice() {
    for &level in levels() {
        for f in ALL {
            for n in [0, 1, 15, 16, 17, 67] {
                let xs: Vec<f32> = (0..n).map(|i| i as f32 * 0.37 - 5.0).collect();
                let mut all = xs.clone();
                f.apply_at(level, &mut all);
                for (i, &x) in xs.iter().enumerate() {
                    let mut one = [x];
                    f.apply_at(level, &mut one);
                    assert_eq!(one[0].to_bits(), all[i].to_bits(), "{f:?} {i} of {n}");
                }
            }
        }
    }
}

#[test]
fn derivatives_equal_differences() {
    /// Half the step of the central difference in `f64`: its own error is below 1e-9.
    const H: f64 = 1e-5;
    for &level in levels() {
        for f in ALL {
            let xs: Vec<f32> = grid()
                .into_iter()
                .filter(|x| x.abs() > 1e-4 && x.abs() < 300.0)
                .collect();
            let dy = vec![1.0; xs.len()];
            let mut dx = vec![0.0; xs.len()];
            f.backward_at(level, &xs, &dy, &mut dx);
            for (&x, &got) in xs.iter().zip(&dx) {
                let x = f64::from(x);
                let want = (naive(f, x + H) - naive(f, x - H)) / (2.0 * H);
                let error = (f64::from(got) - want).abs();
                assert!(error <= 5e-7, "{f:?}'({x}) at {level:?}: {got} for {want}");
            }
        }
    }
}
