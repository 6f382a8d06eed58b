//! `sorank train`: from a labelled file to a pruned adapter.

mod args;
mod made;
mod progress;
mod run_dir;

use std::path::PathBuf;

use clap::{ArgMatches, CommandFactory};
use serde_json::json;

pub(super) use self::args::Args;
use self::{
    args::MethodArg,
    made::{made, page},
    progress::Progress,
    run_dir::{Found, MADE, RunDir, interrupts, is_set},
};
use super::{Failure, config::used, labelled::examples, output::Output};
use crate::{
    error::Error,
    model::{Level, LoadOptions, Model},
    text::Tokenizer,
    train::{
        Example, Facts, Learner, Live,
        data::{Labels, Row, Split},
        run::{Control, Event, Stopped, resume},
    },
    weights::{PackOptions, Source},
};

/// A labelled file, read.
struct Data {
    path: PathBuf,
    rows: Vec<Row>,
    examples: Vec<Example>,
    hash: String,
}

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

    let preset = args.columns.preset()?;
    let problem = args.columns.problem()?;
    let level = args.columns.level()?;
    let plan = args.plan(preset.as_ref().map(|p| p.metric), problem, level);
    let dir = args.data_dir.as_deref();
    let rows =
        |given: &Option<PathBuf>, split, flag| args.columns.rows(given.as_ref(), dir, split, flag);
    let (train_path, train_rows) = rows(&args.train, Split::Train, "--train")?;
    let (dev_path, dev_rows) = rows(&args.dev, Split::Dev, "--dev")?;
    // Before the model is loaded: a label that training never shows should not cost a minute to find.
    let labels = Labels::of(&train_rows, problem, level);
    let train_targets = labels.targets(&train_rows, &train_path)?;
    let dev_targets = labels.targets(&dev_rows, &dev_path)?;

    let packing = super::progress::Packing::new(args.quiet);
    let report = |done: usize, total: usize| packing.set(done, total);
    let options = LoadOptions {
        precision: Some(args.dtype.into()),
        pack: PackOptions {
            progress: Some(&report),
            ..PackOptions::default()
        },
    };
    let model = Model::load(Source::dir(args.model.base(args.quiet)?)?, &options)?;
    let source = model.source().clone();
    let tokenizer = Tokenizer::load(&|name| source.read(name), &source.path(""))?;
    let limit = args.columns.limit(&model);
    let data = |path: PathBuf, rows: Vec<Row>, targets| -> Result<Data, Failure> {
        let examples = examples(&tokenizer, &model, limit, &path, &rows, targets)?;
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        Ok(Data {
            path,
            rows,
            examples,
            hash,
        })
    };
    let train = data(train_path, train_rows, train_targets)?;
    let dev = data(dev_path, dev_rows, dev_targets)?;

    let facts = Facts {
        method: args.adapt.method.into(),
        sites: &args.adapt.sites,
        r_max: usize::from(args.adapt.r_max),
        alpha: args.adapt.alpha,
        gate_init: args.adapt.gate_init.into(),
        problem,
        level,
        labels: labels.names.clone(),
        seed: args.optimiser.seed,
    };
    let live = Live::new(&model, &facts)?;
    let start = live.kept();
    let identity = json!({
        "sorank": env!("CARGO_PKG_VERSION"),
        "method": facts.method,
        "r_max": args.adapt.r_max,
        "alpha": args.adapt.alpha,
        "gate_init": facts.gate_init,
        "sites_asked": args.adapt.sites,
        "dropout": args.optimiser.dropout,
        "dtype": model.packed().precision(),
        "max_tokens": limit.max,
        "batch_tokens": args.optimiser.batch_tokens,
        "plan": plan,
        "seed": args.optimiser.seed,
        "threads": rayon::current_num_threads(),
        "base_fingerprint": model.packed().content_hash(),
        "train": {"file": train.path, "rows": train.rows.len(), "blake3": train.hash},
        "dev": {"file": dev.path, "rows": dev.rows.len(), "blake3": dev.hash},
        "labels": labels.names,
        "problem": problem,
        "tags": args.columns.level()? == Level::Token,
    });
    let fresh = || plan.optimizer(train.examples.len(), &live);
    let saved = run_dir.saved(&identity, &live, fresh)?;
    let mut learner = Learner::new(&model, live, args.optimiser.dropout, args.optimiser.seed)?;
    learner.limit_tokens(args.optimiser.batch_tokens);
    learner.recompute(args.optimiser.recompute);
    let mut progress = Progress::new(args.quiet, &plan.metric);
    progress.say(&format!(
        "{} rows, {} to score on, {} labels; {} ranks, {} parameters in them",
        train.rows.len(),
        dev.rows.len(),
        labels.names.len(),
        start.0,
        start.1
    ));
    if let Some(saved) = &saved {
        progress.say(&format!("going on after step {}", saved.state.step));
        progress.remember(&saved.state.epochs);
    }
    let epochs = saved.as_ref().map_or(&[][..], |s| &s.state.epochs);
    run_dir.start(&settings(matches))?;
    run_dir.start_metrics(epochs)?;

    // What could not be written is told when the run has stopped for it.
    let mut trouble: Option<Error> = None;
    let mut listener = |event: Event<'_>| {
        progress.hear(&event);
        let (save, written) = match &event {
            Event::Step { step, .. } => {
                let every = args.checkpoint_every;
                (every > 0 && step.is_multiple_of(every), Ok(()))
            }
            Event::Epoch(epoch) => (true, run_dir.add_metrics(epoch)),
            Event::Checkpoint(snapshot) => (false, run_dir.save(&identity, *snapshot)),
        };
        if let Err(error) = written {
            trouble.get_or_insert(error);
        }
        match (is_set(&interrupted) || trouble.is_some(), save) {
            (true, _) => Control::Stop,
            (false, true) => Control::Save,
            (false, false) => Control::Go,
        }
    };
    let (rows, dev_rows) = (&train.examples, &dev.examples);
    let ended = resume(
        &mut learner,
        &labels,
        rows,
        dev_rows,
        &plan,
        saved,
        &mut listener,
    );
    progress.finish();
    if let Some(error) = trouble {
        return Err(error.into());
    }
    let outcome = ended.map_err(|stopped| failure(stopped, &train, &run_dir))?;

    let made = made(
        identity,
        &plan,
        &outcome,
        &learner,
        args.adapt.method,
        start.1,
    );
    let text = serde_json::to_string_pretty(&made).expect("a JSON value serialises");
    let weights = |dir: &std::path::Path| match args.adapt.method {
        MethodArg::Bitfit | MethodArg::Full => outcome.best.export(&model, dir),
        _ => outcome.best.adapter(&model).write(dir),
    };
    let page = page(args, &made, &outcome, &facts).page();
    let files = [(MADE, text), ("report.html", page)];
    run_dir.finish(weights, &outcome.epochs, &files)?;
    progress.say(&format!(
        "best is epoch {}; wrote {}",
        outcome.best_epoch,
        args.out.display()
    ));
    let summary = json!({"out": args.out, "best": made["best"], "epochs": outcome.epochs.len()});
    let mut out = Output::stdout();
    super::rows::write_line(&mut out, &summary)?;
    super::rows::go_on(out.flush()?)
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

fn failure(stopped: Stopped, train: &Data, run_dir: &RunDir) -> Failure {
    match stopped {
        Stopped::NotFinite {
            step,
            loss,
            norm,
            rows,
        } => {
            // Rows are told by the lines of their file: that is where one looks.
            let lines: Vec<usize> = rows.iter().map(|&i| train.rows[i].line).collect();
            let shown = train.path.display();
            Failure::Failed(format!(
                "step {step}: the loss is {loss}, the norm of its gradients {norm}; its rows are lines {lines:?} of \
                 {shown}; a smaller learning rate may help"
            ))
        }
        Stopped::Metric { .. } => Failure::Usage(stopped.to_string()),
        Stopped::Asked { step } => {
            Failure::Interrupted(format!("saved after step {step}; {}", run_dir.hint()))
        }
        Stopped::Failed(error) => error.into(),
    }
}
