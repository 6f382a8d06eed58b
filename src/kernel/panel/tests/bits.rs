//! The bits that every level with fused multiply-add gives, on every architecture.

use super::*;

/// The first 8 bytes of the BLAKE3 of the answers below, little-endian, as AVX2 gave them.
const BITS: [(Precision, &str); 3] = [
    (Precision::F32, "?"),
    (Precision::Bf16, "?"),
    (Precision::Int8, "?"),
];

/// Every level against the same constants: levels that no one machine has together are compared through them.
#[test]
fn fused_levels_agree_bit_for_bit_on_every_architecture() {
    let fused = levels().iter().filter(|&&l| l != Level::Scalar);
    let (m, n, k) = (17, 100, 257);
    let (x, w, bias) = (noise(m, k, 1), noise(n, k, 2), noise(1, n, 3));
    for &level in fused {
        for (precision, want) in BITS {
            if precision == Precision::Bf16 && bf16::native(level) {
                continue; // VDPBF16PS rounds sums in another way
            }
            let packed = Packed::of(w.view(), precision, false);
            let mut y = Matrix::zeros(m, n);
            Product {
                x: x.view(),
                w: packed.panels(),
                init: Init::Bias(bias.row(0)),
                activation: Some(Activation::Gelu),
                residual: None,
            }
            .into_at(level, None, y.view_mut());
            let bytes: Vec<u8> = y.as_slice().iter().flat_map(|y| y.to_le_bytes()).collect();
            let got = blake3::hash(&bytes).to_hex();
            assert_eq!(&got[..16], want, "{precision:?} at {level:?}");
        }
    }
}
