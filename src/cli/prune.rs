//! `sorank prune`: a smaller adapter by singular values, and a table of what was dropped for it.

use std::{fmt::Write, path::PathBuf};

use super::{
    Failure,
    output::Output,
    place::Place,
    rows::go_on,
    setup::{base_of, stamp},
};
use crate::{
    adapter::{Adapter, Keep, PruneReport},
    report::grouped,
};

/// Decomposes each site's product B A and keeps its largest singular values, without any data. Writes an adapter that
/// PEFT loads, and prints what each site lost: its relative error is that of the product (Frobenius). How much a task can
/// miss is not known here: measure the answers.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The adapter to prune: a directory, or a repository (owner/name[@revision])
    #[arg(value_name = "DIR")]
    adapter: Place,
    #[command(flatten)]
    keep: KeepArgs,
    /// Its base: checked against it, and its fingerprint is recorded in the result
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    model: Option<Place>,
    /// Directory to write; it must not exist yet. Without it, only the table is printed
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the table as one JSON object
    #[arg(long)]
    json: bool,
}

/// How much to keep: exactly one of them.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct KeepArgs {
    /// As few ranks of each site as hold this share of its energy, above 0 to 1; 1 drops nothing but rounding
    #[arg(long, value_name = "SHARE")]
    energy: Option<f64>,
    /// At most so many ranks of each site
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// At most so many parameters of all sites together
    #[arg(long, value_name = "PARAMETERS")]
    budget: Option<usize>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let keep = match (args.keep.energy, args.keep.rank, args.keep.budget) {
        (Some(share), None, None) => Keep::Energy(share),
        (None, Some(ranks), None) => Keep::Rank(ranks),
        (None, None, Some(parameters)) => Keep::Budget(parameters),
        _ => {
            return Err(Failure::Usage(
                "expected one of --energy, --rank, --budget".into(),
            ));
        }
    };
    let adapter = Adapter::read(args.adapter.adapter(false)?)?;
    let (mut pruned, report) = adapter.prune(keep)?;
    if let Some(base) = &args.model {
        stamp(&mut pruned, &base_of(base.base(false)?)?)?;
    }
    if let Some(out) = &args.out {
        pruned.write(out)?;
    }
    let mut out = Output::stdout();
    match args.json {
        true => go_on(out.line(&report)?)?,
        false => go_on(out.text(&table(&report))?)?,
    }
    go_on(out.flush()?)?;
    if let Some(path) = &args.out {
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

fn table(report: &PruneReport) -> String {
    let names = report.modules.iter().map(|m| m.module.len());
    let width = names.max().unwrap_or(0).max("site".len());
    let mut text = String::new();
    let mut line = |site: &str, before: &str, after: &str, error: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{site:width$}  {before:>6}  {after:>5}  {error:>14}");
    };
    line("site", "before", "after", "relative error");
    for m in &report.modules {
        let (before, after) = (m.rank_before.to_string(), m.rank_after.to_string());
        line(
            &m.module,
            &before,
            &after,
            &format!("{:.2e}", m.relative_error),
        );
    }
    let _ = writeln!(
        text,
        "{} of {} parameters kept; relative error of all sites together {:.2e}",
        grouped(report.parameters_after as u64),
        grouped(report.parameters_before as u64),
        report.relative_error
    );
    text
}
