//! Names to generations. A lookup hands out an `Arc`: whoever holds it keeps that generation, whatever happens later.
//!
//! A name stands for a current generation, remembers the one before it (to roll back), and may send a share of its
//! requests to another (a canary). Identical files are one [`Resident`] under all their names. Every change is made on a
//! copy of the map, checked against the limits (evicting what was used longest ago and is not pinned), and then takes
//! the old map's place: it happens whole or not at all, and lookups never wait for a file.
//! What was dropped is listed as retired until its last lease ends.

mod fit;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

pub use self::view::{AliasView, GenerationView};
use super::{refused::Refused, resident::Resident};
use crate::{
    error::{Error, Result},
    model::Task,
};

/// Names of adapters that a message about an unknown one tells.
const NAMES_TOLD: usize = 20;

/// How much may be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Names.
    pub adapters: usize,
    /// Bytes of all generations that a name stands for, remembers, or tries as a canary; each once.
    pub bytes: u64,
    /// The largest rank of any site.
    pub rank: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            adapters: usize::MAX,
            bytes: u64::MAX,
            rank: usize::MAX,
        }
    }
}

/// The adapters of one model, by name.
#[derive(Debug)]
pub struct Registry {
    base: Arc<Resident>,
    state: RwLock<State>,
    clock: AtomicU64,
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    aliases: BTreeMap<String, Alias>,
    limits: Limits,
    retired: Vec<Weak<Resident>>,
}

#[derive(Debug, Clone)]
struct Alias {
    current: Held,
    previous: Option<Held>,
    /// On trial, with the per cent of requests that it gets.
    canary: Option<(Held, u8)>,
    pinned: bool,
    used: Arc<Use>,
}

/// A generation and where it came from, for whoever loads it again.
#[derive(Debug, Clone)]
struct Held {
    resident: Arc<Resident>,
    source: Option<String>,
}

/// How a name was used; shared by the copies of the map.
#[derive(Debug, Default)]
struct Use {
    hits: AtomicU64,
    /// Reading of the registry's clock at the last use.
    tick: AtomicU64,
    /// Milliseconds since 1970.
    at: AtomicU64,
}

/// How a generation takes a name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Publish<'a> {
    /// The generation that the name must stand for now.
    pub expected: Option<&'a str>,
    /// Whether it may replace another generation.
    pub replace: bool,
    /// Whether it is kept from eviction; `None` leaves it as it is.
    pub pinned: Option<bool>,
    /// Where it came from.
    pub source: Option<&'a str>,
}

/// What a change did.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    /// The generation that the name stood for before.
    pub replaced: Option<String>,
    /// Names that were evicted, as they stood.
    pub evicted: Vec<AliasView>,
}

/// All names as they were at a moment; holds their generations.
#[derive(Debug, Clone)]
pub struct Snapshot(BTreeMap<String, Alias>);

impl Alias {
    fn new(current: Held) -> Self {
        Self {
            current,
            previous: None,
            canary: None,
            pinned: false,
            used: Arc::default(),
        }
    }

    /// Every generation that it holds.
    fn residents(&self) -> impl Iterator<Item = &Arc<Resident>> {
        let canary = self.canary.as_ref().map(|(held, _)| held);
        let held = [Some(&self.current), self.previous.as_ref(), canary];
        held.into_iter().flatten().map(|held| &held.resident)
    }

    fn replace(&mut self, new: Held) {
        let before = std::mem::replace(&mut self.current, new);
        if !Arc::ptr_eq(&self.current.resident, &before.resident) {
            self.previous = Some(before);
        }
    }

    /// Of every hundred uses in a row exactly `percent` go to the canary, spread evenly.
    fn choose(&self, turn: u64) -> &Arc<Resident> {
        match &self.canary {
            Some((canary, percent)) => {
                let share = |n: u64| n * u64::from(*percent) / 100;
                let turn = turn % 100;
                match share(turn + 1) > share(turn) {
                    true => &canary.resident,
                    false => &self.current.resident,
                }
            }
            None => &self.current.resident,
        }
    }
}

impl Registry {
    /// A registry with the bare base and no adapter.
    pub fn new(base: Resident) -> Self {
        Self {
            base: Arc::new(base),
            state: RwLock::default(),
            clock: AtomicU64::new(1),
            evictions: AtomicU64::new(0),
        }
    }

    /// Sets how much may be loaded from now on.
    pub fn limit(&self, limits: Limits) {
        self.write().limits = limits;
    }

    /// How much may be loaded.
    pub fn limits(&self) -> Limits {
        self.read().limits
    }

    /// The bare base.
    pub fn base(&self) -> &Arc<Resident> {
        &self.base
    }

