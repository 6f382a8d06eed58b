//! Changing adapters while the server serves: one change at a time for a name, files read and checked before the name
//! moves, the state written before the client hears of it: a change whose state cannot be written is taken back.
//!
//! A name that is not in memory but known (evicted, or a subdirectory of the resolver's directory) is loaded by the first
//! request for it; others for the same name wait for that load.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::OwnedMutexGuard;

use super::{
    failure::{Failure, Kind, of_adapter},
    options::Options,
    persist::{self, SavedAdapter},
    source::Sources,
    state::App,
};
use crate::engine::{
    Refused, Registry, Resident,
    registry::{Changed, Publish},
};

/// The longest name, in bytes.
const LONGEST_NAME: usize = 256;

/// What changes of adapters share.
#[derive(Debug)]
pub(super) struct Loads {
    pub(super) sources: Sources,
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Names that are not in memory and can be brought back: evicted ones, and those that a restart could not load.
    known: Mutex<BTreeMap<String, SavedAdapter>>,
    /// Held while names change and the state file is written.
    changing: Mutex<()>,
}

/// A change of one name under way; no other one of this name can begin. The work holds it too: it outlives the request
/// of a client that leaves.
#[derive(Debug, Clone)]
pub(super) struct Turn(Arc<Held>);

#[derive(Debug)]
struct Held {
    app: App,
    name: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.guard = None;
        let mut busy = lock(&self.app.loads.busy);
        // Nobody waits for it: the map and nothing else holds it.
        if busy
            .get(&self.name)
            .is_some_and(|m| Arc::strong_count(m) == 1)
        {
            busy.remove(&self.name);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loads {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            sources: Sources::new(options),
            busy: Mutex::default(),
            known: Mutex::default(),
            changing: Mutex::default(),
        }
    }

    /// Names that are not in memory and can be brought back.
    pub(super) fn known(&self) -> BTreeMap<String, SavedAdapter> {
        lock(&self.known).clone()
    }

    /// Keeps in mind a name that is not in memory.
    pub(super) fn remember(&self, adapter: SavedAdapter) {
        lock(&self.known).insert(adapter.name.clone(), adapter);
    }

    fn mutex(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        lock(&self.busy).entry(name.to_owned()).or_default().clone()
    }
}

/// Whether `name` can be an adapter's.
pub(super) fn check_name(app: &App, name: &str) -> Result<(), Failure> {
    let wrong = |why: &str| Err(Failure::new(Kind::InvalidName, why));
    if name.is_empty() || name.len() > LONGEST_NAME {
        return wrong("a name has 1 to 256 bytes");
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !name.chars().all(fine) {
        return wrong("a name is made of ASCII letters, digits, '-', '_', '.' and '/'");
    }
    if name
        .split('/')
        .any(|part| part.is_empty() || part.starts_with('.'))
    {
        return wrong("no part of a name is empty or begins with '.'");
    }
    if name == "__base__" || app.options.model_names.iter().any(|n| n == name) {
        return wrong("this is the base's own name");
    }
    Ok(())
}

/// Takes the turn of `name`.
///
/// # Errors
/// 429 where another change of it is under way.
pub(super) fn take_turn(app: &App, name: &str) -> Result<Turn, Failure> {
    let guard = app.loads.mutex(name).try_lock_owned().map_err(|_| {
        let why = format!("another change of {name:?} is under way");
        Failure::new(Kind::LoadBusy, why)
    })?;
    Ok(Turn::new(app, name, guard))
}

impl Turn {
    fn new(app: &App, name: &str, guard: OwnedMutexGuard<()>) -> Self {
        Self(Arc::new(Held {
            app: app.clone(),
            name: name.to_owned(),
            guard: Some(guard),
        }))
    }
}

/// Whether a change is written to the state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Keep {
    /// Yes, or the change is not made.
    #[default]
    Must,
    /// Yes; a failure is logged. For what a request for inference brings about, which changes no name's meaning.
    Try,
    /// Part of a larger change, which writes the state itself.
    No,
}

/// How a load goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    pub(super) replace: bool,
    pub(super) expected: Option<String>,
    pub(super) pinned: Option<bool>,
    /// `Some`: not the name itself but so many per cent of its requests.
    pub(super) canary: Option<u8>,
    pub(super) keep: Keep,
}

/// Reads the files at `place` and gives the name of the turn to what is in them. What stood there serves until then, and
/// goes on where anything is wrong.
pub(super) async fn load(
    turn: &Turn,
    place: String,
    how: Load,
) -> Result<(Arc<Resident>, Changed), Failure> {
    let turn = turn.clone();
    let work =
        tokio::task::spawn_blocking(move || load_now(&turn.0.app, &turn.0.name, &place, &how));
    let failed = |_| Failure::new(Kind::Backend, "loading the adapter failed");
    work.await.map_err(failed)?
}

