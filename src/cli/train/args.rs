//! The flags of `sorank train`, and the plan they make.

use std::{path::PathBuf, str::FromStr};

use clap::ValueEnum;

use crate::{
    adapter::Stored,
    cli::{Failure, labelled::ColumnArgs, place::Place},
    kernel::panel::Precision,
    model::Level,
    spec::Problem,
    train::{
        Method, Prox, Settings, Shares,
        adalora::Budget,
        choice::Select,
        run::Plan,
        schedule::{Schedule, Strengths},
        sora::GateInit,
    },
};

/// Trains an adapter and a head on a frozen base, and writes the best epoch as a PEFT adapter: scale and gates folded
/// in, closed ranks left out. With --method bitfit or full the base itself is trained, and written whole. Beside it:
/// sorank.json (how it was made), metrics.jsonl (its epochs), run.toml (these flags).
///
/// Until then DIR.partial holds a checkpoint: a run that was cut goes on with --resume, and comes to the same bytes. Ctrl-C
/// saves and ends with exit code 130.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// Directory of the base, or its repository (owner/name[@revision])
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    pub(super) model: Place,
    /// Training rows: .tsv (without quotes), .csv, .jsonl, .parquet, .conll
    #[arg(long, value_name = "FILE")]
    pub(super) train: Option<PathBuf>,
    /// Rows to score on after each epoch
    #[arg(long, value_name = "FILE")]
    pub(super) dev: Option<PathBuf>,
    /// Where the files of --task are, or of several tasks
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) columns: ColumnArgs,
    /// Directory to write; it must not exist yet
    #[arg(long, short, value_name = "DIR", help_heading = "Run")]
    pub(super) out: PathBuf,
    /// A TOML file with these flags as keys; a flag counts before it. The one used is written beside the result: run.toml
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    #[allow(dead_code)] // read before the flags are parsed
    config: Option<PathBuf>,
    /// Go on with the run that was to make DIR and was cut, with its settings; from the start where there is none
    #[arg(long, help_heading = "Run")]
    pub(super) resume: bool,
    /// Steps between checkpoints, besides those after each epoch; 0 is none
    #[arg(long, value_name = "N", default_value_t = 500, help_heading = "Run")]
    pub(super) checkpoint_every: usize,
    #[command(flatten)]
    pub(super) adapt: AdaptArgs,
    #[command(flatten)]
    pub(super) schedule: ScheduleArgs,
    #[command(flatten)]
    pub(super) optimiser: OptimiserArgs,
    /// The metric that epochs are chosen by
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    pub(super) metric: Option<String>,
    /// Which epoch the result is of: best, last, or smallest-within 0.5% (the fewest parameters among those whose score is at
    /// most that share below the best)
    #[arg(long, value_name = "WHICH", num_args = 1..=2, default_value = "best", help_heading = "Run")]
    pub(super) select: Vec<String>,
    /// End after N epochs without a better score
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Run")]
    pub(super) patience: Option<u16>,
    /// Training rows that are scored after each epoch too, to see what is learnt by heart; 0 is none
    #[arg(long, value_name = "N", default_value_t = 500, help_heading = "Run")]
    pub(super) train_scored: usize,
    /// Threads; by default the cores this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Run")]
    pub(super) threads: Option<u16>,
    /// Precision of the base's linears; factors, head and gradients stay f32
    #[arg(long, value_enum, default_value_t = BaseArg::F32, help_heading = "Run")]
    pub(super) dtype: BaseArg,
    /// How the adapter's numbers are stored; scores are of what was trained, in f32
    #[arg(long, value_enum, default_value_t = StoredArg::F32, help_heading = "Run")]
    pub(super) adapter_dtype: StoredArg,
    /// Nothing on stderr
    #[arg(long, short, help_heading = "Run")]
    pub(super) quiet: bool,
}

/// What is trained, and what closes gates.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Method")]
pub(crate) struct AdaptArgs {
    /// What is trained besides the head
    #[arg(long, value_enum, default_value_t = MethodArg::Sora)]
    pub(super) method: MethodArg,
    /// Modules to adapt, by the ends of their names; all linears by default
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(super) sites: Vec<String>,
    /// Rank of every site at the start
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) r_max: u16,
    /// AdaLoRA's mean rank of a site at the end; two thirds of r_max by default
    #[arg(long, value_name = "N")]
    pub(super) target_rank: Option<u16>,
    /// Scale times r_max
    #[arg(long, value_name = "X", default_value_t = 16.0)]
    pub(super) alpha: f32,
    /// How gates start
    #[arg(long, value_enum, default_value_t = GateArg::Ones)]
    pub(super) gate_init: GateArg,
    /// The operator that closes gates: soft (learning rate x lambda) or official (xi)
    #[arg(long, value_enum, default_value_t = ProxArg::Soft)]
    pub(super) prox: ProxArg,
    /// Strength of the soft threshold
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    pub(super) lambda: f32,
    /// Threshold of the official operator
    #[arg(long, value_name = "X", default_value_t = 3e-4)]
    pub(super) xi: f32,
    /// Coefficient of the mean of |g| in the loss
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(super) l1: f64,
    /// Steps between those in which closed gates take part; 1 is the exact method
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) revive_every: usize,
}

