//! The findings as text for a terminal: numbers to the right, names to the left, widths from what is there.

use std::fmt::Write;

use super::BenchReport;
use crate::report::grouped;

/// All tables of a report.
pub fn table(report: &BenchReport) -> String {
    let mut out = String::new();
    let BenchReport {
        model,
        shape,
        dtype,
        cpu,
        threads,
        ..
    } = report;
    let _ = writeln!(
        out,
        "{model}: {shape}, {dtype}\n{cpu}, {threads} thread(s)\n"
    );
    for batch in &report.batches {
        let tokens = grouped(batch.tokens as u64);
        let title = format!("{} ({tokens} tokens, {} rounds)", batch.name, batch.rounds);
        let head = [
            &title,
            "adapters",
            "mean rank",
            "median ms",
            "p95 ms",
            "tokens/s",
            "over base",
            "noise",
        ];
        let rows = batch.variants.iter().enumerate().map(|(i, v)| {
            vec![
                v.name.clone(),
                v.adapters.to_string(),
                format!("{:.1}", v.mean_rank),
                format!("{:.2}", v.median_ms),
                format!("{:.2}", v.p95_ms),
                grouped(v.tokens_per_s.round() as u64),
                if i == 0 {
                    String::new()
                } else {
                    format!("{:+.1} %", v.overhead_percent)
                },
                format!("{:.1} %", v.noise_percent),
            ]
        });
        lines(&mut out, &head, rows.collect());
    }
    let rows = report.once.iter().map(|o| {
        vec![
            o.name.clone(),
            format!("{:.2}", o.median_ms),
            format!("{:.2}", o.p95_ms),
        ]
    });
    lines(&mut out, &["once", "median ms", "p95 ms"], rows.collect());
    let rows = report.memory.iter().map(|m| {
        let mib = |x: f64| format!("{x:.1}");
        vec![
            m.after.clone(),
            mib(m.rss_mib),
            mib(m.pss_mib),
            mib(m.private_mib),
        ]
    });
    lines(
        &mut out,
        &["memory after", "RSS MiB", "PSS MiB", "private MiB"],
        rows.collect(),
    );
    out
}

fn lines(out: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let longest = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(i, h)| h.chars().count().max(longest(i)))
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (i, (cell, &width)) in cells.zip(&widths).enumerate() {
            let _ = match i {
                0 => write!(out, "  {cell:width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    };
    line(&mut head.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    out.push('\n');
}
