//! Packing, unpacking, merging in place, and views of packed bytes.

use super::*;

#[test]
fn unpacking_gives_what_was_packed() {
    for n in N {
        for k in K {
            let w = noise(n, k, 1);
            for precision in PRECISIONS {
                for tight in [false, true] {
                    let packed = Packed::of(w.view(), precision, tight);
                    let mut back = Matrix::zeros(n, k);
                    unpack(packed.bytes(), packed.shape, back.view_mut());
                    for c in 0..n {
                        let most = w.row(c).iter().fold(0f32, |m, x| m.max(x.abs()));
                        for (&x, &y) in w.row(c).iter().zip(back.row(c)) {
                            let right = match precision {
                                Precision::F32 => x == y,
                                Precision::Bf16 => half::bf16::from_f32(x).to_f32() == y,
                                // Half a quantum, and the rounding of scale and product.
                                Precision::Int8 => (x - y).abs() <= most / 254.0 * 1.0001,
                            };
                            assert!(right, "{precision:?} {n} x {k}, tight {tight}: {y} for {x}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn panels_start_at_cache_lines_and_sizes_are_as_documented() {
    let shape = |n, k, precision, tight| PanelShape {
        n,
        k,
        precision,
        tight,
    };
    for k in K {
        for precision in PRECISIONS {
            assert_eq!(shape(1, k, precision, false).bytes() % 64, 0);
        }
    }
    assert_eq!(shape(20, 5, Precision::F32, false).bytes(), 2 * 16 * 5 * 4);
    assert_eq!(shape(20, 5, Precision::Bf16, false).bytes(), 2 * 16 * 3 * 4);
    assert_eq!(
        shape(20, 5, Precision::Int8, false).bytes(),
        2 * (128 + 16 * 2 * 4)
    );
    assert_eq!(
        shape(20, 5, Precision::F32, true).bytes(),
        (20 * 5 + 16) * 4
    );
    assert_eq!(shape(0, 5, Precision::F32, false).bytes(), 0);
}

/// Four fused multiply-adds of numbers under 1, against `f64`, and the rounding of the sum: a few steps of 6e-8.
const SUM_OF_RANKS: f64 = 5e-7;

#[test]
fn merging_changes_the_named_columns_alone_and_in_pieces_the_same() {
    for &level in crate::simd::levels() {
        for (n, k) in [(50, 31), (16, 8), (100, 64), (3, 1)] {
            for precision in [Precision::F32, Precision::Bf16] {
                for columns in [0..n, 0..1, n - 1..n, n / 3..n / 2 + 1, 2..2] {
                    let w = noise(n, k, 1);
                    let (up, down) = (noise(columns.len(), 4, 2), noise(4, k, 3));
                    let mut packed = Packed::of(w.view(), precision, false);
                    let mut before = Matrix::zeros(n, k);
                    unpack(packed.bytes(), packed.shape, before.view_mut());
                    let shape = packed.shape;
                    let add = |bytes: &mut [u8]| {
                        let (up, down) = (up.view(), down.view());
                        add_low_rank_at(level, bytes, shape, columns.clone(), up, down);
                    };
                    add(packed.bytes_mut());
                    let mut after = Matrix::zeros(n, k);
                    unpack(packed.bytes(), shape, after.view_mut());
                    for c in 0..n {
                        for i in 0..k {
                            let (x, found) = (before.row(c)[i], after.row(c)[i]);
                            if !columns.contains(&c) {
                                assert_eq!(found.to_bits(), x.to_bits(), "{columns:?} at {c}, {i}");
                                continue;
                            }
                            let up = up.row(c - columns.start).iter();
                            let ranks = up
                                .enumerate()
                                .map(|(r, &b)| f64::from(b) * f64::from(down.row(r)[i]));
                            let want = f64::from(x) + ranks.sum::<f64>();
                            let rounding = match precision {
                                Precision::F32 => 0.0,
                                _ => want.abs() / 256.0,
                            };
                            assert!(
                                (f64::from(found) - want).abs() <= SUM_OF_RANKS + rounding,
                                "{level:?} {precision:?} {columns:?} at {c}, {i}: {found} of {want}"
                            );
                        }
                    }
                    // Padding stays zero: what is packed anew from the result has the same bytes.
                    let again = Packed::of(after.view(), precision, false);
                    assert_eq!(again.bytes(), packed.bytes());
                    let mut cut = Packed::of(w.view(), precision, false);
                    for piece in pieces(cut.bytes_mut(), shape, 2) {
                        let of = columns.start.max(piece.columns.start)
                            ..columns.end.min(piece.columns.end);
                        if of.start < of.end {
                            let rows = of.start - columns.start..of.end - columns.start;
                            let here = of.start - piece.columns.start..of.end - piece.columns.start;
                            let up = up.view().row_range(rows);
                            add_low_rank_at(level, piece.bytes, piece.shape, here, up, down.view());
                        }
                    }
                    assert_eq!(cut.bytes(), packed.bytes());
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "int8 weights cannot be added to")]
fn merging_into_int8_panics() {
    let w = noise(16, 4, 1);
    let mut packed = Packed::of(w.view(), Precision::Int8, false);
    let shape = packed.shape;
    add_low_rank(
        packed.bytes_mut(),
        shape,
        0..16,
        w.view(),
        w.view().row_range(0..4),
    );
}

#[test]
fn ranges_of_panels_are_views_of_the_same_bytes() {
    let w = noise(53, 9, 1);
    for precision in PRECISIONS {
        for tight in [false, true] {
            let packed = Packed::of(w.view(), precision, tight);
            for start in 0..=4 {
                for end in start..=4 {
                    let part = packed.panels().panel_range(start..end);
                    let cols = (start * WIDTH).min(53)..(end * WIDTH).min(53);
                    assert_eq!(part.shape().n, cols.len());
                    let mut back = Matrix::zeros(cols.len(), 9);
                    unpack(part.bytes, part.shape(), back.view_mut());
                    let alone = Packed::of(w.view().row_range(cols), precision, false);
                    let mut want = Matrix::zeros(back.rows(), 9);
                    unpack(alone.bytes(), alone.shape, want.view_mut());
                    assert_eq!(back, want, "{precision:?} {start}..{end}, tight {tight}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "packed weight of")]
fn bytes_of_another_length_panic() {
    let shape = PanelShape {
        n: 16,
        k: 4,
        precision: Precision::F32,
        tight: false,
    };
    Panels::new(&[0; 252], shape);
}