/// The sparsifying schedule: phases from dense to sparse.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Schedule")]
pub(crate) struct ScheduleArgs {
    /// Rising strengths (lambda, or xi with --prox official), one a phase: 0,0.5,1 or linear:FROM:TO:COUNT, log-linear:...,
    /// geometric:.... Each phase goes on from the one before and leaves its adapter in phases/
    #[arg(long = "schedule", value_name = "LIST")]
    pub(super) strengths: Option<Strengths>,
    /// Epochs of every phase after the first; --epochs by default
    #[arg(long, value_name = "N", requires = "strengths")]
    pub(super) phase_epochs: Option<usize>,
    /// Rates of 0 after the first phase, as in the original code: gates shrink and nothing is learnt
    #[arg(long, requires = "strengths")]
    pub(super) frozen_rate: bool,
}

/// How it is trained.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Optimiser")]
pub(crate) struct OptimiserArgs {
    /// Passes over the training rows
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) epochs: usize,
    /// Rows of a step
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(super) batch: usize,
    /// The most tokens at once; a step with more is taken in portions
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub(super) batch_tokens: usize,
    /// Keep only each layer's input and run the layer again going back: less memory, more time
    #[arg(long)]
    pub(super) recompute: bool,
    /// Learning rate
    #[arg(long, value_name = "X", default_value_t = 1e-3)]
    pub(super) lr: f64,
    /// Learning rate of the gates; ten times that of A and B by default (AdaLoRA's values: that of A and B)
    #[arg(long, value_name = "X")]
    pub(super) gate_lr: Option<f64>,
    /// How far the soft threshold moves a gate in all, from its start of 1: sets the gates' rate from the number of steps and lambda, so
    /// that short and long runs prune alike (2 is what the default rate does in 800 steps at lambda 0.5)
    #[arg(long, value_name = "X", conflicts_with = "gate_lr")]
    pub(super) gate_travel: Option<f64>,
    /// Gates move only from the first to the second share of the steps: before, they rest at their start while the task is learnt;
    /// after, what is open stays open and A and B settle
    #[arg(long, value_name = "FROM:TO")]
    pub(super) gate_window: Option<Window>,
    /// At most this share of A's and B's parameters stays when the window of the gates ends: what changes the base least is closed
    #[arg(long, value_name = "SHARE", requires = "gate_window", conflicts_with = "strengths", value_parser = share::<f64>)]
    pub(super) keep: Option<f64>,
    /// Learning rate of the head; that of A and B by default
    #[arg(long, value_name = "X")]
    pub(super) head_lr: Option<f64>,
    /// Share of the steps over which the rate rises
    #[arg(long, value_name = "X", default_value_t = 0.06)]
    pub(super) warmup: f64,
    /// Decoupled decay of A and B
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    pub(super) weight_decay: f64,
    /// Largest norm of all gradients; 0 is no limit
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(super) clip: f64,
    /// Share of each half's output that is dropped in training
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = share::<f32>)]
    pub(super) dropout: f32,
    /// Share of the inputs of A that is dropped in training
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = share::<f32>)]
    pub(super) lora_dropout: f32,
    /// Share of attention weights that is dropped in training
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = share::<f32>)]
    pub(super) attention_dropout: f32,
    /// Seed of everything that is random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum MethodArg {
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
pub(super) enum GateArg {
    /// Standard normal
    Normal,
    /// 1
    Ones,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ProxArg {
    /// Soft threshold
    Soft,
    /// The original code's
    Official,
}

/// Precisions of a base in training.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum BaseArg {
    /// 32-bit floats
    F32,
    /// 16-bit brain floats: half the memory, faster where the CPU multiplies them
    Bf16,
}

/// Types that an adapter is stored in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum StoredArg {
    /// 32-bit floats
    F32,
    /// 16-bit floats: half the size
    F16,
    /// 16-bit brain floats: half the size, coarser, any magnitude
    Bf16,
}

impl From<StoredArg> for Stored {
    fn from(stored: StoredArg) -> Self {
        match stored {
            StoredArg::F32 => Stored::F32,
            StoredArg::F16 => Stored::F16,
            StoredArg::Bf16 => Stored::Bf16,
        }
    }
}

impl From<BaseArg> for Precision {
    fn from(dtype: BaseArg) -> Self {
        match dtype {
            BaseArg::F32 => Precision::F32,
            BaseArg::Bf16 => Precision::Bf16,
        }
    }
}

