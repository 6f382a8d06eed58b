//! Random numbers that are a function of a key and a counter: same seed, same numbers, on any machine.
//!
//! SplitMix64's finaliser over key and counter. Good enough for masks, shuffles and initial values; no secrets.

pub use crate::kernel::dropout::word;

/// A key of its own for something named under a seed.
pub fn key(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(word(seed, 0), |k, b| word(k, u64::from(b) + 1))
}

/// A stream of numbers under one key.
#[derive(Debug, Clone)]
pub struct Random {
    key: u64,
    counter: u64,
}

impl Random {
    /// The stream of `name` under `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let (key, counter) = (key(seed, name), 0);
        Self { key, counter }
    }

    fn next(&mut self) -> u64 {
        self.counter += 1;
        word(self.key, self.counter)
    }

    /// Uniform in `0 .. 1`.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller's transform).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Uniform in `0 .. n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// Shuffles `items` (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut r = Random::new(7, "moments");
        let n = 20_000;
        let (mut sum, mut squares, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = r.normal();
            sum += x;
            squares += x * x;
            uniform += r.uniform();
        }
        let n = f64::from(n);
        // Four standard deviations of each estimate.
        assert!((sum / n).abs() < 0.03 && (squares / n - 1.0).abs() < 0.04);
        assert!((uniform / n - 0.5).abs() < 0.01);
    }

    #[test]
    fn a_shuffle_keeps_everything_and_repeats_itself() {
        let shuffled = |seed| {
            let mut items: Vec<usize> = (0..100).collect();
            Random::new(seed, "order").shuffle(&mut items);
            items
        };
        let mut a = shuffled(1);
        assert_eq!(a, shuffled(1));
        assert_ne!(a, shuffled(2));
        a.sort_unstable();
        assert_eq!(a, (0..100).collect::<Vec<_>>());
    }
}
