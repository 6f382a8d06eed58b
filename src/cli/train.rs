//! `sorank train`: from a labelled file to a pruned adapter.

use std::{io::IsTerminal, path::PathBuf};

use clap::ValueEnum;
use serde_json::json;

use super::{
    Failure,
    labelled::{ColumnArgs, examples, file},
    output::Output,
    place::Place,
};
use crate::{
    error::Error,
    kernel::panel::Precision,
    model::{Level, LoadOptions, Model},
    text::Tokenizer,
    train::{
        Facts, Learner, Live, Method, Prox, Settings,
        adalora::Budget,
        data::Labels,
        run::{Control, Event, Plan, Stopped, run as train},
        sora::GateInit,
    },
    weights::{PackOptions, Source},
};

/// Trains an adapter and a head on a frozen base, and writes the best epoch as a PEFT adapter: scale and gates folded
/// in, closed ranks left out. With --method bitfit or full the base itself is trained, and written whole. Beside it: sorank.json (how it was made) and metrics.jsonl (its epochs).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the base, or its repository (owner/name[@revision])
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    model: Place,
    /// Training rows: .tsv (without quotes), .csv, .jsonl
    #[arg(long, value_name = "FILE")]
    train: Option<PathBuf>,
    /// Rows to score on after each epoch
    #[arg(long, value_name = "FILE")]
    dev: Option<PathBuf>,
    /// Where the files of --task are
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Directory to write; it must not exist yet
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// What is trained besides the head
    #[arg(long, value_enum, default_value_t = MethodArg::Sora, help_heading = "Method")]
    method: MethodArg,
    /// Modules to adapt, by the ends of their names; all linears by default
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Method"
    )]
    sites: Vec<String>,
    /// Rank of every site at the start
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512), help_heading = "Method")]
    r_max: u16,
    /// AdaLoRA's mean rank of a site at the end; two thirds of r_max by default
    #[arg(long, value_name = "N", help_heading = "Method")]
    target_rank: Option<u16>,
    /// Scale times r_max
    #[arg(
        long,
        value_name = "X",
        default_value_t = 16.0,
        help_heading = "Method"
    )]
    alpha: f32,
    /// How gates start
    #[arg(long, value_enum, default_value_t = GateArg::Normal, help_heading = "Method")]
    gate_init: GateArg,
    /// The operator that closes gates: soft (learning rate x lambda) or official (xi)
    #[arg(long, value_enum, default_value_t = ProxArg::Soft, help_heading = "Method")]
    prox: ProxArg,
    /// Strength of the soft threshold
    #[arg(long, value_name = "X", default_value_t = 0.4, help_heading = "Method")]
    lambda: f32,
    /// Threshold of the official operator
    #[arg(
        long,
        value_name = "X",
        default_value_t = 3e-4,
        help_heading = "Method"
    )]
    xi: f32,
    /// Coefficient of the mean of |g| in the loss
    #[arg(long, value_name = "X", default_value_t = 0.0, help_heading = "Method")]
    l1: f64,
    /// Steps between those in which closed gates take part; 1 is the exact method
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Method")]
    revive_every: usize,
    /// Passes over the training rows
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        help_heading = "Optimiser"
    )]
    epochs: usize,
    /// Rows of a step
    #[arg(
        long,
        value_name = "N",
        default_value_t = 32,
        help_heading = "Optimiser"
    )]
    batch: usize,
    /// The most tokens at once; a step with more is taken in portions
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8192,
        help_heading = "Optimiser"
    )]
    batch_tokens: usize,
    /// Keep only each layer's input and run the layer again going back: less memory, more time
    #[arg(long, help_heading = "Optimiser")]
    recompute: bool,
    /// Learning rate
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1e-3,
        help_heading = "Optimiser"
    )]
    lr: f64,
    /// Learning rate of the gates; that of A and B by default
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    gate_lr: Option<f64>,
    /// Learning rate of the head; that of A and B by default
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    head_lr: Option<f64>,
    /// Share of the steps over which the rate rises
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.06,
        help_heading = "Optimiser"
    )]
    warmup: f64,
    /// Decoupled decay of A and B
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.01,
        help_heading = "Optimiser"
    )]
    weight_decay: f64,
    /// Largest norm of all gradients; 0 is no limit
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        help_heading = "Optimiser"
    )]
    clip: f64,
    /// Share of each half's output that is dropped in training
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        help_heading = "Optimiser"
    )]
    dropout: f32,
    /// Seed of everything that is random
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        help_heading = "Optimiser"
    )]
    seed: u64,
    /// The metric that picks the best epoch
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Threads; by default the cores this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Nothing on stderr
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodArg {
    /// Gated low-rank factors, pruned by proximal steps
    Sora,
    /// Low-rank factors of one rank
    Lora,
    /// Singular vectors and values, a falling budget of ranks
    Adalora,
    /// Biases and norms of the base; writes a whole checkpoint
    Bitfit,
    /// Everything; writes a whole checkpoint
    Full,
    /// Nothing
    Head,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum GateArg {
    /// Standard normal
    Normal,
    /// 1
    Ones,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProxArg {
    /// Soft threshold
    Soft,
    /// The original code's
    Official,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.out.exists() {
        return Err(Error::format(&args.out, "exists already; nothing is overwritten").into());
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.map_or(0, usize::from))
        .build_global()
        .map_err(|e| Failure::Failed(format!("starting threads: {e}")))?;
    let preset = args.columns.preset()?;
    let (train_name, dev_name) = preset.as_ref().map(|p| (p.train, p.dev)).unzip();
    let train_path = file(
        args.train.as_ref(),
        args.data_dir.as_ref(),
        train_name,
        "--train",
    )?;
    let dev_path = file(args.dev.as_ref(), args.data_dir.as_ref(), dev_name, "--dev")?;
    let problem = args.columns.problem()?;
    let (train_rows, dev_rows) = (
        args.columns.rows(&train_path)?,
        args.columns.rows(&dev_path)?,
    );
    let labels = Labels::of(&train_rows, problem);
    let train_targets = labels.targets(&train_rows, &train_path)?;
    let dev_targets = labels.targets(&dev_rows, &dev_path)?;

    let source = Source::dir(args.model.base(args.quiet)?)?;
    let options = LoadOptions {
        precision: Some(Precision::F32),
        pack: PackOptions::default(),
    };
    let model = Model::load(source, &options)?;
    let source = model.source().clone();
    let tokenizer = Tokenizer::load(&|name| source.read(name), &source.path(""))?;
    let limit = args.columns.limit(&model);
    let rows = examples(
        &tokenizer,
        &model,
        limit,
        &train_path,
        &train_rows,
        train_targets,
    )?;
    let dev = examples(&tokenizer, &model, limit, &dev_path, &dev_rows, dev_targets)?;

    let method = match args.method {
        MethodArg::Sora => Method::Sora,
        MethodArg::Lora => Method::Lora,
        MethodArg::Adalora => Method::Adalora,
        MethodArg::Bitfit => Method::Bitfit,
        MethodArg::Full => Method::Full,
        MethodArg::Head => Method::Head,
    };
    let facts = Facts {
        method,
        sites: &args.sites,
        r_max: usize::from(args.r_max),
        alpha: args.alpha,
        gate_init: match args.gate_init {
            GateArg::Normal => GateInit::Normal,
            GateArg::Ones => GateInit::Ones,
        },
        problem,
        level: Level::Sequence,
        labels: labels.names.clone(),
        seed: args.seed,
    };
    let live = Live::new(&model, &facts)?;
    let start = live.kept();
    let plan = plan(args, preset.map(|p| p.metric), problem);
    let mut learner = Learner::new(&model, live, args.dropout, args.seed)?;
    learner.limit_tokens(args.batch_tokens);
    learner.recompute(args.recompute);
    let mut progress = Progress::new(args.quiet);
    progress.say(&format!(
        "{} rows, {} to score on, {} labels; {} ranks, {} parameters in them",
        rows.len(),
        dev.len(),
        labels.names.len(),
        start.0,
        start.1
    ));
    let outcome = train(&mut learner, problem, &rows, &dev, &plan, &mut |e| progress.hear(&e))
        .map_err(|stopped| match stopped {
            Stopped::NotFinite { step, loss, rows } => {
                // Rows are told by the lines of their file: that is where one looks.
                let lines: Vec<usize> = rows.iter().map(|&i| train_rows[i].line).collect();
                let shown = train_path.display();
                Failure::Failed(format!(
                    "step {step}: the loss is {loss}; its rows are lines {lines:?} of {shown}; a smaller \
                     learning rate may help"
                ))
            }
            Stopped::Metric { .. } => Failure::Usage(stopped.to_string()),
            Stopped::Failed(error) => error.into(),
        })?;

    let kept = match args.method {
        MethodArg::Bitfit | MethodArg::Full => {
            outcome.best.export(&model, &args.out)?;
            let parameters = outcome.best.parameters.iter();
            parameters.map(|p| p.value.as_slice().len()).sum()
        }
        _ => {
            let adapter = outcome.best.adapter(&model);
            adapter.write(&args.out)?;
            adapter.parameters()
        }
    };
    let best = outcome
        .epochs
        .iter()
        .find(|e| e.epoch == outcome.best_epoch);
    let ranks = outcome.best.ranks();
    let sites: serde_json::Map<_, _> = ranks
        .into_iter()
        .map(|(path, rank, gates)| (path, json!({"rank": rank, "gates": gates})))
        .collect();
    let hash = |path: &PathBuf| -> Result<String, Failure> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    };
    let made = json!({
        "sorank": env!("CARGO_PKG_VERSION"),
        "method": method,
        "r_max": args.r_max,
        "alpha": args.alpha,
        "gate_init": facts.gate_init,
        "sites_asked": args.sites,
        "dropout": args.dropout,
        "max_tokens": limit.max,
        "plan": plan,
        "threads": rayon::current_num_threads(),
        "base_fingerprint": model.packed().content_hash(),
        "train": {"file": train_path, "rows": rows.len(), "blake3": hash(&train_path)?},
        "dev": {"file": dev_path, "rows": dev.len(), "blake3": hash(&dev_path)?},
        "labels": labels.names,
        "problem": problem,
        "best": best,
        "parameters": {"start": start.1, "kept": kept},
        "sites": sites,
    });
    let text = serde_json::to_string_pretty(&made).expect("a JSON value serialises");
    let write = |name: &str, text: &str| {
        let path = args.out.join(name);
        std::fs::write(&path, text).map_err(Error::io(&path))
    };
    write("sorank.json", &text)?;
    let lines: Vec<String> = outcome
        .epochs
        .iter()
        .map(|e| json!(e).to_string())
        .collect();
    write("metrics.jsonl", &(lines.join("\n") + "\n"))?;
    progress.say(&format!(
        "best is epoch {}; wrote {}",
        outcome.best_epoch,
        args.out.display()
    ));
    let summary = json!({"out": args.out, "best": best, "epochs": outcome.epochs.len()});
    let mut out = Output::stdout();
    super::rows::write_line(&mut out, &summary)?;
    super::rows::go_on(out.flush()?)
}

fn plan(args: &Args, metric: Option<&str>, problem: crate::spec::Problem) -> Plan {
    use crate::spec::Problem;
    let metric = args.metric.as_deref().or(metric).unwrap_or(match problem {
        Problem::Regression => "pearson",
        Problem::SingleLabelClassification => "accuracy",
        Problem::MultiLabelClassification => "f1",
    });
    let prox = match (args.method, args.prox) {
        (MethodArg::Sora, ProxArg::Soft) => Prox::Soft(args.lambda),
        (MethodArg::Sora, ProxArg::Official) => Prox::Official(args.xi),
        _ => Prox::Off,
    };
    Plan {
        epochs: args.epochs,
        batch: args.batch,
        lr: args.lr,
        gate_lr: args.gate_lr.unwrap_or(args.lr),
        head_lr: args.head_lr.unwrap_or(args.lr),
        warmup: args.warmup,
        revive_every: args.revive_every,
        budget: matches!(args.method, MethodArg::Adalora)
            .then(|| Budget::to(args.target_rank.unwrap_or(args.r_max * 2 / 3).into())),
        metric: metric.to_owned(),
        seed: args.seed,
        optimizer: Settings {
            weight_decay: args.weight_decay,
            l1: args.l1,
            clip: args.clip,
            prox,
            ..Settings::default()
        },
    }
}

/// Steps on a terminal, epochs everywhere.
struct Progress {
    quiet: bool,
    terminal: bool,
    start: std::time::Instant,
    tokens: usize,
    drawn: std::time::Instant,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        let now = std::time::Instant::now();
        Self {
            quiet,
            terminal: std::io::stderr().is_terminal(),
            start: now,
            tokens: 0,
            drawn: now,
        }
    }

    fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("{what}");
        }
    }

    fn hear(&mut self, event: &Event<'_>) -> Control {
        match event {
            Event::Step {
                step,
                steps,
                loss,
                kept,
                tokens,
            } => {
                self.tokens += tokens;
                let often = self.drawn.elapsed().as_millis() < 250;
                if self.quiet || !self.terminal || often {
                    return Control::Go;
                }
                self.drawn = std::time::Instant::now();
                let seconds = self.start.elapsed().as_secs_f64();
                let left = seconds / *step as f64 * (steps - step) as f64;
                let rate = self.tokens as f64 / seconds;
                eprint!(
                    "\r\x1b[Kstep {step}/{steps}  loss {loss:.4}  ranks {kept}  {rate:.0} tokens/s  {left:.0} s left"
                );
            }
            Event::Epoch(e) => {
                let clear = if self.terminal { "\r\x1b[K" } else { "" };
                let scores: Vec<String> = e
                    .scores
                    .iter()
                    .map(|(name, v)| format!("{name} {v:.4}"))
                    .collect();
                self.say(&format!(
                    "{clear}epoch {}: loss {:.4}  {}  ranks {}  parameters {}  {:.0} s",
                    e.epoch,
                    e.loss,
                    scores.join("  "),
                    e.kept_ranks,
                    e.kept_parameters,
                    e.seconds
                ));
            }
        }
        Control::Go
    }
}
