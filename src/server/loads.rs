//! Changing adapters while the server serves: one change at a time for a name, files read and checked before the name
//! moves, the state written before the client hears of it.
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
    persist,
    source::Sources,
    state::App,
};
use crate::engine::{
    Refused, Resident,
    registry::{Changed, Publish},
};

/// The longest name, in bytes.
const LONGEST_NAME: usize = 256;

/// What changes of adapters share.
#[derive(Debug)]
pub(super) struct Loads {
    pub(super) sources: Sources,
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Evicted names and where they came from.
    evicted: Mutex<BTreeMap<String, String>>,
    /// Held while the state file is written.
    pub(super) writing: Mutex<()>,
}

/// A change of one name under way; no other one of this name can begin.
#[derive(Debug)]
pub(super) struct Turn {
    app: App,
    name: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn {
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
            evicted: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    /// Evicted names and where they came from.
    pub(super) fn evicted(&self) -> BTreeMap<String, String> {
        lock(&self.evicted).clone()
    }

    /// Keeps in mind where `name`, which is not in memory, would come from.
    pub(super) fn remember(&self, name: &str, place: &str) {
        lock(&self.evicted).insert(name.to_owned(), place.to_owned());
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
    Ok(Turn {
        app: app.clone(),
        name: name.to_owned(),
        guard: Some(guard),
    })
}

/// How a load goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Load {
    pub(super) replace: bool,
    pub(super) expected: Option<String>,
    pub(super) pinned: Option<bool>,
    /// `Some`: not the name itself but so many per cent of its requests.
    pub(super) canary: Option<u8>,
    /// Part of a larger change, which saves the state itself.
    pub(super) unsaved: bool,
}

/// Reads the files at `place` and gives the name of the turn to what is in them. What stood there serves until then, and
/// goes on where anything is wrong.
pub(super) async fn load(
    turn: &Turn,
    place: String,
    how: Load,
) -> Result<(Arc<Resident>, Changed), Failure> {
    let (app, name) = (turn.app.clone(), turn.name.clone());
    let work = tokio::task::spawn_blocking(move || load_now(&app, &name, &place, &how));
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
        let registry = app.engine.registry();
        let publish = Publish {
            expected: how.expected.as_deref(),
            replace: how.replace,
            pinned: how.pinned,
            source: Some(place),
        };
        let changed = match how.canary {
            Some(percent) => registry.canary(name, Some(resident.clone()), percent, publish)?,
            None => registry.publish(name, resident.clone(), publish)?,
        };
        Ok((resident, changed))
    })();
    app.metrics
        .load_seconds
        .observe(start.elapsed().as_secs_f64());
    let outcome = if done.is_ok() { "loaded" } else { "refused" };
    app.metrics.loads.with_label_values(&[outcome]).inc();
    match &done {
        Ok((resident, changed)) => {
            tracing::info!(name, generation = resident.generation(), "adapter loaded");
            lock(&app.loads.evicted).remove(name);
            settle(app, changed, !how.unsaved);
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
    change: impl FnOnce(&crate::engine::Registry, &str) -> Result<Changed, Refused> + Send + 'static,
) -> Result<Changed, Failure> {
    let (app, name) = (turn.app.clone(), turn.name.clone());
    let work = tokio::task::spawn_blocking(move || {
        let changed = change(app.engine.registry(), &name)?;
        lock(&app.loads.evicted).remove(&name);
        settle(&app, &changed, true);
        Ok(changed)
    });
    let failed = |_| Failure::new(Kind::Backend, "changing the adapter failed");
    work.await.map_err(failed)?
}

/// After a change: remembers what was evicted and, to `save`, writes the state.
fn settle(app: &App, changed: &Changed, save: bool) {
    for (name, place) in &changed.evicted {
        tracing::info!(name, "adapter evicted");
        if let Some(place) = place {
            app.loads.remember(name, place);
        }
    }
    if save {
        persist::save(app);
    }
}

/// Takes a name away, also one that is known and not in memory.
pub(super) async fn unload(turn: &Turn, expected: Option<String>) -> Result<Changed, Failure> {
    let (app, name) = (&turn.app, &turn.name);
    let forgotten = expected.is_none()
        && !app.engine.registry().contains(name)
        && lock(&app.loads.evicted).contains_key(name);
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
        let evicted = lock(&app.loads.evicted).get(name).cloned();
        evicted.or_else(|| app.loads.sources.resolver(name))
    };
    if known(app).is_none() {
        return Ok(None);
    }
    let guard = app.loads.mutex(name).lock_owned().await;
    let turn = Turn {
        app: app.clone(),
        name: name.to_owned(),
        guard: Some(guard),
    };
    // Whoever had the turn before may have loaded it, or taken it away.
    if let Ok(resident) = app.engine.registry().get(Some(name)) {
        return Ok(Some(resident));
    }
    let Some(place) = known(app) else {
        return Ok(None);
    };
    load(&turn, place, Load::default()).await?;
    Ok(app.engine.registry().get(Some(name)).ok())
}
