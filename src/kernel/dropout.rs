//! Dropout whose mask is a function of a key and an element's place, so that it is made again and never stored.
//!
//! Sixteen bits an element, four elements a word of SplitMix64's finaliser: shares are as good as 1 / 65536. Which places
//! share a key is the caller's to say.

use crate::mat::MatMut;

/// One random word for `counter` under `key`: the same on any machine.
pub fn word(key: u64, counter: u64) -> u64 {
    let mut z = key
        ^ counter
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(0x632b_e59b_d9b4_e019);
    for _ in 0..2 {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
    }
    z
}

/// A mask over rows of elements: 0 for a share of them, `1 / (1 - share)` for the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    key: u64,
    limit: u64,
    scale: f32,
}

impl Dropout {
    /// Drops `share` (0 to below 1) under `key`; `None` where nothing is dropped.
    pub fn new(share: f32, key: u64) -> Option<Self> {
        let limit = (f64::from(share) * 65536.0).round().clamp(0.0, 65535.0) as u64;
        let scale = (65536.0 / (65536 - limit) as f64) as f32;
        (limit > 0).then_some(Self { key, limit, scale })
    }

    /// Masks row `number`.
    pub fn row(&self, number: usize, row: &mut [f32]) {
        let key = word(self.key, number as u64);
        for (c, four) in row.chunks_mut(4).enumerate() {
            let word = word(key, c as u64);
            for (i, v) in four.iter_mut().enumerate() {
                let kept = (word >> (16 * i)) & 0xffff >= self.limit;
                *v *= if kept { self.scale } else { 0.0 };
            }
        }
    }

    /// Masks every row of `x` under its own number.
    pub fn rows(&self, mut x: MatMut<'_>) {
        (0..x.rows()).for_each(|r| self.row(r, x.row_mut(r)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mat::Matrix;

    #[test]
    fn a_share_is_dropped_and_the_mean_stays() {
        for share in [0.1f32, 0.5] {
            let n = 40_000;
            let mut x = Matrix::from_vec(vec![1.0; n], 200, n / 200);
            let dropout = Dropout::new(share, 7).expect("a share");
            dropout.rows(x.view_mut());
            let zeros = x.as_slice().iter().filter(|x| **x == 0.0).count() as f64 / n as f64;
            let mean = x.as_slice().iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            // Four standard deviations of each estimate at one half, the wider one.
            assert!((zeros - f64::from(share)).abs() < 0.01, "{zeros}");
            assert!((mean - 1.0).abs() < 0.02, "{mean}");
            let mut again = Matrix::from_vec(vec![1.0; n], 200, n / 200);
            dropout.rows(again.view_mut());
            assert_eq!(x, again);
            let other = Dropout::new(share, 8).expect("a share");
            other.rows(again.view_mut());
            assert_ne!(x, again);
        }
        assert_eq!(Dropout::new(0.0, 1), None);
    }
}
