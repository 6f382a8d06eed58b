//! How a run goes, on stderr: a bar on a terminal, a line an epoch (and now and then a line between) elsewhere.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    report::grouped,
    train::run::{Epoch, Event},
};

/// Redraws a second.
const REDRAWS: u8 = 4;
/// Between two lines within an epoch where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// The share of a new step in the mean loss that is shown.
const NEW: f64 = 0.05;

/// What is told, and to whom.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    quiet: bool,
    metric: String,
    best: Option<f64>,
    loss: Option<f64>,
    /// Since this process began to train, and its steps and tokens.
    start: Instant,
    steps: usize,
    tokens: usize,
    told: Instant,
}

impl Progress {
    /// `metric` is the score that is shown.
    pub(super) fn new(quiet: bool, metric: &str) -> Self {
        let target = match quiet {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr_with_hz(REDRAWS), // draws on a terminal only
        };
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}")
            .expect("the template is well-formed")
            .progress_chars("█▉▊▋▌▍▎▏ ");
        Self {
            bar: ProgressBar::with_draw_target(Some(0), target).with_style(style),
            quiet,
            metric: metric.to_owned(),
            best: None,
            loss: None,
            start: Instant::now(),
            steps: 0,
            tokens: 0,
            told: Instant::now(),
        }
    }

    /// A line, above the bar.
    pub(super) fn say(&self, what: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("{what}"));
        }
    }

    /// Takes over what an earlier process had come to.
    pub(super) fn remember(&mut self, epochs: &[Epoch]) {
        for epoch in epochs {
            self.note(epoch);
        }
    }

    /// A step or an epoch is done.
    pub(super) fn hear(&mut self, event: &Event<'_>) {
        match event {
            Event::Step {
                step,
                steps,
                loss,
                kept,
                tokens,
            } => {
                self.steps += 1;
                self.tokens += tokens;
                let mean = self.loss.map_or(*loss, |mean| mean + NEW * (loss - mean));
                self.loss = Some(mean);
                let shown = !self.bar.is_hidden();
                let due = !self.quiet && !shown && self.told.elapsed() >= LINE_EVERY;
                if !shown && !due {
                    return;
                }
                let seconds = self.start.elapsed().as_secs_f64();
                let left = seconds / self.steps as f64 * steps.saturating_sub(*step) as f64;
                let left = HumanDuration(Duration::from_secs_f64(left));
                let rate = grouped((self.tokens as f64 / seconds.max(1e-6)).round() as u64);
                let best = self
                    .best
                    .map_or(String::new(), |best| format!("{} {best:.4}  ", self.metric));
                let message = format!(
                    "loss {mean:.4}  {best}ranks {}  {rate} tokens/s  {left} left",
                    grouped(*kept as u64)
                );
                if shown {
                    self.bar.set_length(*steps as u64);
                    self.bar.set_position(*step as u64);
                    self.bar.set_message(message);
                } else {
                    self.told = Instant::now();
                    self.say(&format!("step {step} of {steps}: {message}"));
                }
            }
            Event::Epoch(epoch) => {
                self.note(epoch);
                self.told = Instant::now();
                self.say(&line(epoch));
            }
            Event::Phase { number, .. } => self.say(&format!("phase {number} is done")),
            Event::Checkpoint(_) => {}
        }
    }

    fn note(&mut self, epoch: &Epoch) {
        let score = epoch.scores.get(self.metric.as_str()).copied();
        self.best = match (self.best, score) {
            (Some(best), Some(score)) => Some(best.max(score)),
            (best, score) => best.or(score),
        };
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// `epoch 2: loss 0.4312  accuracy 0.8211 (train 0.91)  ranks 101  parameters 77,568  12 s`
fn line(epoch: &Epoch) -> String {
    let scores = |scores: &BTreeMap<&'static str, f64>| {
        let scores = scores.iter().map(|(name, v)| {
            let train = epoch.train_scores.get(name);
            let train = train.map_or(String::new(), |v| format!(" (train {v:.4})"));
            format!("{name} {v:.4}{train}")
        });
        scores.collect::<Vec<_>>().join("  ")
    };
    format!(
        "epoch {}: loss {:.4}  {}  ranks {}  parameters {}  {:.0} s",
        epoch.epoch,
        epoch.loss,
        scores(&epoch.scores),
        grouped(epoch.kept_ranks as u64),
        grouped(epoch.kept_parameters as u64),
        epoch.seconds
    )
}
