//! What must be exact or poisoned: integer sums, zeros, infinities and NaN.

use super::*;

fn product(level: Level, x: &Matrix, w: &Packed) -> Matrix {
    let mut y = Matrix::zeros(x.rows(), w.shape.n);
    let (x, w, init) = (x.view(), w.panels(), Init::Zero);
    Product {
        x,
        w,
        init,
        activation: None,
        residual: None,
    }
    .into_at(level, None, y.view_mut());
    y
}

/// Integers that are their own quanta: activations `low..=low + 254`, weights -127..=127. The largest products stand
/// side by side, where sums of 16 bits would saturate.
#[test]
fn integer_sums_are_exact_at_every_level() {
    let (m, n) = (9, 33);
    for k in [2, 7, 64, 300] {
        for low in [0.0f32, -128.0, -254.0] {
            let whole = |from: Matrix, f: &dyn Fn(usize, f32) -> f32| {
                let cols = from.cols().max(1);
                let data = from.as_slice().iter().enumerate();
                let data = data.map(|(i, &x)| f(i % cols, x)).collect();
                Matrix::from_vec(data, from.rows(), from.cols())
            };
            let x = whole(noise(m, k, 1), &|i, x| match i {
                0 => low + 254.0,
                1 => low,
                _ if x > 0.0 => low + 254.0, // a half of the row at its largest
                _ => low + (x.abs() * 254.0).floor(),
            });
            let w = whole(noise(n, k, 2), &|i, x| match i {
                0 => 127.0,
                _ if x > 0.2 => 127.0,
                _ if x < -0.2 => -127.0,
                _ => (x * 600.0).floor(),
            });
            let packed = Packed::of(w.view(), Precision::Int8, false);
            for &level in levels() {
                let y = product(level, &x, &packed);
                for r in 0..m {
                    for c in 0..n {
                        let want: i64 = (0..k)
                            .map(|i| x.row(r)[i] as i64 * w.row(c)[i] as i64)
                            .sum();
                        assert_eq!(
                            f64::from(y.row(r)[c]),
                            want as f64,
                            "k {k}, low {low} at {level:?}, element {r}, {c}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_zeros_and_tiny_rows_give_the_init() {
    let w = noise(20, 70, 2);
    for precision in PRECISIONS {
        let packed = Packed::of(w.view(), precision, false);
        for &level in levels() {
            for value in [0.0f32, -0.0, 1e-41] {
                let x = Matrix::from_vec(vec![value; 3 * 70], 3, 70);
                let y = product(level, &x, &packed);
                assert!(
                    y.as_slice().iter().all(|y| y.abs() < 1e-38),
                    "{precision:?} at {level:?} of {value}"
                );
            }
        }
    }
}

/// A NaN or an infinity in a row reaches every element of that row, and no other row.
#[test]
fn what_is_not_finite_poisons_its_row_alone() {
    let w = noise(20, 70, 2);
    for precision in PRECISIONS {
        let packed = Packed::of(w.view(), precision, false);
        for &level in levels() {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 15, 63, 64, 69] {
                    let mut x = noise(3, 70, 1);
                    let clean = product(level, &x, &packed);
                    x.view_mut().row_mut(1)[at] = bad;
                    let y = product(level, &x, &packed);
                    assert!(
                        y.row(1).iter().all(|y| !y.is_finite()),
                        "{precision:?} at {level:?}: {bad} at {at} was lost"
                    );
                    assert_eq!((y.row(0), y.row(2)), (clean.row(0), clean.row(2)));
                }
            }
        }
    }
}

/// As above for a weight: it reaches its column alone.
#[test]
fn a_weight_that_is_not_finite_poisons_its_column_alone() {
    for precision in PRECISIONS {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut w = noise(20, 70, 2);
            w.view_mut().row_mut(17)[69] = bad;
            let packed = Packed::of(w.view(), precision, false);
            for &level in levels() {
                let y = product(level, &noise(3, 70, 1), &packed);
                for r in 0..3 {
                    for (c, y) in y.row(r).iter().enumerate() {
                        assert_eq!(
                            y.is_finite(),
                            c != 17,
                            "{precision:?} at {level:?}, column {c}"
                        );
                    }
                }
            }
        }
    }
}
