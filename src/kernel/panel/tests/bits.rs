//! The bits that every level with fused multiply-add gives, on every architecture.

use super::*;

/// The first 8 bytes of the BLAKE3 of the answers below (little-endian `f32`), as AVX2 gave them.
const BITS: [(Precision, &str); 3] = [
    (Precision::F32, "15ed2febbdfefe79"),
    (Precision::Bf16, "2754cc0789afefd8"),
    (Precision::Int8, "7c0fd5a1c9e9099d"),
];

/// Every level against the same constants: levels that no one machine has together are compared through them.
#[test]
fn fused_levels_agree_bit_for_bit_on_every_architecture() {
    let fused = levels().iter().filter(|&&l| l != Level::Scalar);
    let (m, n, k) = (17, 100, 257);
    let (x, w, bias) = (noise(m, k, 1), noise(n, k, 2), noise(1, n, 3));
    for &level in fused {
        // VDPBF16PS rounds sums in another way.
        let same = |p| p != Precision::Bf16 || !bf16::native(level);
        let want: Vec<_> = BITS.into_iter().filter(|b| same(b.0)).collect();
        let got = want.iter().map(|&(precision, _)| {
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
            let digest = blake3::hash(&bytes).to_hex()[..16].to_owned();
            (precision, digest)
        });
        let got: Vec<_> = got.collect();
        let got: Vec<_> = got
            .iter()
            .map(|(p, digest)| (*p, digest.as_str()))
            .collect();
        assert_eq!(got, want, "{level:?}");
    }
}
