//! Arguments that name a base and its adapters, and the engine made from them.

use std::{mem::ManuallyDrop, path::Path};

use clap::{Args, ValueEnum};

use super::{
    Failure,
    place::{Place, named},
};
use crate::{
    adapter::Adapter,
    embedded,
    engine::{DEFAULT_BATCH_TOKENS, Engine},
    kernel::panel::Precision,
    model::{LoadOptions, Model},
    text::Tokenizer,
    weights::{PackOptions, Source},
};

/// Which base, which adapters.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(super) struct ModelArgs {
    /// Directory of the base (config.json, tokenizer.json, model.safetensors), or a repository of the Hugging Face hub
    /// (owner/name[@revision]). Without it, the tiny model that is built in
    #[arg(long, value_name = "DIR", env = "SORANK_MODEL")]
    pub(super) model: Option<Place>,
    /// The name that rows call an adapter by, and its directory or repository; repeatable
    #[arg(
        long = "adapter",
        value_name = "NAME=DIR",
        value_parser = named,
        env = "SORANK_ADAPTERS",
        value_delimiter = ';'
    )]
    pub(super) adapters: Vec<(String, Place)>,
    /// Precision of the base's linears
    #[arg(long, value_enum, default_value_t = Dtype::F32, env = "SORANK_DTYPE")]
    pub(super) dtype: Dtype,
    /// Threads; by default the cores this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), env = "SORANK_THREADS")]
    pub(super) threads: Option<u16>,
    /// The most tokens of one batch
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BATCH_TOKENS, env = "SORANK_MAX_BATCH_TOKENS")]
    pub(super) max_batch_tokens: usize,
    /// No progress on stderr
    #[arg(long, short, env = "SORANK_QUIET")]
    pub(super) quiet: bool,
    /// Read the base into private memory instead of mapping its files: slower to start and not shared with other
    /// processes, but nobody can change it under this one
    #[arg(long, env = "SORANK_NO_MMAP")]
    pub(super) no_mmap: bool,
}

/// Precisions that the runtime offers.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Dtype {
    /// 32-bit floats
    F32,
    /// 16-bit brain floats: half the memory, about twice the speed where the CPU multiplies them
    Bf16,
    /// 8-bit integers, a scale an output channel: a quarter of the memory; adapters and heads stay f32
    Int8,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
            Dtype::Int8 => Precision::Int8,
        }
    }
}

impl ModelArgs {
    /// Where the base is.
    pub(super) fn source(&self) -> Result<Source, Failure> {
        Ok(match &self.model {
            Some(place) => Source::dir(place.base(self.quiet)?)?,
            None => embedded::base(),
        })
    }

    /// The base, loaded.
    pub(super) fn load(&self) -> Result<Model, Failure> {
        self.load_from(self.source()?)
    }

    fn load_from(&self, source: Source) -> Result<Model, Failure> {
        let progress = super::progress::Packing::new(self.quiet);
        let report = |done: usize, total: usize| progress.set(done, total);
        let pack = PackOptions {
            progress: Some(&report),
            no_mmap: self.no_mmap,
            ..PackOptions::default()
        };
        let options = LoadOptions {
            precision: Some(self.dtype.into()),
            pack,
        };
        Ok(Model::load(source, &options)?)
    }

    /// The adapters with their names: the built-in ones of the built-in model, and those given; each read, or why not.
    pub(super) fn all_adapters(&self) -> Result<Vec<(String, crate::Result<Adapter>)>, Failure> {
        let mut all = Vec::new();
        if self.model.is_none() {
            for (name, files) in embedded::adapters() {
                let shown_as = Path::new("built-in").join(name);
                all.push((name.to_owned(), files.adapter(&shown_as)));
            }
        }
        for (name, place) in &self.adapters {
            if all.iter().any(|(n, _)| n == name) {
                return Err(Failure::Usage(format!("two adapters are named {name:?}")));
            }
            all.push((name.clone(), Adapter::read(place.adapter(self.quiet)?)));
        }
        Ok(all)
    }

    /// The engine with every adapter bound; sets the size of the thread pool. It is for as long as the process lives: its end
    /// gives back everything at once, where dropping a vocabulary word by word takes as long as a short text.
    pub(super) fn engine(&self) -> Result<ManuallyDrop<Engine>, Failure> {
        let engine = self.bare_engine()?;
        for (name, adapter) in self.all_adapters()? {
            let task = engine.model().bind(&name, &adapter?)?;
            engine.registry().insert(&name, task);
        }
        Ok(ManuallyDrop::new(engine))
    }

    /// The engine without an adapter; sets the size of the thread pool.
    pub(super) fn bare_engine(&self) -> Result<Engine, Failure> {
        let threads = self.threads.map_or(0, usize::from); // 0: rayon asks how many cores it may use
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|e| Failure::Failed(format!("starting threads: {e}")))?;
        let source = self.source()?;
        // A large vocabulary takes as long as mapping a packed base: beside each other.
        let (model, tokenizer) = std::thread::scope(|scope| {
            let tokenizer =
                scope.spawn(|| Tokenizer::load(&|name| source.read(name), &source.path("")));
            let model = self.load_from(source.clone());
            // The base is there first, and its first pass would wait for every page of the weights.
            if let Ok(model) = &model {
                model.packed().prefault(&|| !tokenizer.is_finished());
            }
            (model, tokenizer.join())
        });
        let model = model?;
        let tokenizer = match tokenizer {
            Ok(tokenizer) => tokenizer?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok(Engine::new(model, tokenizer, self.max_batch_tokens)?)
    }
}

/// The base in `dir`, to check adapters against.
pub(super) fn base_of(dir: &Path) -> crate::Result<Model> {
    Model::load(Source::dir(dir)?, &LoadOptions::default())
}

/// Records in `adapter` which base it is for, once it was seen to fit.
pub(super) fn stamp(adapter: &mut Adapter, base: &Model) -> crate::Result<()> {
    base.bind("checked", adapter)?;
    adapter.base_fingerprint = Some(base.packed().content_hash().to_owned());
    Ok(())
}