/// As [`load`], on this thread.
pub(super) fn load_now(
    app: &App,
    name: &str,
    place: &str,
    how: &Load,
) -> Result<(Arc<Resident>, Changed), Failure> {
    let start = Instant::now();
    let done: Result<_, Failure> = (|| {
        let files = app.loads.sources.read(place, name)?;
        let resident = (app.engine.prepare(&files, Path::new(name))).map_err(|e| of_adapter(&e))?;
        drop(files);
        let pinned = || lock(&app.loads.known).get(name).map(|known| known.pinned);
        let publish = Publish {
            expected: how.expected.as_deref(),
            replace: how.replace,
            pinned: how.pinned.or_else(pinned),
            source: Some(place),
        };
        let new = resident.clone();
        let changed = commit(app, name, how.keep, |registry| match how.canary {
            Some(percent) => registry.canary(name, Some(new), percent, publish),
            None => registry.publish(name, new, publish),
        })?;
        Ok((resident, changed))
    })();
    app.metrics
        .load_seconds
        .observe(start.elapsed().as_secs_f64());
    let outcome = if done.is_ok() { "loaded" } else { "refused" };
    app.metrics.loads.with_label_values(&[outcome]).inc();
    match &done {
        Ok((resident, _)) => {
            tracing::info!(name, generation = resident.generation(), "adapter loaded");
        }
        Err(failure) => {
            tracing::warn!(name, why = %failure.message, "adapter refused");
        }
    }
    done
}

/// A change that reads no file.
pub(super) async fn change(
    turn: &Turn,
    change: impl FnOnce(&Registry, &str) -> Result<Changed, Refused> + Send + 'static,
) -> Result<Changed, Failure> {
    let turn = turn.clone();
    let work = tokio::task::spawn_blocking(move || {
        let Held { app, name, .. } = &*turn.0;
        commit(app, name, Keep::Must, |registry| change(registry, name))
    });
    let failed = |_| Failure::new(Kind::Backend, "changing the adapter failed");
    work.await.map_err(failed)?
}

/// Makes a change of `name` and writes the state: both, or neither where it must be kept.
pub(super) fn commit(
    app: &App,
    name: &str,
    keep: Keep,
    change: impl FnOnce(&Registry) -> Result<Changed, Refused>,
) -> Result<Changed, Failure> {
    // One at a time, and each writes what is true when its turn comes: the last write is the newest state.
    let _turn = lock(&app.loads.changing);
    let registry = app.engine.registry();
    let before = (registry.snapshot(), app.loads.known());
    let changed = change(registry)?;
    lock(&app.loads.known).remove(name);
    for alias in &changed.evicted {
        tracing::info!(name = alias.name, "adapter evicted");
        if let Some(known) = SavedAdapter::evicted(alias) {
            app.loads.remember(known);
        }
    }
    if keep == Keep::No {
        return Ok(changed);
    }
    let Err(error) = persist::save(app) else {
        return Ok(changed);
    };
    tracing::error!("the state was not saved: {error}");
    if keep == Keep::Must {
        registry.restore(before.0);
        *lock(&app.loads.known) = before.1;
        let why = "the state file could not be written; the change was taken back";
        return Err(Failure::new(Kind::StateNotSaved, why));
    }
    Ok(changed)
}

/// Takes a name away, also one that is known and not in memory.
pub(super) async fn unload(turn: &Turn, expected: Option<String>) -> Result<Changed, Failure> {
    let Held { app, name, .. } = &*turn.0;
    let forgotten = expected.is_none()
        && !app.engine.registry().contains(name)
        && lock(&app.loads.known).contains_key(name);
    change(turn, move |registry, name| match forgotten {
        true => Ok(Changed::default()),
        false => registry.remove(name, expected.as_deref()),
    })
    .await
}

/// The generation that answers a request for `name`, loaded if it is known and not in memory; `None` for a name that
/// nobody has.
pub(super) async fn resolve(app: &App, name: &str) -> Result<Option<Arc<Resident>>, Failure> {
    if let Ok(resident) = app.engine.registry().get(Some(name)) {
        return Ok(Some(resident));
    }
    if check_name(app, name).is_err() {
        return Ok(None);
    }
    let known = |app: &App| {
        let known = lock(&app.loads.known).get(name).cloned();
        let found = || Some(SavedAdapter::at(name, app.loads.sources.resolver(name)?));
        known.or_else(found)
    };
    if known(app).is_none() {
        return Ok(None);
    }
    let guard = app.loads.mutex(name).lock_owned().await;
    let turn = Turn::new(app, name, guard);
    // Whoever had the turn before may have loaded it, or taken it away.
    if let Ok(resident) = app.engine.registry().get(Some(name)) {
        return Ok(Some(resident));
    }
    let Some(known) = known(app) else {
        return Ok(None);
    };
    let work =
        tokio::task::spawn_blocking(move || persist::bring_back(&turn.0.app, &known, Keep::Try));
    let failed = |_| Failure::new(Kind::Backend, "loading the adapter failed");
    match work.await.map_err(failed)? {
        // A store is asked only now whether it has such a name.
        Err(failure) if failure.kind == Kind::AdapterNotFound => return Ok(None),
        done => done?,
    };
    Ok(app.engine.registry().get(Some(name)).ok())
}
