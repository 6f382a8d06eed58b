//! How far it is, on stderr: rows, tokens, and how many of each a second.
//!
//! Nothing is drawn when stderr is no terminal, or with `--quiet`; the counts are kept all the same, for the summary.
//! Logs written while a bar stands go through [`Progress::aside`], else they would be drawn over.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::grouped;

/// Redraws a second; more would cost time and please nobody.
const REDRAWS: u8 = 8;

/// A running count. Shared by reference between threads.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    rows: AtomicU64,
    tokens: AtomicU64,
    start: Instant,
}

/// What was done, and in what time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Done {
    /// Rows answered.
    pub(crate) rows: u64,
    /// Their tokens.
    pub(crate) tokens: u64,
    /// Time since the start.
    pub(crate) elapsed: Duration,
}

impl Done {
    /// `1,234 rows, 56,789 tokens in 3.2 s (386 rows/s, 17,747 tokens/s)`
    pub(crate) fn summary(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let (rows, tokens) = (grouped(self.rows), grouped(self.tokens));
        let (row_rate, token_rate) = (rate(self.rows, seconds), rate(self.tokens, seconds));
        format!(
            "{rows} rows, {tokens} tokens in {seconds:.1} s ({row_rate} rows/s, {token_rate} tokens/s)"
        )
    }
}

impl Progress {
    /// Starts counting; `rows` is how many there will be, where that is known.
    pub(crate) fn new(rows: Option<u64>, quiet: bool) -> Progress {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(REDRAWS), // draws on a terminal only
        };
        let template = match rows {
            Some(_) => "{bar:24} {pos}/{len} rows  {msg}  {eta} left",
            None => "{spinner} {pos} rows  {msg}",
        };
        let style = ProgressStyle::with_template(template)
            .expect("the two templates above are well-formed")
            .progress_chars("█▉▊▋▌▍▎▏ ");
        let bar = ProgressBar::with_draw_target(rows, target).with_style(style);
        Progress {
            bar,
            rows: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// Counts rows that are done and their tokens.
    pub(crate) fn add(&self, rows: u64, tokens: u64) {
        let done = Done {
            rows: self.rows.fetch_add(rows, Ordering::Relaxed) + rows,
            tokens: self.tokens.fetch_add(tokens, Ordering::Relaxed) + tokens,
            elapsed: self.start.elapsed(),
        };
        if !self.bar.is_hidden() {
            let seconds = done.elapsed.as_secs_f64();
            let (rows, tokens) = (rate(done.rows, seconds), rate(done.tokens, seconds));
            self.bar
                .set_message(format!("{rows} rows/s  {tokens} tokens/s"));
        }
        self.bar.inc(rows);
    }

    /// Clears the bar and says what was done.
    pub(crate) fn finish(self) -> Done {
        self.bar.finish_and_clear();
        Done {
            rows: self.rows.into_inner(),
            tokens: self.tokens.into_inner(),
            elapsed: self.start.elapsed(),
        }
    }
}

/// The bar of packing a base, shown when packing starts: a base that is packed already shows none.
#[derive(Debug)]
pub(crate) struct Packing {
    bar: ProgressBar,
}

impl Packing {
    /// Nothing is drawn yet.
    pub(crate) fn new(quiet: bool) -> Packing {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(REDRAWS),
        };
        let style =
            ProgressStyle::with_template("packing the base {bar:24} {percent} %  {eta} left");
        let style = style
            .expect("the template is well-formed")
            .progress_chars("█▉▊▋▌▍▎▏ ");
        Packing {
            bar: ProgressBar::with_draw_target(Some(0), target).with_style(style),
        }
    }

    /// `done` of `total` bytes are packed.
    pub(crate) fn set(&self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        if done == total {
            self.bar.finish_and_clear();
        }
    }
}

/// The bar of files that are downloaded, one after the other.
#[cfg(feature = "hub")]
#[derive(Debug)]
pub(crate) struct Download {
    bar: ProgressBar,
}

#[cfg(feature = "hub")]
impl Download {
    /// Nothing is drawn yet.
    pub(crate) fn new(quiet: bool) -> Download {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(REDRAWS),
        };
        let template = "{msg} {bar:24} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
        let style = ProgressStyle::with_template(template)
            .expect("the template is well-formed")
            .progress_chars("█▉▊▋▌▍▎▏ ");
        Download {
            bar: ProgressBar::with_draw_target(Some(0), target).with_style(style),
        }
    }

    /// `done` bytes of `file` are here, of `total` where that is known.
    pub(crate) fn set(&self, file: &str, done: u64, total: Option<u64>) {
        if self.bar.message() != file {
            self.bar.set_message(file.to_owned());
            self.bar.set_length(total.unwrap_or(done));
            self.bar.set_position(done);
            self.bar.reset_eta(); // what was here before says nothing of the connection
        }
        self.bar.set_length(total.unwrap_or(done));
        self.bar.set_position(done);
    }
}

#[cfg(feature = "hub")]
impl Drop for Download {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn rate(n: u64, seconds: f64) -> String {
    let rate = n as f64 / seconds.max(1e-6); // a clock that has not ticked is no infinite speed
    match rate < 10.0 {
        true => format!("{rate:.1}"),
        false => grouped(rate.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_many_threads() {
        let progress = Progress::new(Some(400), true);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| progress.add(1, 7)));
            }
        });
        let done = progress.finish();
        assert_eq!((done.rows, done.tokens), (400, 2800));
    }

    #[test]
    fn the_summary_reads_well() {
        let done = Done {
            rows: 1234,
            tokens: 56_789,
            elapsed: Duration::from_millis(3200),
        };
        let expected = "1,234 rows, 56,789 tokens in 3.2 s (386 rows/s, 17,747 tokens/s)";
        assert_eq!(done.summary(), expected);
        assert_eq!(rate(3, 2.0), "1.5");
    }
}
