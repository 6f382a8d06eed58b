//! A training run as one page: loss and scores, what was kept, what that cost, and the rank map. No script, font or
//! picture is fetched; light and dark by the reader's preference.
//!
//! *Memorisation* is the score on training rows and *generalisation* that on the development rows, against the parameters that
//! were kept: a point an epoch, each a share of its best over the run; with a schedule a point a phase, a share of the first's.

use std::fmt::Write;

use super::{
    chart::{Chart, Line, number},
    escape, grouped,
    rankmap::{self, RankRow},
};

/// What the page shows.
#[derive(Debug, Clone, Default)]
pub struct TrainReport {
    /// The heading.
    pub title: String,
    /// What the run was, by name.
    pub facts: Vec<(String, String)>,
    /// The metric that picked the best epoch.
    pub metric: String,
    /// The chosen epoch, from 1.
    pub best: usize,
    /// Every epoch.
    pub epochs: Vec<EpochRow>,
    /// The phases of a schedule, where there was one.
    pub phases: Vec<PhaseRow>,
    /// Step, mean loss since the step before, open ranks.
    pub curve: Vec<(usize, f64, usize)>,
    /// Rank of each site in the chosen epoch.
    pub ranks: Vec<RankRow>,
}

/// One epoch of the page.
#[derive(Debug, Clone, Default)]
pub struct EpochRow {
    /// From 1.
    pub epoch: usize,
    /// Its mean loss.
    pub loss: f64,
    /// Scores on the development rows, by name.
    pub scores: Vec<(String, f64)>,
    /// The metric on training rows, where it was taken.
    pub train: Option<f64>,
    /// Open ranks.
    pub ranks: usize,
    /// Parameters of A and B in them.
    pub parameters: usize,
    /// Seconds of training so far.
    pub seconds: f64,
}

/// One phase of a sparsifying schedule, as it ended.
#[derive(Debug, Clone, Default)]
pub struct PhaseRow {
    /// From 0.
    pub number: usize,
    /// Of the proximal operator.
    pub strength: f64,
    /// Its last epoch.
    pub epoch: usize,
    /// The metric on training rows, in percent of the first phase's.
    pub memorisation: Option<f64>,
    /// The metric on development rows, likewise.
    pub generalisation: f64,
    /// Open ranks.
    pub ranks: usize,
    /// Parameters of A and B in them.
    pub parameters: usize,
}

impl EpochRow {
    fn score(&self, metric: &str) -> f64 {
        let found = self.scores.iter().find(|(name, _)| name == metric);
        found.map_or(f64::NAN, |(_, value)| *value)
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #17323f; --quiet: #5b7482; --ground: #fbfcfd; --line: #e2eaee;
  --a: #1b7f9d; --b: #c98a3a; --card: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfeaf0; --quiet: #93aab6; --ground: #10191f; --line: #24343d;
  --a: #4db3d1; --b: #dba55f; --card: #0f161b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem }
p, dt { color: var(--quiet) } p { margin: .3rem 0 } b { color: var(--ink) }
svg { max-width: 100%; height: auto } svg.chart { width: 100% }
svg.chart text { font: 12px system-ui, sans-serif; fill: var(--ink); font-variant-numeric: tabular-nums }
svg.chart text.quiet { fill: var(--quiet) } .axis { stroke: var(--line) }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round }
.line-0 { stroke: var(--a) } .line-1 { stroke: var(--b) } .dot-0 { fill: var(--a) } .dot-1 { fill: var(--b) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.2rem; margin: 1rem 0 } dd { margin: 0; overflow-wrap: anywhere }
div.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th { font-weight: 500; color: var(--quiet); text-align: right } td { text-align: right }
th, td { padding: .15rem .6rem; border-bottom: 1px solid var(--line) } tr.best td { font-weight: 600 }
";

impl TrainReport {
    /// The page.
    pub fn page(&self) -> String {
        let mut out = String::new();
        let title = escape(&self.title);
        let _ = writeln!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>sorank train: {title}</title>\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style>\n<h1>{title}</h1>"
        );
        if let Some(best) = self.epochs.iter().find(|e| e.epoch == self.best) {
            let (metric, score) = (escape(&self.metric), number(best.score(&self.metric)));
            let (epoch, parameters) = (best.epoch, grouped(best.parameters as u64));
            let _ = writeln!(
                out,
                "<p>{metric} <b>{score}</b> in epoch {epoch}, {parameters} parameters in A and B.</p>"
            );
        }
        out.push_str("<dl>\n");
        for (name, value) in &self.facts {
            let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
        }
        out.push_str("</dl>\n");
        let curve = |of: &dyn Fn(&(usize, f64, usize)) -> f64| -> Vec<(f64, f64)> {
            self.curve.iter().map(|p| (p.0 as f64, of(p))).collect()
        };
        let one = |name: &str, points| Line {
            name: name.to_owned(),
            points,
            marked: None,
        };
        self.chart(
            &mut out,
            "Loss",
            "step",
            &[one("training loss", curve(&|p| p.1))],
            true,
        );
        self.chart(&mut out, "Score", "epoch", &self.scores(), false);
        let pruned = self
            .epochs
            .windows(2)
            .any(|w| w[0].parameters != w[1].parameters);
        if pruned {
            let ranks = [one("open ranks", curve(&|p| p.2 as f64))];
            self.chart(&mut out, "Ranks kept", "step", &ranks, true);
            let (of, lines) = match self.phases.is_empty() {
                true => ("best", self.against_kept()),
                false => ("first phase", self.phases_against_kept()),
            };
            let heading =
                format!("Memorisation and generalisation, % of the {of}, against kept parameters");
            self.chart(&mut out, &heading, "parameters", &lines, false);
        }
        if !self.ranks.is_empty() {
            let heading = "Rank by layer and site, chosen epoch";
            let _ = writeln!(out, "<h2>{heading}</h2>\n<div class=\"wide\">");
            out.push_str(&rankmap::svg(&self.title, &self.ranks));
            out.push_str("</div>\n");
        }
        self.phase_table(&mut out);
        self.table(&mut out);
        out.push_str("</html>\n");
        out
    }

