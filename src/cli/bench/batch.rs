//! Batches of random tokens: how many rows, how long.

use std::{fmt, str::FromStr};

use crate::model::{Batch, Model, Sequence};

/// Rows, and tokens of each; none: a mixture of lengths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) tokens: Option<usize>,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let expected = || format!("{s:?}: expected ROWSxTOKENS or ROWSxmixed, as in 8x128");
        let (rows, tokens) = s.split_once('x').ok_or_else(expected)?;
        let number = |s: &str| s.parse().ok().filter(|&n| n > 0).ok_or_else(expected);
        Ok(Self {
            rows: number(rows)?,
            tokens: match tokens {
                "mixed" => None,
                n => Some(number(n)?),
            },
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tokens {
            Some(tokens) => write!(f, "{}x{tokens}", self.rows),
            None => write!(f, "{}xmixed", self.rows),
        }
    }
}

impl Shape {
    /// The batch, its rows shared out among `tasks` tasks; the same at every call. Lengths end at the model's longest.
    pub(super) fn batch(self, model: &Model, tasks: usize) -> Batch {
        let mut noise = Noise(7);
        let (vocab, most) = (model.spec().vocab, model.max_tokens());
        let rows: Vec<(Vec<u32>, Vec<u32>)> = (0..self.rows)
            .map(|_| {
                let tokens = self.tokens.unwrap_or_else(|| noise.length()).min(most);
                let ids = (0..tokens).map(|_| noise.below(vocab) as u32).collect();
                (ids, vec![0; tokens])
            })
            .collect();
        Batch::pack(rows.iter().enumerate().map(|(i, (ids, types))| Sequence {
            ids,
            types,
            task: i * tasks / self.rows,
        }))
    }
}

/// A stream of numbers that is the same at every run.
struct Noise(u32);

impl Noise {
    /// In -1..1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(self.0 >> 8) / f64::from(1 << 23) - 1.0
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() + 1.0) / 2.0 * n as f64) as usize
    }

    /// A length as texts have it: log-normal, 4 to 128, about 22 in the mean.
    fn length(&mut self) -> usize {
        let normal = (0..12).map(|_| self.next()).sum::<f64>() / 2.0;
        (2.83 + 0.72 * normal).exp().round().clamp(4.0, 128.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_read_back_and_nonsense_is_refused() {
        for good in ["1x16", "8x128", "32xmixed"] {
            assert_eq!(good.parse::<Shape>().unwrap().to_string(), good);
        }
        for bad in ["", "8", "0x4", "4x0", "x", "4xmix", "-1x3"] {
            assert!(
                bad.parse::<Shape>().unwrap_err().contains("ROWSxTOKENS"),
                "{bad}"
            );
        }
    }

    #[test]
    fn mixed_lengths_have_the_mean_they_claim() {
        let mut noise = Noise(7);
        let lengths: Vec<usize> = (0..4096).map(|_| noise.length()).collect();
        let mean = lengths.iter().sum::<usize>() as f64 / 4096.0;
        assert!((20.0..24.0).contains(&mean), "{mean}");
        assert!(lengths.iter().all(|n| (4..=128).contains(n)));
    }
}
