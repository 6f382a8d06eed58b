//! The state file: which names there are, where each came from, pins and canaries; so that a restart serves the same.
//!
//! Written whole after each change, before the client hears of it: to a temporary file, synced, renamed. A process
//! killed at any moment leaves the state before the change or after it. A file changed since is loaded as it is now, with
//! a warning; an earlier generation (for rolling back) comes back only where its files are still the same.

use std::{path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    failure::Failure,
    loads::{Keep, Load, commit, load_now},
    state::App,
};
use crate::{
    engine::{Resident, registry::AliasView},
    error::{Error, Result},
    weights::durable,
};

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    adapters: Vec<SavedAdapter>,
}

/// A name, where it comes from, and what else holds of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedAdapter {
    pub(super) name: String,
    source: String,
    /// Of the files when they were loaded; none for a name that was evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    #[serde(default)]
    pub(super) pinned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    canary: Option<SavedCanary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<SavedPrevious>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedCanary {
    source: String,
    generation: String,
    percent: u8,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedPrevious {
    source: String,
    generation: String,
}

impl SavedAdapter {
    /// A name of which nothing more is known than where it is.
    pub(super) fn at(name: &str, source: String) -> Self {
        Self {
            name: name.to_owned(),
            source,
            generation: None,
            pinned: false,
            canary: None,
            previous: None,
        }
    }

    /// `None` for one that cannot be loaded again.
    fn of(alias: &AliasView) -> Option<Self> {
        let canary = alias.canary.as_ref();
        let canary = canary.and_then(|(resident, percent, source)| {
            Some(SavedCanary {
                source: source.clone()?,
                generation: resident.generation().to_owned(),
                percent: *percent,
            })
        });
        let previous = alias.previous.as_ref();
        let previous = previous.and_then(|(resident, source)| {
            Some(SavedPrevious {
                source: source.clone()?,
                generation: resident.generation().to_owned(),
            })
        });
        Some(Self {
            name: alias.name.clone(),
            source: alias.source.clone()?,
            generation: Some(alias.current.generation().to_owned()),
            pinned: alias.pinned,
            canary,
            previous,
        })
    }

    /// The same for a name that is no longer in memory: what was kept to roll back to went first.
    pub(super) fn evicted(alias: &AliasView) -> Option<Self> {
        let saved = Self::of(alias)?;
        Some(Self {
            generation: None,
            previous: None,
            ..saved
        })
    }
}

/// Writes the state file, where there is one to be.
///
/// # Errors
/// When it cannot be written; the one before it stands then.
pub(super) fn save(app: &App) -> Result<()> {
    match &app.options.state_file {
        Some(path) => write(path, &now(app)),
        None => Ok(()),
    }
}

fn now(app: &App) -> Saved {
    let aliases = app.engine.registry().aliases();
    let mut adapters: Vec<SavedAdapter> = aliases.iter().filter_map(SavedAdapter::of).collect();
    for (name, known) in app.loads.known() {
        if !adapters.iter().any(|a| a.name == name) {
            let generation = None;
            adapters.push(SavedAdapter {
                generation,
                ..known
            });
        }
    }
    Saved {
        version: VERSION,
        adapters,
    }
}

fn write(path: &Path, saved: &Saved) -> Result<()> {
    let text = serde_json::to_vec_pretty(saved).expect("names and hashes are JSON");
    durable::replace(path, |out| out.write_all(&text).map_err(Error::io(path)))
}

/// Loads what the state file says, where there is one: the most recent state that a client was told of.
///
/// # Errors
/// When the file cannot be read or is not a state file. An adapter in it that cannot be loaded is a warning, and is tried
/// again when it is asked for.
pub(super) fn restore(app: &App) -> Result<()> {
    let Some(path) = app.options.state_file.as_ref().filter(|p| p.exists()) else {
        return Ok(());
    };
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let saved: Saved = serde_json::from_slice(&bytes)
        .map_err(|e| Error::format(path, format!("not a state file: {e}")))?;
    if saved.version != VERSION {
        let why = format!("version {}, expected {VERSION}", saved.version);
        return Err(Error::format(path, why));
    }
    for adapter in &saved.adapters {
        app.loads.remember(adapter.clone());
    }
    for adapter in &saved.adapters {
        if adapter.generation.is_some() {
            // A failure is logged; the name stays known, as it stood.
            let _ = bring_back(app, adapter, Keep::No);
        }
    }
    if let Err(error) = save(app) {
        tracing::error!("the state was not saved: {error}");
    }
    Ok(())
}

/// Loads `saved` under its name with its pin, its canary and what it can be rolled back to.
///
/// # Errors
/// When its current generation cannot be loaded; the rest is logged.
pub(super) fn bring_back(
    app: &App,
    saved: &SavedAdapter,
    keep: Keep,
) -> Result<Arc<Resident>, Failure> {
    let name = saved.name.as_str();
    let differs = |found: &str, saved: &str| {
        if found != saved {
            tracing::warn!(name, "its files have changed since the state was saved");
        }
    };
    let how = Load {
        replace: true,
        pinned: Some(saved.pinned),
        keep,
        ..Load::default()
    };
    let (resident, _) = load_now(app, name, &saved.source, &how)?;
    if let Some(generation) = &saved.generation {
        differs(resident.generation(), generation);
    }
    if let Some(canary) = &saved.canary {
        let how = Load {
            canary: Some(canary.percent),
            keep,
            ..Load::default()
        };
        if let Ok((resident, _)) = load_now(app, name, &canary.source, &how) {
            differs(resident.generation(), &canary.generation);
        }
    }
    if let Some(previous) = &saved.previous {
        remember_previous(app, name, previous, keep);
    }
    Ok(resident)
}

fn remember_previous(app: &App, name: &str, saved: &SavedPrevious, keep: Keep) {
    let Ok(files) = app.loads.sources.read(&saved.source, name) else {
        return;
    };
    if files.generation() != saved.generation {
        return tracing::info!(name, "what it could be rolled back to has been overwritten");
    }
    let Ok(resident) = app.engine.prepare(&files, Path::new(name)) else {
        return;
    };
    // Where the limits do not allow it, there is nothing to roll back to.
    let _ = commit(app, name, keep, |registry| {
        registry.remember_previous(name, resident, Some(&saved.source))
    });
}