    fn chart(&self, out: &mut String, heading: &str, x: &str, lines: &[Line], from_zero: bool) {
        let chart = Chart {
            label: heading,
            x,
            lines,
            from_zero,
        };
        let svg = chart.svg();
        if !svg.is_empty() {
            let _ = writeln!(out, "<h2>{}</h2>\n{svg}", escape(heading));
        }
    }

    /// The metric by epoch, on development and training rows.
    fn scores(&self) -> Vec<Line> {
        let points = |of: &dyn Fn(&EpochRow) -> Option<f64>| -> Vec<(f64, f64)> {
            let point = |e: &EpochRow| Some((e.epoch as f64, of(e)?));
            self.epochs.iter().filter_map(point).collect()
        };
        let dev = Line {
            name: format!("{} on development rows", self.metric),
            points: points(&|e| Some(e.score(&self.metric))),
            marked: self.best.checked_sub(1),
        };
        let train = Line {
            name: "on training rows".to_owned(),
            points: points(&|e| e.train),
            marked: None,
        };
        match train.points.is_empty() {
            true => vec![dev],
            false => vec![dev, train],
        }
    }

    fn against_kept(&self) -> Vec<Line> {
        let mut lines = self.scores();
        for (line, name) in lines.iter_mut().zip(["generalisation", "memorisation"]) {
            line.name = name.to_owned();
            let best = line.points.iter().map(|p| p.1).fold(f64::MIN, f64::max);
            for (point, epoch) in line.points.iter_mut().zip(&self.epochs) {
                *point = (epoch.parameters as f64, 100.0 * point.1 / best);
            }
        }
        lines
    }

    fn phases_against_kept(&self) -> Vec<Line> {
        let line = |name: &str, of: &dyn Fn(&PhaseRow) -> Option<f64>| Line {
            name: name.to_owned(),
            points: (self.phases.iter())
                .filter_map(|p| Some((p.parameters as f64, of(p)?)))
                .collect(),
            marked: None,
        };
        let mut lines = vec![
            line("generalisation", &|p| Some(p.generalisation)),
            line("memorisation", &|p| p.memorisation),
        ];
        lines.retain(|line| !line.points.is_empty());
        lines
    }

