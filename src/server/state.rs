//! What all handlers share: the engine, the queue, the options, the counters, and whether the server takes requests.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::SeqCst},
};

use tokio::sync::Semaphore;

use super::{
    base::Base,
    batcher::{Batcher, Compute, Sizes},
    failure::{Failure, Kind},
    loads::Loads,
    metrics::Metrics,
    options::Options,
};
use crate::engine::{Admitted, Engine};

/// How handlers hold it.
pub(super) type App = Arc<State>;

/// A server without its sockets.
pub struct State {
    pub(super) engine: Arc<Engine>,
    pub(super) batcher: Batcher,
    pub(super) options: Options,
    pub(super) metrics: Arc<Metrics>,
    pub(super) loads: Loads,
    /// Requests that may still come in.
    pub(super) places: Semaphore,
    base: Base,
    phase: AtomicU8,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

const READY: u8 = 0;
const DRAINING: u8 = 1;
const BASE_CHANGED: u8 = 2;

impl State {
    /// A server over `engine`, whose batches are its own `run`.
    pub fn new(engine: Engine, options: Options) -> App {
        let engine = Arc::new(engine);
        let runs = engine.clone();
        let base = Base::of(engine.model(), &options);
        let compute = move |rows: &[Admitted]| {
            base.check()?;
            let answers = runs.run(rows);
            base.check()?; // also while it ran
            Ok(answers)
        };
        Self::with_compute(engine, options, Arc::new(compute))
    }

    /// A server over `engine` whose batches are computed by `compute`.
    pub fn with_compute(engine: Arc<Engine>, options: Options, compute: Compute) -> App {
        engine.registry().limit(options.limits);
        let metrics = Arc::new(Metrics::new(options.metric_adapters));
        let threads = rayon::current_num_threads();
        let sizes = Sizes {
            queue: options.queue,
            batch_tokens: options.max_batch_tokens,
            batch_rows: options.max_batch_rows,
            workers: options.batch_workers.clamp(1, threads),
            threads,
        };
        let counted = metrics.clone();
        let batcher = Batcher::start(sizes, compute, Arc::new(move |ran| counted.batch(ran)));
        Arc::new(Self {
            base: Base::of(engine.model(), &options),
            places: Semaphore::new(options.max_concurrent_requests.max(1)),
            loads: Loads::new(&options),
            engine,
            batcher,
            options,
            metrics,
            phase: AtomicU8::new(READY),
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// From now on new requests are told to go elsewhere.
    pub fn drain(&self) {
        self.phase.store(DRAINING, SeqCst);
    }

    /// The base's files were changed under the server: nothing it would answer can be trusted.
    pub fn base_changed(&self) {
        self.phase.store(BASE_CHANGED, SeqCst);
    }

    /// Whether it takes requests.
    ///
    /// # Errors
    /// Why not: 503.
    pub fn ready(&self) -> Result<(), Failure> {
        if self.base.check().is_err() {
            self.base_changed();
        }
        let why = match self.phase.load(SeqCst) {
            READY => return Ok(()),
            DRAINING => "the server is ending",
            _ => "the base model's file was changed while it is served; restart the server",
        };
        Err(Failure::new(Kind::Unready, why))
    }

    /// The name that answers give the base.
    pub(super) fn model_name(&self) -> &str {
        self.options
            .model_names
            .first()
            .map_or("sorank", String::as_str)
    }
}
