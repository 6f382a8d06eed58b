//! `sorank pack`: builds a base's packed files ahead of the first start, or checks those that are there.
//!
//! For images and read-only machines: run where the cache can be written, at build time. A start that finds the file maps
//! it; a start that does not builds it, so nothing depends on this command.

use std::path::PathBuf;

use super::{Failure, output::Output, progress::Packing, rows::go_on, setup::Dtype};
use crate::{
    model::{LoadOptions, Model},
    weights::{Cache, PackOptions, Source},
};

/// Writes the packed file of each precision to the cache (SORANK_CACHE, or the user's cache directory) and prints its
/// bytes and path. Unlike a start, which reads headers alone, it compares every checksum of a file that is there
/// already, and builds a damaged one anew.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of the base: config.json, model.safetensors
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    model: PathBuf,
    /// Precisions
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "f32",
        env = "SORANK_DTYPE"
    )]
    dtype: Vec<Dtype>,
    /// Write there instead of to the cache; to start from it, set SORANK_CACHE to this directory
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, short, env = "SORANK_QUIET")]
    quiet: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut out = Output::stdout();
    for &dtype in &args.dtype {
        let mut model = load(args, dtype)?;
        if let Err(damage) = model.packed().verify() {
            let path = kept_at(&model)?;
            tracing::warn!("{damage}; it is built anew");
            std::fs::remove_file(&path).map_err(crate::Error::io(&path))?;
            model = load(args, dtype)?;
            model.packed().verify()?;
        }
        let path = kept_at(&model)?;
        let line = format!("{}\t{}\n", model.packed().bytes(), path.display());
        go_on(out.text(&line)?)?;
    }
    go_on(out.flush()?)
}

fn load(args: &Args, dtype: Dtype) -> Result<Model, Failure> {
    let progress = Packing::new(args.quiet);
    let report = |done: usize, total: usize| progress.set(done, total);
    let pack = PackOptions {
        cache: args.cache.as_deref().map_or(Cache::Environment, Cache::Dir),
        progress: Some(&report),
        no_mmap: false,
    };
    let options = LoadOptions {
        precision: Some(dtype.into()),
        pack,
    };
    Ok(Model::load(Source::dir(&args.model)?, &options)?)
}

/// Where the packed file is; an error where it could be kept in memory only.
fn kept_at(model: &Model) -> Result<PathBuf, Failure> {
    let path = model.packed().path().map(PathBuf::from);
    path.ok_or_else(|| {
        Failure::Failed("no packed file could be written; set SORANK_CACHE, or pass --cache".into())
    })
}