    fn phase_table(&self, out: &mut String) {
        if self.phases.is_empty() {
            return;
        }
        out.push_str(
            "<h2>Phases</h2>\n<div class=\"wide\"><table>\n<tr><th>phase</th><th>strength</th><th>last epoch</th>\
             <th>memorisation, %</th><th>generalisation, %</th><th>ranks</th><th>parameters</th></tr>\n",
        );
        for p in &self.phases {
            let memorisation = p.memorisation.map_or(String::new(), |m| format!("{m:.1}"));
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{memorisation}</td><td>{:.1}</td><td>{}</td><td>{}</td></tr>",
                p.number,
                number(p.strength),
                p.epoch,
                p.generalisation,
                grouped(p.ranks as u64),
                grouped(p.parameters as u64)
            );
        }
        out.push_str("</table></div>\n");
    }

    fn table(&self, out: &mut String) {
        let Some(first) = self.epochs.first() else {
            return;
        };
        out.push_str(
            "<h2>Epochs</h2>\n<div class=\"wide\"><table>\n<tr><th>epoch</th><th>loss</th>",
        );
        for (name, _) in &first.scores {
            let _ = write!(out, "<th>{}</th>", escape(name));
        }
        let metric = escape(&self.metric);
        let _ = writeln!(
            out,
            "<th>{metric}, training rows</th><th>ranks</th><th>parameters</th><th>seconds</th></tr>"
        );
        for epoch in &self.epochs {
            let class = if epoch.epoch == self.best {
                " class=\"best\""
            } else {
                ""
            };
            let _ = write!(
                out,
                "<tr{class}><td>{}</td><td>{:.4}</td>",
                epoch.epoch, epoch.loss
            );
            for (_, value) in &epoch.scores {
                let _ = write!(out, "<td>{value:.4}</td>");
            }
            let train = epoch.train.map_or(String::new(), |v| format!("{v:.4}"));
            let _ = writeln!(
                out,
                "<td>{train}</td><td>{}</td><td>{}</td><td>{:.1}</td></tr>",
                grouped(epoch.ranks as u64),
                grouped(epoch.parameters as u64),
                epoch.seconds
            );
        }
        out.push_str("</table></div>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> TrainReport {
        let epoch = |i: usize| EpochRow {
            epoch: i,
            loss: 1.0 / i as f64,
            scores: vec![("accuracy".into(), 0.7 + 0.02 * i as f64)],
            train: Some(0.75 + 0.03 * i as f64),
            ranks: 40 - i,
            parameters: 1000 * (40 - i),
            seconds: i as f64,
        };
        TrainReport {
            title: "a <task>".into(),
            facts: vec![("method".into(), "sora & more".into())],
            metric: "accuracy".into(),
            best: 3,
            epochs: (1..4).map(epoch).collect(),
            phases: Vec::new(),
            curve: (1..90).map(|s| (s, 1.0 / s as f64, 60 - s / 3)).collect(),
            ranks: vec![RankRow {
                layer: 0,
                site: "attention.self.query".into(),
                rank: 3,
                r_max: Some(8),
                params: 12,
            }],
        }
    }

    #[test]
    fn the_page_is_whole_and_fetches_nothing() {
        let page = report().page();
        for part in [
            "a &lt;task&gt;",
            "sora &amp; more",
            "generalisation",
            "Rank map of",
            "<tr class=\"best\"><td>3</td>",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg").count(), 5);
        for tag in ["svg", "table", "dl", "div", "h2"] {
            let (open, closed) = (format!("<{tag}"), format!("</{tag}>"));
            assert_eq!(
                page.matches(&open).count(),
                page.matches(&closed).count(),
                "{tag}"
            );
        }
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !outside.contains("http") && !outside.contains("<script") && !outside.contains("NaN")
        );
    }

    #[test]
    fn phases_are_drawn_and_listed_against_the_first() {
        let phase = |number: usize| PhaseRow {
            number,
            strength: 0.5 * number as f64,
            epoch: number + 1,
            memorisation: Some(100.0 - number as f64),
            generalisation: 100.0 + number as f64,
            ranks: 40 - number,
            parameters: 1000 * (40 - number),
        };
        let mut report = report();
        report.phases = (0..3).map(phase).collect();
        let page = report.page();
        assert!(page.contains("% of the first phase") && !page.contains("% of the best"));
        assert!(page.contains("<td>2</td><td>1</td><td>3</td><td>98.0</td><td>102.0</td>"));
    }

    #[test]
    fn a_run_that_prunes_nothing_shows_no_curves_of_it() {
        let mut report = report();
        report
            .epochs
            .iter_mut()
            .for_each(|e| (e.ranks, e.parameters) = (8, 64));
        report.ranks.clear();
        let page = report.page();
        assert!(!page.contains("generalisation") && page.matches("<svg").count() == 2);
    }
}
