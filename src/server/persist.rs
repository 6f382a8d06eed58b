//! The state file: which names there are, where each came from, pins and canaries; so that a restart serves the same.
//!
//! Written whole after each change, before the client hears of it: to a temporary file, synced, renamed. A process
//! killed at any moment leaves the state before the change or after it. Earlier generations (for rolling back) are not
//! kept: their files may have been replaced in place. A file changed since is loaded as it is now, with a warning.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    loads::{Load, load_now},
    state::App,
};
use crate::{
    error::{Error, Result},
    weights::durable,
};

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    adapters: Vec<SavedAdapter>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedAdapter {
    name: String,
    source: String,
    /// Of the files when they were loaded; none for a name that was evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<String>,
    #[serde(default)]
    pinned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    canary: Option<SavedCanary>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedCanary {
    source: String,
    generation: String,
    percent: u8,
}

/// Writes the state file, where there is one to be. A failure is logged: what serves, serves.
pub(super) fn save(app: &App) {
    let Some(path) = &app.options.state_file else {
        return;
    };
    // One at a time, and each writes what is true when its turn comes: the last write is the newest state.
    let _turn = app
        .loads
        .writing
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Err(error) = write(path, &now(app)) {
        tracing::error!("the state was not saved: {error}");
    }
}

fn now(app: &App) -> Saved {
    let aliases = app.engine.registry().aliases().into_iter();
    let mut adapters: Vec<SavedAdapter> = aliases
        .filter_map(|alias| {
            let canary = alias.canary.and_then(|(resident, percent, source)| {
                Some(SavedCanary {
                    source: source?,
                    generation: resident.generation().to_owned(),
                    percent,
                })
            });
            Some(SavedAdapter {
                name: alias.name,
                source: alias.source?,
                generation: Some(alias.current.generation().to_owned()),
                pinned: alias.pinned,
                canary,
            })
        })
        .collect();
    for (name, source) in app.loads.evicted() {
        if !adapters.iter().any(|a| a.name == name) {
            adapters.push(SavedAdapter {
                name,
                source,
                generation: None,
                pinned: false,
                canary: None,
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
        app.loads.remember(&adapter.name, &adapter.source);
    }
    for adapter in &saved.adapters {
        if adapter.generation.is_some() {
            restore_one(app, adapter);
        }
    }
    save(app);
    Ok(())
}

fn restore_one(app: &App, adapter: &SavedAdapter) {
    let name = adapter.name.as_str();
    let how = Load {
        replace: true,
        pinned: Some(adapter.pinned),
        unsaved: true,
        ..Load::default()
    };
    let differs = |found: &str, saved: &str| {
        if found != saved {
            tracing::warn!(name, "its files have changed since the state was saved");
        }
    };
    match load_now(app, name, &adapter.source, &how) {
        Ok((resident, _)) => {
            let saved = adapter.generation.as_deref().unwrap_or_default();
            differs(resident.generation(), saved);
        }
        Err(_) => return, // logged; it stays known
    }
    if let Some(canary) = &adapter.canary {
        let how = Load {
            canary: Some(canary.percent),
            unsaved: true,
            ..Load::default()
        };
        if let Ok((resident, _)) = load_now(app, name, &canary.source, &how) {
            differs(resident.generation(), &canary.generation);
        }
    }
}
