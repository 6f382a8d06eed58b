//! `sorank merge`: base + adapter as one ordinary checkpoint, which transformers loads.

use std::path::PathBuf;

use super::{
    Failure,
    place::{Place, named},
};
use crate::{
    adapter::Adapter,
    error::Error,
    model::{LoadOptions, Model},
    weights::Source,
};

/// Writes config.json, the tokenizer's files and model.safetensors with the adapter's updates added to the weights
/// (in f32, stored in each tensor's own type) and its head in place. Compute the same thing without a new
/// copy of the base by serving base and adapter as they are.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the base, or its repository (owner/name[@revision])
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    model: Place,
    /// The adapter to merge
    #[arg(long, value_name = "NAME=DIR", value_parser = named)]
    adapter: (String, Place),
    /// Directory to write; it must not exist yet
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.out.exists() {
        return Err(Error::format(&args.out, "exists already; nothing is overwritten").into());
    }
    let adapter = Adapter::read(args.adapter.1.adapter(false)?)?;
    let model = Model::load(
        Source::dir(args.model.base(false)?)?,
        &LoadOptions::default(),
    )?;
    model.export_merged(&adapter, &args.out)?;
    eprintln!("wrote {}", args.out.display());
    Ok(())
}
