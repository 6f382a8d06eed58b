//! `sorank import`: other formats as an adapter that PEFT and sorank load.
//!
//! A checkpoint of the original SoRA code or of OpenDelta (read without executing anything in it), a LoRA of AdapterHub's
//! library, one of the adapters that lie in a checkpoint as parametrisations of its weights, or a PEFT adapter of another
//! kind (AdaLoRA), whose singular values are folded into plain factors.

use std::path::PathBuf;

use super::{
    Failure,
    output::Output,
    place::Place,
    rows::go_on,
    setup::{base_of, stamp},
};
use crate::adapter::{Adapter, EmbeddedImport, SoraImport};

/// Prints what became of each site as one JSON object. A SoRA checkpoint keeps neither alpha nor, often, the head: they
/// can be given here.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The checkpoint: a directory or a weight file; or the directory of an AdapterHub or a PEFT adapter
    #[arg(value_name = "PATH")]
    from: PathBuf,
    /// lora_alpha of the training; by default what a config.json beside the file says, else 16
    #[arg(long)]
    alpha: Option<f64>,
    /// Gates at most this far from zero count as zero
    #[arg(long, default_value_t = 0.0)]
    eps: f32,
    /// A file with the head's tensors, such as a dump of the whole model
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Which of several adapters that lie in one checkpoint: a name of its lora_adaptations, or a number from 0
    #[arg(long, value_name = "NAME")]
    which: Option<String>,
    /// The base: checked against it, and its fingerprint is recorded in the result
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    model: Option<Place>,
    /// Directory to write; it must not exist yet
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut out = Output::stdout();
    let head_or_eps = args.head.is_some() || args.eps != 0.0;
    let mut adapter = if args.from.join("adapter_config.json").exists() {
        if args.alpha.is_some() || args.which.is_some() || head_or_eps {
            let why = "--alpha, --eps, --head and --which are for checkpoints; an adapter says them itself";
            return Err(Failure::Usage(why.to_owned()));
        }
        match Adapter::is_adapterhub(&args.from)? {
            true => {
                let (adapter, report) = Adapter::import_adapterhub(&args.from)?;
                go_on(out.line(&report)?)?;
                adapter
            }
            false => Adapter::read(&args.from)?,
        }
    } else if Adapter::is_embedded(&args.from)? {
        if head_or_eps {
            let why =
                "--eps and --head are for checkpoints of SoRA; this one has parametrised weights";
            return Err(Failure::Usage(why.to_owned()));
        }
        let options = EmbeddedImport {
            alpha: args.alpha,
            which: args.which.clone(),
        };
        let (adapter, report) = Adapter::import_embedded(&args.from, &options)?;
        go_on(out.line(&report)?)?;
        adapter
    } else {
        if args.which.is_some() {
            let why = "--which is for checkpoints with parametrised weights, and this has none";
            return Err(Failure::Usage(why.to_owned()));
        }
        let options = SoraImport {
            alpha: args.alpha,
            eps: args.eps,
            head: args.head.clone(),
            task: None,
        };
        let (adapter, report) = Adapter::import_sora(&args.from, &options)?;
        go_on(out.line(&report)?)?;
        adapter
    };
    if let Some(base) = &args.model {
        stamp(&mut adapter, &base_of(base.base(false)?)?)?;
    }
    adapter.write(&args.out)?;
    go_on(out.flush()?)?;
    eprintln!("wrote {}", args.out.display());
    Ok(())
}
