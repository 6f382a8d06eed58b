//! What a run is given: the rows of its files with their labels, and the base with what makes tokens of them.

use std::path::PathBuf;

use super::args::Args;
use crate::{
    cli::{Failure, labelled::examples, progress::Packing},
    error::Error,
    model::{Level, LoadOptions, Model},
    spec::Problem,
    text::{Limit, Tokenizer},
    train::{
        Example, Facts, Target,
        data::{Labels, Row, Split},
        run::Plan,
    },
    weights::{PackOptions, Source},
};

/// What is to be done, and what the rows are.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) plan: Plan,
    pub(super) problem: Problem,
    pub(super) level: Level,
    pub(super) labels: Labels,
}

/// A labelled file.
#[derive(Debug)]
pub(super) struct Labelled {
    path: PathBuf,
    rows: Vec<Row>,
    targets: Vec<Target>,
}

/// A labelled file as the base reads it.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) path: PathBuf,
    pub(super) rows: Vec<Row>,
    pub(super) examples: Vec<Example>,
    pub(super) hash: String,
}

/// The base.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) model: Model,
    tokenizer: Tokenizer,
    pub(super) limit: Limit,
}

impl Given {
    /// Reads the rows to train on and those to score on. Needs no model: a label that training never shows should not
    /// cost a minute to find.
    pub(super) fn read(args: &Args) -> Result<(Given, [Labelled; 2]), Failure> {
        let columns = &args.columns;
        let (preset, problem, level) = (columns.preset()?, columns.problem()?, columns.level()?);
        let plan = args.plan(preset.as_ref().map(|p| p.metric), problem, level)?;
        let dir = args.data_dir.as_deref();
        let (path, rows) = columns.rows(args.train.as_ref(), dir, Split::Train, "--train")?;
        let labels = Labels::of(&rows, problem, level);
        let labelled = |(path, rows): (PathBuf, Vec<Row>)| -> Result<Labelled, Failure> {
            let targets = labels.targets(&rows, &path)?;
            Ok(Labelled {
                path,
                rows,
                targets,
            })
        };
        let dev = columns.rows(args.dev.as_ref(), dir, Split::Dev, "--dev")?;
        let files = [labelled((path, rows))?, labelled(dev)?];
        let given = Given {
            plan,
            problem,
            level,
            labels,
        };
        Ok((given, files))
    }

    /// What is trained.
    pub(super) fn facts<'a>(&self, args: &'a Args) -> Facts<'a> {
        Facts {
            method: args.adapt.method.into(),
            sites: &args.adapt.sites,
            r_max: usize::from(args.adapt.r_max),
            alpha: args.adapt.alpha,
            gate_init: args.adapt.gate_init.into(),
            problem: self.problem,
            level: self.level,
            labels: self.labels.names.clone(),
            seed: args.optimiser.seed,
        }
    }
}

impl Base {
    /// Loads the base and its tokenizer.
    pub(super) fn load(args: &Args) -> Result<Base, Failure> {
        let packing = Packing::new(args.quiet);
        let report = |done: usize, total: usize| packing.set(done, total);
        let options = LoadOptions {
            precision: Some(args.dtype.into()),
            pack: PackOptions {
                progress: Some(&report),
                ..PackOptions::default()
            },
        };
        let model = Model::load(Source::dir(args.model.base(args.quiet)?)?, &options)?;
        let source = model.source();
        let tokenizer = Tokenizer::load(&|name| source.read(name), &source.path(""))?;
        Ok(Base {
            limit: args.columns.limit(&model),
            tokenizer,
            model,
        })
    }

    /// The rows of a file as tokens.
    pub(super) fn data(&self, file: Labelled) -> Result<Data, Failure> {
        let Labelled {
            path,
            rows,
            targets,
        } = file;
        let (tokenizer, model) = (&self.tokenizer, &self.model);
        let examples = examples(tokenizer, model, self.limit, &path, &rows, targets)?;
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        Ok(Data {
            path,
            rows,
            examples,
            hash,
        })
    }
}
