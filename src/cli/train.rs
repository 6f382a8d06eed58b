//! `sorank train`: from a labelled file to a pruned adapter.

mod args;
mod given;
mod made;
mod progress;
mod run_dir;
mod watch;

use clap::{ArgMatches, CommandFactory};
use serde_json::{Value, json};

pub(super) use self::args::Args;
use self::{
    args::MethodArg,
    given::{Base, Given},
    made::{identity, made, page},
    progress::Progress,
    run_dir::{Found, MADE, RunDir, interrupts},
    watch::Watch,
};
use super::{Failure, config::used, output::Output};
use crate::train::{Facts, Learner, Live, run::Outcome};

pub(super) fn run(args: &Args, matches: &ArgMatches) -> Result<(), Failure> {
    let run_dir = match RunDir::open(&args.out, args.resume)? {
        Found::Open(run_dir) => run_dir,
        Found::Done => {
            let shown = args.out.display();
            eprintln!("sorank: {shown} is done; there is nothing to go on with");
            return Ok(());
        }
    };
    let interrupted = interrupts()?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.map_or(0, usize::from))
        .build_global()
        .map_err(|e| Failure::Failed(format!("starting threads: {e}")))?;
    let (given, [train, dev]) = Given::read(args)?;
    let base = Base::load(args)?;
    let (train, dev) = (base.data(train)?, base.data(dev)?);

    let facts = given.facts(args);
    let live = Live::new(&base.model, &facts)?;
    let start = live.kept();
    let identity = identity(args, &given, &base, &train, &dev, &facts);
    let fresh = || given.plan.optimizer(train.examples.len(), &live);
    let saved = run_dir.saved(&identity, &live, fresh)?;
    let (dropout, seed) = (args.optimiser.dropped(), args.optimiser.seed);
    let mut learner = Learner::new(&base.model, live, dropout, seed)?;
    learner.limit_tokens(args.optimiser.batch_tokens);
    learner.recompute(args.optimiser.recompute);

    let mut progress = Progress::new(args.quiet, &given.plan.metric);
    progress.say(&format!(
        "{} rows, {} to score on, {} labels; {} ranks, {} parameters in them",
        train.rows.len(),
        dev.rows.len(),
        facts.labels.len(),
        start.0,
        start.1
    ));
    if let Some(saved) = &saved {
        progress.say(&format!("going on after step {}", saved.state.step));
        progress.remember(&saved.state.epochs);
    }
    run_dir.start(&settings(matches))?;
    run_dir.start_metrics(saved.as_ref().map_or(&[], |s| &s.state.epochs))?;
    let mut watch = Watch {
        progress,
        run_dir: &run_dir,
        identity: &identity,
        model: &base.model,
        every: args.checkpoint_every,
        stored: args.adapter_dtype.into(),
        interrupted,
    };
    let outcome = watch.train(&mut learner, &given, &train, &dev, saved)?;
    let progress = watch.progress;

    let made = made(identity, &given.plan, &outcome, &learner, &facts, start.1);
    write(args, &run_dir, &base, &made, &outcome, &facts)?;
    for line in front(&made) {
        progress.say(&line);
    }
    progress.say(&format!(
        "chosen is epoch {}; wrote {}",
        outcome.best_epoch,
        args.out.display()
    ));
    let summary = json!({"out": args.out, "best": made["best"], "epochs": outcome.epochs.len()});
    let mut out = Output::stdout();
    super::rows::write_line(&mut out, &summary)?;
    super::rows::go_on(out.flush()?)
}

/// Makes the result.
fn write(
    args: &Args,
    run_dir: &RunDir,
    base: &Base,
    made: &Value,
    outcome: &Outcome,
    facts: &Facts<'_>,
) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(made).expect("a JSON value serialises");
    let weights = |dir: &std::path::Path| match args.adapt.method {
        MethodArg::Bitfit | MethodArg::Full => outcome.best.export(&base.model, dir),
        _ => outcome
            .best
            .adapter(&base.model)
            .write_as(dir, args.adapter_dtype.into()),
    };
    let page = page(args, made, outcome, facts).page();
    let files = [(MADE, text), ("report.html", page)];
    Ok(run_dir.finish(weights, &outcome.epochs, &files)?)
}

/// The epochs of a schedule that no other beats in score and size, a line each.
fn front(made: &Value) -> Vec<String> {
    if made["phases"].is_null() {
        return Vec::new();
    }
    let points = made["pareto"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |p: &Value| {
        format!(
            "pareto: {} parameters  score {}  epoch {} of phase {}",
            p["parameters"], p["score"], p["epoch"], p["phase"]
        )
    };
    points.iter().map(line).collect()
}

/// The flags as they were used, for the same run again: without where to and how it is told.
fn settings(matches: &ArgMatches) -> String {
    let command = super::Cli::command();
    let command = command.find_subcommand("train").expect("this command");
    let leave = ["config", "out", "quiet", "resume"];
    // The number of threads is part of what the bits depend on.
    let threads = rayon::current_num_threads().to_string();
    let head = "# Made by sorank train; `sorank train --config run.toml --out DIR` makes the same again.\n";
    head.to_owned() + &used(command, matches, &leave, &[("threads", threads)])
}
