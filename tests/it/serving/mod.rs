//! The server as its users meet it: the binary on a port of its own, over HTTP.
//!
//! server: starts and asks one · flags: also as variables and keys of a file · process: log, signals · swap: every answer is of a
//! generation that was current · bad_input: no 5xx from a bad request · hostile: mutated adapters · crash: kill -9 at random
//! moments · console: the page in a browser · clients: clients of other projects, unchanged · traces: spans at a collector

mod bad_input;
mod clients;
mod console;
mod crash;
mod flags;
mod hostile;
mod process;
mod server;
mod swap;
#[cfg(feature = "otlp")]
mod traces;

/// A fixed-seed generator (splitmix64) for tests that must run the same again.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Evenly in 0 to 1, without the 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
