//! `sorank inspect`: what a base or an adapter holds, without running it.

use std::path::{Path, PathBuf};

use super::{
    Failure,
    place::{Place, named},
    rows::go_on,
};
use crate::{
    adapter::Adapter,
    embedded,
    error::{Error, Result},
    report::{
        inspect::{AdapterFacts, BaseFacts},
        rankmap,
    },
    spec::{EncoderSpec, SentenceSpec},
    weights::{Source, Tensors},
};

/// Shows a base's shape, sites and bytes, or an adapter's sites, ranks, parameters, labels and its rank map by
/// layer and site. Nothing is run or packed; an adapter is read and checked as it would be for use.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directories or repositories (owner/name[@revision]) of bases and adapters; none: the built-in model and its adapters
    #[arg(value_name = "DIR")]
    places: Vec<Place>,
    /// A base, as other commands take it
    #[arg(long, value_name = "DIR")]
    model: Option<Place>,
    /// An adapter, as other commands take it; repeatable
    #[arg(long = "adapter", value_name = "NAME=DIR", value_parser = named)]
    adapters: Vec<(String, Place)>,
    /// Also draw the rank map of the adapter as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object for each instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut bases = Vec::new();
    if let Some(place) = &args.model {
        bases.push(Source::dir(place.base(false)?)?);
    }
    let mut adapters: Vec<(String, Adapter)> = Vec::new();
    for (name, place) in &args.adapters {
        adapters.push((name.clone(), Adapter::read(place.adapter(false)?)?));
    }
    for place in &args.places {
        let dir = place.either(false)?;
        match kind_of(dir)? {
            Kind::Base => bases.push(Source::dir(dir)?),
            Kind::Adapter => adapters.push((place.name(), Adapter::read(dir)?)),
        }
    }
    if bases.is_empty() && adapters.is_empty() {
        bases.push(embedded::base());
        for (name, files) in embedded::adapters() {
            let adapter = files.adapter(&Path::new("built-in").join(name))?;
            adapters.push((name.to_owned(), adapter));
        }
    }
    let mut out = super::output::Output::stdout();
    for source in &bases {
        let facts = base_facts(source)?;
        match args.json {
            true => go_on(out.line(&facts)?)?,
            false => go_on(out.text(&facts.to_string())?)?,
        }
    }
    for (name, adapter) in &adapters {
        let facts = AdapterFacts::new(name, adapter);
        match args.json {
            true => go_on(out.line(&facts)?)?,
            false => {
                let map = rankmap::text(name, &facts.rank_rows());
                go_on(out.text(&format!("{facts}{map}"))?)?;
            }
        }
    }
    go_on(out.flush()?)?;
    if let Some(path) = &args.svg {
        let [(name, adapter)] = adapters.as_slice() else {
            let why = format!("--svg draws one adapter, {} were given", adapters.len());
            return Err(Failure::Usage(why));
        };
        let picture = rankmap::svg(name, &AdapterFacts::new(name, adapter).rank_rows());
        std::fs::write(path, picture).map_err(Error::io(path))?;
    }
    Ok(())
}

fn base_facts(source: &Source) -> Result<BaseFacts> {
    let path = source.path("config.json");
    let config = source.read("config.json")?;
    let config = config.ok_or_else(|| Error::format(&path, "not found"))?;
    let spec = EncoderSpec::parse(&config, &path)?;
    Ok(BaseFacts::new(
        source,
        &spec,
        &SentenceSpec::read(source)?,
        &Tensors::open(source)?,
    ))
}

enum Kind {
    Base,
    Adapter,
}

fn kind_of(dir: &Path) -> Result<Kind> {
    match (
        dir.join("adapter_config.json").exists(),
        dir.join("config.json").exists(),
    ) {
        (true, _) => Ok(Kind::Adapter),
        (false, true) => Ok(Kind::Base),
        (false, false) => Err(Error::format(
            dir,
            "neither a base (config.json) nor an adapter (adapter_config.json) is here",
        )),
    }
}