    /// The generation that answers one request for `name` (its canary's turn included); the base for `None`.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`]: an unknown name is never answered by the base.
    pub fn get(&self, name: Option<&str>) -> Result<Arc<Resident>> {
        let Some(name) = name else {
            return Ok(self.base.clone());
        };
        let state = self.read();
        let Some(alias) = state.aliases.get(name) else {
            return Err(unknown(name, &state.aliases));
        };
        let turn = self.touch(alias);
        Ok(alias.choose(turn).clone())
    }

    /// The generation of that hash, if a name holds it.
    pub fn generation(&self, generation: &str) -> Option<Arc<Resident>> {
        let state = self.read();
        let (alias, found) = state.aliases.values().find_map(|alias| {
            let found = alias.residents().find(|r| r.generation() == generation)?;
            Some((alias, found))
        })?;
        self.touch(alias);
        Some(found.clone())
    }

    /// As [`Registry::generation`], retired ones with leases included, and without counting as a use: for sharing.
    pub fn find(&self, generation: &str) -> Option<Arc<Resident>> {
        let state = self.read();
        let held = state.aliases.values().flat_map(Alias::residents);
        let mut held = held.filter(|r| r.generation() == generation);
        held.next().cloned().or_else(|| {
            let mut retired = state.retired.iter().filter_map(Weak::upgrade);
            retired.find(|r| r.generation() == generation)
        })
    }

    /// Puts `task` under `name`, whatever stood there before, as a generation of its own.
    pub fn insert(&self, name: &str, task: Task) -> Option<Arc<Resident>> {
        let number = self.clock.fetch_add(1, Relaxed);
        let held = Held {
            resident: Arc::new(Resident::new(task, format!("unnamed-{number}"))),
            source: None,
        };
        let mut state = self.write();
        let mut aliases = state.aliases.clone();
        let before = aliases.insert(name.to_owned(), Alias::new(held));
        state.take(aliases);
        before.map(|alias| alias.current.resident)
    }

    /// Lets `resident` take `name`. A name that already stands for this generation stays as it is, which is no error.
    ///
    /// # Errors
    /// When the name is taken, stands for another generation than expected, or the limits do not allow it.
    pub fn publish(
        &self,
        name: &str,
        resident: Arc<Resident>,
        how: Publish<'_>,
    ) -> Result<Changed, Refused> {
        let new = Held {
            resident,
            source: how.source.map(str::to_owned),
        };
        self.change(name, how.expected, |aliases| {
            let Some(alias) = aliases.get_mut(name) else {
                let mut alias = Alias::new(new);
                alias.pinned = how.pinned.unwrap_or(false);
                aliases.insert(name.to_owned(), alias);
                return Ok(None);
            };
            let before = alias.current.resident.generation().to_owned();
            let same = before == new.resident.generation();
            if !same && !how.replace && how.expected.is_none() {
                return Err(Refused::AlreadyLoaded(name.to_owned()));
            }
            alias.replace(new);
            alias.canary = None;
            alias.pinned = how.pinned.unwrap_or(alias.pinned);
            Ok(Some(before))
        })
    }

    /// Sends `percent` of the requests for `name` to `resident` (`None`: the one on trial); 0 ends the trial, 100 makes it the
    /// current generation.
    ///
    /// # Errors
    /// When there is no such name, it stands for another generation than expected, or the limits do not allow it.
    pub fn canary(
        &self,
        name: &str,
        resident: Option<Arc<Resident>>,
        percent: u8,
        how: Publish<'_>,
    ) -> Result<Changed, Refused> {
        self.change(name, how.expected, |aliases| {
            let alias = known(aliases, name)?;
            let before = alias.current.resident.generation().to_owned();
            let given = resident.map(|resident| Held {
                resident,
                source: how.source.map(str::to_owned),
            });
            let tried = alias.canary.take().map(|(held, _)| held);
            if percent == 0 {
                return Ok(Some(before));
            }
            let held = given
                .or(tried)
                .ok_or_else(|| Refused::NoCanary(name.to_owned()))?;
            match percent {
                ..100 => alias.canary = Some((held, percent)),
                _ => alias.replace(held),
            }
            Ok(Some(before))
        })
    }

    /// Makes the generation before the current one again.
    ///
    /// # Errors
    /// When there is none, or the name stands for another generation than expected.
    pub fn roll_back(&self, name: &str, expected: Option<&str>) -> Result<Changed, Refused> {
        self.change(name, expected, |aliases| {
            let alias = known(aliases, name)?;
            let before = alias.current.resident.generation().to_owned();
            let previous = alias.previous.take();
            let previous = previous.ok_or_else(|| Refused::NothingBefore(name.to_owned()))?;
            alias.replace(previous);
            alias.canary = None;
            Ok(Some(before))
        })
    }

