//! The flags of `sorank train`, and the plan they make.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::{
    cli::{labelled::ColumnArgs, place::Place},
    kernel::panel::Precision,
    model::Level,
    spec::Problem,
    train::{Method, Prox, Settings, adalora::Budget, run::Plan, sora::GateInit},
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
    /// What is trained besides the head
    #[arg(long, value_enum, default_value_t = MethodArg::Sora, help_heading = "Method")]
    pub(super) method: MethodArg,
    /// Modules to adapt, by the ends of their names; all linears by default
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Method"
    )]
    pub(super) sites: Vec<String>,
    /// Rank of every site at the start
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512), help_heading = "Method")]
    pub(super) r_max: u16,
    /// AdaLoRA's mean rank of a site at the end; two thirds of r_max by default
    #[arg(long, value_name = "N", help_heading = "Method")]
    pub(super) target_rank: Option<u16>,
    /// Scale times r_max
    #[arg(
        long,
        value_name = "X",
        default_value_t = 16.0,
        help_heading = "Method"
    )]
    pub(super) alpha: f32,
    /// How gates start
    #[arg(long, value_enum, default_value_t = GateArg::Normal, help_heading = "Method")]
    pub(super) gate_init: GateArg,
    /// The operator that closes gates: soft (learning rate x lambda) or official (xi)
    #[arg(long, value_enum, default_value_t = ProxArg::Soft, help_heading = "Method")]
    pub(super) prox: ProxArg,
    /// Strength of the soft threshold
    #[arg(long, value_name = "X", default_value_t = 0.4, help_heading = "Method")]
    pub(super) lambda: f32,
    /// Threshold of the official operator
    #[arg(
        long,
        value_name = "X",
        default_value_t = 3e-4,
        help_heading = "Method"
    )]
    pub(super) xi: f32,
    /// Coefficient of the mean of |g| in the loss
    #[arg(long, value_name = "X", default_value_t = 0.0, help_heading = "Method")]
    pub(super) l1: f64,
    /// Steps between those in which closed gates take part; 1 is the exact method
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Method")]
    pub(super) revive_every: usize,
    /// Passes over the training rows
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        help_heading = "Optimiser"
    )]
    pub(super) epochs: usize,
    /// Rows of a step
    #[arg(
        long,
        value_name = "N",
        default_value_t = 32,
        help_heading = "Optimiser"
    )]
    pub(super) batch: usize,
    /// The most tokens at once; a step with more is taken in portions
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8192,
        help_heading = "Optimiser"
    )]
    pub(super) batch_tokens: usize,
    /// Keep only each layer's input and run the layer again going back: less memory, more time
    #[arg(long, help_heading = "Optimiser")]
    pub(super) recompute: bool,
    /// Learning rate
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1e-3,
        help_heading = "Optimiser"
    )]
    pub(super) lr: f64,
    /// Learning rate of the gates; that of A and B by default
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    pub(super) gate_lr: Option<f64>,
    /// Learning rate of the head; that of A and B by default
    #[arg(long, value_name = "X", help_heading = "Optimiser")]
    pub(super) head_lr: Option<f64>,
    /// Share of the steps over which the rate rises
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.06,
        help_heading = "Optimiser"
    )]
    pub(super) warmup: f64,
    /// Decoupled decay of A and B
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.01,
        help_heading = "Optimiser"
    )]
    pub(super) weight_decay: f64,
    /// Largest norm of all gradients; 0 is no limit
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        help_heading = "Optimiser"
    )]
    pub(super) clip: f64,
    /// Share of each half's output that is dropped in training
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        help_heading = "Optimiser"
    )]
    pub(super) dropout: f32,
    /// Seed of everything that is random
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        help_heading = "Optimiser"
    )]
    pub(super) seed: u64,
    /// The metric that picks the best epoch
    #[arg(long, value_name = "NAME", help_heading = "Run")]
    pub(super) metric: Option<String>,
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
    /// Nothing on stderr
    #[arg(long, short, help_heading = "Run")]
    pub(super) quiet: bool,
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

impl Args {
    /// The plan; `metric` is the preset's.
    pub(super) fn plan(&self, metric: Option<&str>, problem: Problem, level: Level) -> Plan {
        let metric = self.metric.as_deref().or(metric).unwrap_or(match problem {
            Problem::Regression => "pearson",
            Problem::SingleLabelClassification if level == Level::Token => "f1",
            Problem::SingleLabelClassification => "accuracy",
            Problem::MultiLabelClassification => "f1",
        });
        let prox = match (self.method, self.prox) {
            (MethodArg::Sora, ProxArg::Soft) => Prox::Soft(self.lambda),
            (MethodArg::Sora, ProxArg::Official) => Prox::Official(self.xi),
            _ => Prox::Off,
        };
        Plan {
            epochs: self.epochs,
            batch: self.batch,
            lr: self.lr,
            gate_lr: self.gate_lr.unwrap_or(self.lr),
            head_lr: self.head_lr.unwrap_or(self.lr),
            warmup: self.warmup,
            revive_every: self.revive_every,
            budget: matches!(self.method, MethodArg::Adalora)
                .then(|| Budget::to(self.target_rank.unwrap_or(self.r_max * 2 / 3).into())),
            metric: metric.to_owned(),
            patience: self.patience.map(usize::from),
            train_scored: self.train_scored,
            seed: self.seed,
            optimizer: Settings {
                weight_decay: self.weight_decay,
                l1: self.l1,
                clip: self.clip,
                prox,
                ..Settings::default()
            },
        }
    }
}
