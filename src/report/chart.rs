//! Lines over two axes as SVG, in colours that the page around it defines (`.line-0`, `.line-1`, ... and `.quiet`, `.axis`).
//!
//! Points that are few are drawn as points and say in words what they are, for a pointer and for a screen reader.

use std::fmt::Write;

use super::{escape, grouped};

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// What it is, for the legend.
    pub(super) name: String,
    /// From left to right; what is not finite is left out.
    pub(super) points: Vec<(f64, f64)>,
    /// A point that is marked.
    pub(super) marked: Option<usize>,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chart<'a> {
    /// For a screen reader.
    pub(super) label: &'a str,
    /// Under the horizontal axis.
    pub(super) x: &'a str,
    /// One or more.
    pub(super) lines: &'a [Line],
    /// Whether the vertical axis begins at 0.
    pub(super) from_zero: bool,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
/// Up to so many points of a line are drawn as points.
const DOTS: usize = 60;

impl Chart<'_> {
    /// The chart; nothing when there is no point.
    pub(super) fn svg(&self) -> String {
        let all = || {
            let points = self.lines.iter().flat_map(|l| &l.points);
            points.filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        if all().next().is_none() {
            return String::new();
        }
        let range = |of: &dyn Fn(&(f64, f64)) -> f64| {
            let ends = (f64::INFINITY, f64::NEG_INFINITY);
            all().map(of).fold(ends, |(a, b), v| (a.min(v), b.max(v)))
        };
        let (x0, x1) = padded(range(&|p| p.0), 0.0);
        let (y0, y1) = range(&|p| p.1);
        let (y0, y1) = match self.from_zero {
            true => (0.0, padded((0.0, y1), 0.05).1),
            false => padded((y0, y1), 0.08),
        };
        let px = |x: f64| LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
        let py = |y: f64| HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
        let mut out = String::new();
        let _ = writeln!(
            out,
            r#"<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
            escape(self.label)
        );
        for y in ticks(y0, y1) {
            let (at, text) = (py(y), py(y) + 4.0);
            let _ = writeln!(
                out,
                r#"<line class="axis" x1="{LEFT}" x2="{:.0}" y1="{at:.1}" y2="{at:.1}"/><text class="quiet" x="{:.0}" y="{text:.1}" text-anchor="end">{}</text>"#,
                WIDTH - RIGHT,
                LEFT - 8.0,
                number(y)
            );
        }
        let under = HEIGHT - BOTTOM + 18.0;
        for x in ticks(x0, x1) {
            let _ = writeln!(
                out,
                r#"<text class="quiet" x="{:.1}" y="{under:.0}" text-anchor="middle">{}</text>"#,
                px(x),
                number(x)
            );
        }
        let _ = writeln!(
            out,
            r#"<text class="quiet" x="{:.0}" y="{:.0}" text-anchor="end">{}</text>"#,
            WIDTH - RIGHT,
            HEIGHT - 6.0,
            escape(self.x)
        );
        let mut legend = LEFT;
        for (i, line) in self.lines.iter().enumerate() {
            let points = line
                .points
                .iter()
                .filter(|(x, y)| x.is_finite() && y.is_finite());
            let path: Vec<String> = points
                .map(|&(x, y)| format!("{:.1},{:.1}", px(x), py(y)))
                .collect();
            let name = escape(&line.name);
            let _ = writeln!(
                out,
                r#"<polyline class="line-{i}" points="{}"/>"#,
                path.join(" ")
            );
            if line.points.len() <= DOTS {
                for (p, &(x, y)) in line.points.iter().enumerate() {
                    if !(x.is_finite() && y.is_finite()) {
                        continue;
                    }
                    let r = if line.marked == Some(p) { 6.5 } else { 3.2 };
                    let _ = writeln!(
                        out,
                        r#"<circle class="dot-{i}" cx="{:.1}" cy="{:.1}" r="{r}"><title>{name}: {} at {} {}</title></circle>"#,
                        px(x),
                        py(y),
                        number(y),
                        escape(self.x),
                        number(x)
                    );
                }
            }
            let _ = writeln!(
                out,
                r#"<rect class="dot-{i}" x="{legend:.0}" y="9" width="14" height="4" rx="2"/><text x="{:.0}" y="16">{name}</text>"#,
                legend + 20.0
            );
            legend += 44.0 + 7.2 * line.name.chars().count() as f64;
        }
        out.push_str("</svg>\n");
        out
    }
}

/// A range that is not empty, wider by a share of itself at both ends.
fn padded((a, b): (f64, f64), share: f64) -> (f64, f64) {
    let width = match b - a {
        width if width > 0.0 => width,
        _ => (a.abs() * 0.1).max(1e-6),
    };
    let more = width * share;
    match b > a {
        true => (a - more, b + more),
        false => (a - width, b + width),
    }
}

/// About five round numbers between `a` and `b`.
fn ticks(a: f64, b: f64) -> Vec<f64> {
    let rough = (b - a) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    let (first, last) = ((a / step).ceil() as i64, (b / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A number as short as it may be: four significant digits.
pub(super) fn number(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 {
        return format!("{x:.1e}");
    }
    if x.fract() == 0.0 && x.abs() < 1e15 {
        let sign = if x < 0.0 { "-" } else { "" };
        return format!("{sign}{}", grouped(x.abs() as u64));
    }
    let digits = (3 - x.abs().log10().floor() as i32).clamp(1, 6) as usize;
    let text = format!("{x:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ticks_are_round() {
        for (x, want) in [
            (0.0, "0"),
            (1234.0, "1,234"),
            (0.5, "0.5"),
            (0.86716, "0.8672"),
            (-2.25, "-2.25"),
            (1e-4, "1.0e-4"),
        ] {
            assert_eq!(number(x), want);
        }
        let shown: Vec<String> = ticks(0.71, 0.93).into_iter().map(number).collect();
        assert_eq!(shown, ["0.75", "0.8", "0.85", "0.9"]);
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    }

    #[test]
    fn one_point_and_none_are_no_trouble() {
        let draw = |points: Vec<(f64, f64)>| {
            let lines = [Line {
                name: "a <b>".into(),
                points,
                marked: Some(0),
            }];
            Chart {
                label: "x",
                x: "step",
                lines: &lines,
                from_zero: false,
            }
            .svg()
        };
        assert_eq!(draw(vec![]), "");
        assert_eq!(draw(vec![(f64::NAN, 1.0)]), "");
        for points in [vec![(3.0, 0.0)], vec![(1.0, 2.0), (2.0, 2.0)]] {
            let svg = draw(points);
            assert!(
                !svg.contains("NaN") && !svg.contains("inf") && svg.contains("a &lt;b&gt;"),
                "{svg}"
            );
        }
    }
}
