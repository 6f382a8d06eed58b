//! Which of several results to keep, by score and size: the Pareto front, the best, the smallest that is as good.
//!
//! Pure functions over points; what a point is (an epoch, a phase, a run) its caller knows. A score that is not a number
//! never wins.

use std::str::FromStr;

/// One result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Higher is better.
    pub score: f64,
    /// Parameters of A and B in open ranks.
    pub parameters: usize,
}

/// How one of several results is chosen.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// The highest score, the first of equals.
    Best,
    /// The last.
    Last,
    /// The fewest parameters among those whose score is at most this share below the highest.
    SmallestWithin(f64),
}

impl FromStr for Select {
    type Err = String;

    /// `best`, `last`, `smallest-within 0.5%`, `smallest-within 0.005`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let select = match words.next() {
            Some("best") => Self::Best,
            Some("last") => Self::Last,
            Some("smallest-within") => {
                let share = words.next().unwrap_or_default();
                let (number, unit) = match share.strip_suffix('%') {
                    Some(number) => (number, 100.0),
                    None => (share, 1.0),
                };
                let share = number.parse::<f64>().map(|n| n / unit);
                match share {
                    Ok(share) if (0.0..1.0).contains(&share) => Self::SmallestWithin(share),
                    _ => {
                        return Err(format!(
                            "{text:?}: a share from 0% to below 100% is missing"
                        ));
                    }
                }
            }
            _ => {
                return Err(format!(
                    "{text:?}: known are best, last, smallest-within 0.5%"
                ));
            }
        };
        match words.next() {
            None => Ok(select),
            Some(more) => Err(format!("{text:?}: {more:?} is too much")),
        }
    }
}

/// The place of the chosen point; `None` where there is none with a score.
pub fn choose(points: &[Point], select: Select) -> Option<usize> {
    let scored = || points.iter().enumerate().filter(|(_, p)| !p.score.is_nan());
    let best = scored().reduce(|a, b| if b.1.score > a.1.score { b } else { a })?;
    match select {
        Select::Best => Some(best.0),
        Select::Last => points.len().checked_sub(1),
        Select::SmallestWithin(share) => {
            let least = within(best.1.score, share);
            let within = scored().filter(|(_, p)| p.score >= least);
            // The fewest parameters; of as many, the better; of as good, the first.
            let smaller = |a: &Point, b: &Point| {
                b.parameters < a.parameters || (b.parameters == a.parameters && b.score > a.score)
            };
            let chosen = within.reduce(|a, b| if smaller(a.1, b.1) { b } else { a });
            chosen.map(|(i, _)| i)
        }
    }
}

/// Places of the points that may still be [`choose`]n when more are added behind them, in their order; the chosen one is
/// always among them, and choosing among them alone chooses the same.
pub fn in_play(points: &[Point], select: Select) -> Vec<usize> {
    match select {
        Select::Best | Select::Last => choose(points, select).into_iter().collect(),
        Select::SmallestWithin(share) => {
            let mut front = pareto(points);
            // The highest score stands last, and only rises.
            let least = front.last().map(|&i| within(points[i].score, share));
            front.retain(|&i| least.is_some_and(|least| points[i].score >= least));
            front.sort_unstable();
            front
        }
    }
}

/// The least score that is at most this share below `best`.
fn within(best: f64, share: f64) -> f64 {
    best - share * best.abs()
}

/// Places of the points that no other beats in score with as few parameters, or in parameters with as good a score;
/// fewest parameters first. Of equal points the first.
pub fn pareto(points: &[Point]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len())
        .filter(|&i| !points[i].score.is_nan())
        .collect();
    order.sort_by(|&i, &j| {
        let (a, b) = (points[i], points[j]);
        let by_score = b.score.total_cmp(&a.score);
        a.parameters.cmp(&b.parameters).then(by_score)
    });
    let mut top = f64::NEG_INFINITY;
    order.retain(|&i| {
        let better = points[i].score > top;
        top = top.max(points[i].score);
        better
    });
    order
}

#[cfg(test)]
mod tests;