    /// Remembers `resident` as the generation before the current one of `name`, after a restart.
    ///
    /// # Errors
    /// When there is no such name, or the limits do not allow it.
    pub fn remember_previous(
        &self,
        name: &str,
        resident: Arc<Resident>,
        source: Option<&str>,
    ) -> Result<Changed, Refused> {
        self.change(name, None, |aliases| {
            let alias = known(aliases, name)?;
            let source = source.map(str::to_owned);
            if !Arc::ptr_eq(&alias.current.resident, &resident) {
                alias.previous = Some(Held { resident, source });
            }
            Ok(None)
        })
    }

    /// All names as they are now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.read().aliases.clone())
    }

    /// Takes back every change since `snapshot` was made.
    pub fn restore(&self, snapshot: Snapshot) {
        self.write().take(snapshot.0);
    }

    /// Keeps `name` from eviction, or no longer.
    ///
    /// # Errors
    /// When there is no such name.
    pub fn pin(&self, name: &str, pinned: bool) -> Result<Changed, Refused> {
        self.change(name, None, |aliases| {
            let alias = known(aliases, name)?;
            alias.pinned = pinned;
            Ok(Some(alias.current.resident.generation().to_owned()))
        })
    }

    /// Takes the name away. Requests that hold its generations keep them.
    ///
    /// # Errors
    /// When there is no such name, or it stands for another generation than expected.
    pub fn remove(&self, name: &str, expected: Option<&str>) -> Result<Changed, Refused> {
        self.change(name, expected, |aliases| {
            let gone = aliases.remove(name);
            let gone = gone.ok_or_else(|| Refused::NotFound(name.to_owned()))?;
            Ok(Some(gone.current.resident.generation().to_owned()))
        })
    }

    fn change(
        &self,
        name: &str,
        expected: Option<&str>,
        change: impl FnOnce(&mut BTreeMap<String, Alias>) -> Result<Option<String>, Refused>,
    ) -> Result<Changed, Refused> {
        let mut state = self.write();
        let mut aliases = state.aliases.clone();
        if let Some(expected) = expected {
            let found = aliases.get(name).map(|a| a.current.resident.generation());
            if found != Some(expected) {
                return Err(Refused::GenerationMismatch {
                    name: name.to_owned(),
                    expected: expected.to_owned(),
                    found: found.unwrap_or("none").to_owned(),
                });
            }
        }
        let replaced = change(&mut aliases)?;
        if let Some(alias) = aliases.get(name) {
            self.touch_new(alias);
        }
        let evicted = fit::fit(&mut aliases, name, state.limits)?;
        self.evictions.fetch_add(evicted.len() as u64, Relaxed);
        state.take(aliases);
        Ok(Changed { replaced, evicted })
    }

    /// Counts a use; its number for this name, from 0.
    fn touch(&self, alias: &Alias) -> u64 {
        let used = &alias.used;
        used.tick.store(self.clock.fetch_add(1, Relaxed), Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        used.at
            .store(now.map_or(0, |d| d.as_millis() as u64), Relaxed);
        used.hits.fetch_add(1, Relaxed)
    }

    /// What has just come is not the next to go.
    fn touch_new(&self, alias: &Alias) {
        let tick = self.clock.fetch_add(1, Relaxed);
        alias.used.tick.store(tick, Relaxed);
    }

    // The map is replaced whole: a panic cannot leave it half changed.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Takes `aliases` for the map; what no name holds any more is retired.
    fn take(&mut self, aliases: BTreeMap<String, Alias>) {
        let before = std::mem::replace(&mut self.aliases, aliases);
        self.retired.retain(|r| r.strong_count() > 0);
        for resident in before.values().flat_map(Alias::residents) {
            let listed = (self.retired.iter()).any(|r| std::ptr::eq(r.as_ptr(), &**resident));
            if !listed {
                self.retired.push(Arc::downgrade(resident));
            }
        }
        let held: Vec<*const Resident> = (self.aliases.values().flat_map(Alias::residents))
            .map(Arc::as_ptr)
            .collect();
        drop(before);
        self.retired
            .retain(|r| r.strong_count() > 0 && !held.contains(&r.as_ptr()));
    }
}

fn known<'a>(
    aliases: &'a mut BTreeMap<String, Alias>,
    name: &str,
) -> Result<&'a mut Alias, Refused> {
    let alias = aliases.get_mut(name);
    alias.ok_or_else(|| Refused::NotFound(name.to_owned()))
}

fn unknown(name: &str, aliases: &BTreeMap<String, Alias>) -> Error {
    let mut known: Vec<&str> = aliases
        .keys()
        .take(NAMES_TOLD)
        .map(String::as_str)
        .collect();
    if aliases.len() > NAMES_TOLD {
        known.push("...");
    }
    Error::UnknownAdapter {
        name: name.to_owned(),
        known: match known.is_empty() {
            true => "none is loaded".to_owned(),
            false => known.join(", "),
        },
    }
}
