//! What a benchmark found, as data, a table and a page.
//!
//! A cost is a ratio to the bare base of the same round, so that a machine whose speed drifts does not enter it; the
//! spread of those ratios is the noise, and stands beside every cost. Measuring is not done here.

mod page;
mod table;

use serde::Serialize;

pub use page::page;
pub use table::table;

/// Everything that one run found.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// Version of this program.
    pub version: &'static str,
    /// The base's directory, or what it is called.
    pub model: String,
    /// Its shape in words.
    pub shape: String,
    /// Precision of the base's linears.
    pub dtype: String,
    /// The CPU's name and the instruction level in use.
    pub cpu: String,
    /// Threads of a forward pass.
    pub threads: usize,
    /// One for each batch.
    pub batches: Vec<BatchReport>,
    /// Costs that come once, not with each batch.
    pub once: Vec<Once>,
    /// Memory of this process after each step.
    pub memory: Vec<Memory>,
}

/// One batch under every variant.
#[derive(Debug, Clone, Serialize)]
pub struct BatchReport {
    /// `8x128`
    pub name: String,
    /// Sequences.
    pub rows: usize,
    /// Tokens.
    pub tokens: usize,
    /// Rounds that were measured.
    pub rounds: usize,
    /// The bare base first.
    pub variants: Vec<Variant>,
}

/// One way of running a batch.
#[derive(Debug, Clone, Serialize)]
pub struct Variant {
    /// What it is.
    pub name: String,
    /// Distinct adapters in the batch.
    pub adapters: usize,
    /// Mean rank over all sites of the base.
    pub mean_rank: f64,
    /// Milliseconds.
    pub median_ms: f64,
    /// Milliseconds.
    pub p95_ms: f64,
    /// At the median.
    pub tokens_per_s: f64,
    /// Median over rounds of the ratio to the bare base, less one, in percent; 0 for the base.
    pub overhead_percent: f64,
    /// Half the range of the middle half of those ratios (of times over their median, for the base), in percent.
    pub noise_percent: f64,
}

/// A cost that comes once.
#[derive(Debug, Clone, Serialize)]
pub struct Once {
    /// What it is.
    pub name: String,
    /// Milliseconds, median.
    pub median_ms: f64,
    /// Milliseconds.
    pub p95_ms: f64,
}

/// Memory of the process.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// After what.
    pub after: String,
    /// Resident, MiB.
    pub rss_mib: f64,
    /// Resident, shared pages divided among their users, MiB.
    pub pss_mib: f64,
    /// Resident and this process's alone, MiB.
    pub private_mib: f64,
}

impl Variant {
    /// A variant from its seconds a round and those of the bare base in the same rounds.
    ///
    /// # Panics
    /// When there is no round or the numbers of rounds differ.
    pub fn new(
        name: String,
        (adapters, mean_rank): (usize, f64),
        tokens: usize,
        seconds: &[f64],
        base: Option<&[f64]>,
    ) -> Self {
        assert!(!seconds.is_empty(), "no round was measured");
        let median = quantile(seconds, 0.5);
        let ratios: Vec<f64> = match base {
            Some(base) => {
                assert_eq!(base.len(), seconds.len(), "rounds of the base");
                seconds.iter().zip(base).map(|(s, b)| s / b).collect()
            }
            None => seconds.iter().map(|s| s / median).collect(),
        };
        Self {
            name,
            adapters,
            mean_rank,
            median_ms: 1e3 * median,
            p95_ms: 1e3 * quantile(seconds, 0.95),
            tokens_per_s: tokens as f64 / median,
            overhead_percent: 100.0 * (quantile(&ratios, 0.5) - 1.0),
            noise_percent: 50.0 * (quantile(&ratios, 0.75) - quantile(&ratios, 0.25)),
        }
    }
}

impl Once {
    /// A cost from its seconds.
    pub fn new(name: &str, seconds: &[f64]) -> Self {
        Self {
            name: name.to_owned(),
            median_ms: 1e3 * quantile(seconds, 0.5),
            p95_ms: 1e3 * quantile(seconds, 0.95),
        }
    }
}

/// The `q` quantile, the nearest value at or above it.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (q * sorted.len() as f64).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> BenchReport {
        let base = [0.010, 0.020, 0.011];
        let slower = [0.011, 0.022, 0.0121];
        let variant = |name: &str, seconds: &[f64], base: Option<&[f64]>| {
            Variant::new(name.to_owned(), (1, 4.0), 64, seconds, base)
        };
        BenchReport {
            version: "0",
            model: "a <model> & more".to_owned(),
            shape: "12 layers".to_owned(),
            dtype: "f32".to_owned(),
            cpu: "cpu".to_owned(),
            threads: 2,
            batches: vec![BatchReport {
                name: "4x16".to_owned(),
                rows: 4,
                tokens: 64,
                rounds: 3,
                variants: vec![
                    variant("base", &base, None),
                    variant("rank 4", &slower, Some(&base)),
                ],
            }],
            once: vec![Once::new("swap", &[0.002])],
            memory: vec![Memory {
                after: "loading".to_owned(),
                rss_mib: 10.0,
                pss_mib: 5.0,
                private_mib: 1.0,
            }],
        }
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let x = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(
            (quantile(&x, 0.5), quantile(&x, 0.95), quantile(&x, 0.0)),
            (3.0, 5.0, 1.0)
        );
        assert_eq!(quantile(&[7.0], 0.25), 7.0);
    }

    #[test]
    fn a_drifting_machine_does_not_enter_the_cost() {
        let report = report();
        let adapted = &report.batches[0].variants[1];
        assert!(
            (adapted.overhead_percent - 10.0).abs() < 1e-9,
            "{adapted:?}"
        );
        assert!(adapted.noise_percent < 1e-9, "{adapted:?}");
        assert_eq!(report.batches[0].variants[0].overhead_percent, 0.0);
    }

    #[test]
    fn the_table_and_the_page_say_it_all_and_escape_names() {
        let report = report();
        let text = table(&report);
        for word in ["4x16", "3 rounds", "rank 4", "+10.0", "swap", "loading"] {
            assert!(text.contains(word), "{word} in\n{text}");
        }
        let html = page(&report);
        assert!(html.contains("a &lt;model&gt; &amp; more") && !html.contains("<model>"));
        assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
        assert!(
            !html.contains("http://") || html.contains("www.w3.org"),
            "nothing is fetched"
        );
    }
}
