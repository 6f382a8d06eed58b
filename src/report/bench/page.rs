//! The findings as one page: charts in SVG and the tables they are drawn from. No script, font or picture is fetched;
//! light and dark by the reader's preference.

use std::fmt::Write;

use super::{BatchReport, BenchReport, table};
use crate::report::escape;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #17323f; --quiet: #5b7482; --ground: #fbfcfd; --line: #d5e0e5;
  --base: #8aa3b0; --merged: #5b8f6b; --pruned: #1b7f9d; --full: #c98a3a; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfeaf0; --quiet: #93aab6; --ground: #10191f; --line: #2a3b45;
  --base: #6d8592; --merged: #6fb184; --pruned: #4db3d1; --full: #dba55f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem } p { color: var(--quiet) }
svg { width: 100%; height: auto } svg text { font: 13px system-ui, sans-serif; fill: var(--ink) }
svg text.quiet { fill: var(--quiet) } svg line { stroke: var(--line) } .whisker { stroke: var(--ink) !important }
.base { fill: var(--base) } .merged { fill: var(--merged) } .pruned { fill: var(--pruned) } .full { fill: var(--full) }
pre { overflow-x: auto; border-top: 1px solid var(--line); padding-top: 1rem }
";

/// The report as an HTML document.
pub fn page(report: &BenchReport) -> String {
    let mut out = String::new();
    let title = escape(&report.model);
    let _ = writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>sorank bench: {title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style>\n<h1>{title}</h1>\n\
         <p>{}, {}. {}, {} thread(s). sorank {}. Variants take turns in every round, and what an adapter \
         costs is the median ratio to the bare base of the same round, with the spread of its middle half. The mark in a bar is \
         the speed of the slowest twentieth.</p>",
        escape(&report.shape),
        escape(&report.dtype),
        escape(&report.cpu),
        report.threads,
        report.version,
    );
    for batch in &report.batches {
        let _ = writeln!(
            out,
            "<h2>{} <small>({} tokens, {} rounds): tokens a second</small></h2>",
            escape(&batch.name),
            batch.tokens,
            batch.rounds
        );
        chart(&mut out, batch);
    }
    let _ = writeln!(
        out,
        "<h2>All numbers</h2>\n<pre>{}</pre>\n</html>",
        escape(&table(report))
    );
    out
}

/// Bars of tokens a second, the cost over the base at their ends.
fn chart(out: &mut String, batch: &BatchReport) {
    const LEFT: f64 = 210.0; // of the bars
    const WIDTH: f64 = 480.0; // of the longest
    const STEP: f64 = 26.0;
    const TOP: f64 = 8.0;
    let most = batch
        .variants
        .iter()
        .map(|v| v.tokens_per_s)
        .fold(1.0, f64::max);
    let height = TOP + STEP * batch.variants.len() as f64 + 8.0;
    let _ = writeln!(
        out,
        r#"<svg viewBox="0 0 860 {height:.0}" role="img" aria-label="tokens a second of {}">"#,
        escape(&batch.name)
    );
    let _ = writeln!(
        out,
        r#"<line x1="{LEFT}" x2="{LEFT}" y1="0" y2="{height:.0}"/>"#
    );
    for (i, v) in batch.variants.iter().enumerate() {
        let y = TOP + STEP * i as f64;
        let width = WIDTH * v.tokens_per_s / most;
        let (text, end) = (y + 15.0, LEFT + width);
        let cost = match i {
            0 => String::new(),
            _ => format!(" ({:+.1} ± {:.1} %)", v.overhead_percent, v.noise_percent),
        };
        let kind = ["base", "merged", "full"]
            .into_iter()
            .find(|kind| v.name.starts_with(kind))
            .unwrap_or("pruned");
        let name = escape(&v.name);
        let _ = writeln!(
            out,
            r#"<text x="{:.0}" y="{text:.0}" text-anchor="end">{name}</text><rect class="{kind}" x="{LEFT}" y="{y:.0}" width="{width:.1}" height="20" rx="2"><title>{name}: median {:.2} ms, p95 {:.2} ms</title></rect><text x="{:.0}" y="{text:.0}">{:.0}<tspan>{cost}</tspan></text>"#,
            LEFT - 8.0,
            v.median_ms,
            v.p95_ms,
            end + 6.0,
            v.tokens_per_s,
        );
        // The slowest twentieth, as a mark inside the bar.
        let p95 = LEFT + width * v.median_ms / v.p95_ms.max(v.median_ms);
        let _ = writeln!(
            out,
            r#"<line class="whisker" x1="{p95:.1}" x2="{p95:.1}" y1="{:.0}" y2="{:.0}"/>"#,
            y + 4.0,
            y + 16.0
        );
    }
    out.push_str("</svg>\n");
}