impl From<MethodArg> for Method {
    fn from(method: MethodArg) -> Self {
        match method {
            MethodArg::Sora => Method::Sora,
            MethodArg::Lora => Method::Lora,
            MethodArg::Adalora => Method::Adalora,
            MethodArg::Bitfit => Method::Bitfit,
            MethodArg::Full => Method::Full,
            MethodArg::Head => Method::Head,
        }
    }
}

impl From<GateArg> for GateInit {
    fn from(init: GateArg) -> Self {
        match init {
            GateArg::Normal => GateInit::Normal,
            GateArg::Ones => GateInit::Ones,
        }
    }
}

/// The gates' learning rate over that of A and B: what closes enough of them in the few hundred steps of a small task
/// (docs/quality.md).
const GATES: f64 = 10.0;

fn share<X: FromStr + PartialOrd + From<u8>>(text: &str) -> Result<X, String> {
    let share = text.parse::<X>().ok();
    let share = share.filter(|x| (X::from(0)..X::from(1)).contains(x));
    share.ok_or_else(|| "a share is from 0 to below 1".to_owned())
}

/// The shares of the steps between which gates move.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window(f64, f64);

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let both = text.split_once(':');
        let both = both.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        match both {
            Some((from, to)) if 0.0 <= from && from < to && to <= 1.0 => Ok(Self(from, to)),
            _ => Err("expected two rising shares from 0 to 1, as 0.3:0.7".to_owned()),
        }
    }
}

impl OptimiserArgs {
    /// What is dropped in training.
    pub(super) fn dropped(&self) -> Shares {
        Shares {
            hidden: self.dropout,
            factors: self.lora_dropout,
            attention: self.attention_dropout,
        }
    }
}

impl Args {
    /// The plan; `metric` is the preset's.
    pub(super) fn plan(
        &self,
        metric: Option<&str>,
        problem: Problem,
        level: Level,
    ) -> Result<Plan, Failure> {
        let metric = self.metric.as_deref().or(metric).unwrap_or(match problem {
            Problem::Regression => "pearson",
            Problem::SingleLabelClassification if level == Level::Token => "f1",
            Problem::SingleLabelClassification => "accuracy",
            Problem::MultiLabelClassification => "f1",
        });
        let (adapt, optimiser) = (&self.adapt, &self.optimiser);
        let prox = match (adapt.method, adapt.prox) {
            (MethodArg::Sora, ProxArg::Soft) => Prox::Soft(adapt.lambda),
            (MethodArg::Sora, ProxArg::Official) => Prox::Official(adapt.xi),
            _ => Prox::Off,
        };
        let select: Result<Select, String> = self.select.join(" ").parse();
        let schedule = self.schedule.strengths.as_ref().map(|s| Schedule {
            strengths: s.0.clone(),
            epochs: self.schedule.phase_epochs.unwrap_or(optimiser.epochs),
            frozen: self.schedule.frozen_rate,
        });
        if let Some(travel) = optimiser.gate_travel {
            let why = match prox {
                Prox::Soft(_) if travel > 0.0 && travel.is_finite() => None,
                Prox::Soft(_) => Some(format!("expected a distance above 0, found {travel}")),
                _ => Some("wants --method sora with --prox soft".to_owned()),
            };
            if let Some(why) = why {
                return Err(Failure::Usage(format!("--gate-travel: {why}")));
            }
        }
        // The official operator's threshold would go on while rates are 0.
        if optimiser.gate_window.is_some() && !matches!(prox, Prox::Soft(_)) {
            let why = "--gate-window: wants --method sora with --prox soft";
            return Err(Failure::Usage(why.to_owned()));
        }
        let plan = Plan {
            epochs: optimiser.epochs,
            batch: optimiser.batch,
            lr: optimiser.lr,
            gate_lr: optimiser.gate_lr.unwrap_or(match adapt.method {
                MethodArg::Sora => GATES * optimiser.lr,
                _ => optimiser.lr,
            }),
            gate_travel: optimiser.gate_travel,
            gate_window: optimiser.gate_window.map(|w| (w.0, w.1)),
            keep: optimiser.keep,
            head_lr: optimiser.head_lr.unwrap_or(optimiser.lr),
            warmup: optimiser.warmup,
            revive_every: adapt.revive_every,
            budget: matches!(adapt.method, MethodArg::Adalora)
                .then(|| Budget::to(adapt.target_rank.unwrap_or(adapt.r_max * 2 / 3).into())),
            metric: metric.to_owned(),
            select: select.map_err(|why| Failure::Usage(format!("--select {why}")))?,
            schedule,
            patience: self.patience.map(usize::from),
            train_scored: self.train_scored,
            seed: optimiser.seed,
            optimizer: Settings {
                weight_decay: optimiser.weight_decay,
                l1: adapt.l1,
                clip: optimiser.clip,
                prox,
                ..Settings::default()
            },
        };
        if let Some(schedule) = &plan.schedule {
            let wrong = |why| Failure::Usage(format!("--schedule: {why}"));
            schedule.plans(&plan).map_err(wrong)?;
        }
        Ok(plan)
    }
}
