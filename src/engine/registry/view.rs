//! What the registry holds, for people and metrics: a moment's copy.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Alias, Registry, fit};
use crate::engine::resident::Resident;

/// A name and what it stands for.
#[derive(Debug, Clone)]
pub struct AliasView {
    /// The name.
    pub name: String,
    /// The generation that answers.
    pub current: Arc<Resident>,
    /// The one before it, and where it came from.
    pub previous: Option<(Arc<Resident>, Option<String>)>,
    /// The one on trial, the per cent of requests it gets, and where it came from.
    pub canary: Option<(Arc<Resident>, u8, Option<String>)>,
    /// Kept from eviction.
    pub pinned: bool,
    /// Requests that asked for it.
    pub hits: u64,
    /// When it was last asked for, in milliseconds since 1970; 0: never.
    pub last_used: u64,
    /// Where it came from.
    pub source: Option<String>,
}

/// A generation and who holds it.
#[derive(Debug, Clone)]
pub struct GenerationView {
    /// Its hash.
    pub generation: String,
    /// Names that stand for it.
    pub aliases: Vec<String>,
    /// Its largest rank.
    pub rank: usize,
    /// Heap bytes.
    pub bytes: u64,
    /// No name stands for it, remembers it or tries it: it goes when its last lease ends.
    pub retired: bool,
    /// Holders beside the registry: requests under way.
    pub active_leases: usize,
}

impl Alias {
    pub(super) fn view(&self, name: &str) -> AliasView {
        let previous = self.previous.as_ref();
        let canary = self.canary.as_ref();
        AliasView {
            name: name.to_owned(),
            current: self.current.resident.clone(),
            previous: previous.map(|held| (held.resident.clone(), held.source.clone())),
            canary: canary
                .map(|(held, percent)| (held.resident.clone(), *percent, held.source.clone())),
            pinned: self.pinned,
            hits: self.used.hits.load(Relaxed),
            last_used: self.used.at.load(Relaxed),
            source: self.current.source.clone(),
        }
    }
}

impl Registry {
    /// Every name, in order; not the base.
    pub fn aliases(&self) -> Vec<AliasView> {
        let state = self.read();
        let all = state.aliases.iter();
        all.map(|(name, alias)| alias.view(name)).collect()
    }

    /// Every name with its current generation, in name order; not the base.
    pub fn list(&self) -> Vec<(String, Arc<Resident>)> {
        let state = self.read();
        let entry =
            |(name, alias): (&String, &Alias)| (name.clone(), alias.current.resident.clone());
        state.aliases.iter().map(entry).collect()
    }

    /// What `name` stands for, without counting as a use and whatever its canary.
    pub fn current(&self, name: &str) -> Option<Arc<Resident>> {
        let state = self.read();
        let alias = state.aliases.get(name);
        alias.map(|alias| alias.current.resident.clone())
    }

    /// Whether `name` stands for something.
    pub fn contains(&self, name: &str) -> bool {
        self.read().aliases.contains_key(name)
    }

    /// Every generation in memory, retired ones last.
    pub fn generations(&self) -> Vec<GenerationView> {
        let state = self.read();
        let mut all: Vec<(GenerationView, *const Resident, usize)> = Vec::new();
        for (name, alias) in &state.aliases {
            for resident in alias.residents() {
                let at = Arc::as_ptr(resident);
                let known = all.iter().position(|(_, p, _)| *p == at);
                let known = known.unwrap_or_else(|| {
                    all.push((view(resident, false), at, 0));
                    all.len() - 1
                });
                all[known].2 += 1;
                let current = Arc::ptr_eq(resident, &alias.current.resident);
                if current && all[known].0.aliases.last() != Some(name) {
                    all[known].0.aliases.push(name.clone());
                }
            }
        }
        let mut out: Vec<GenerationView> = all
            .into_iter()
            .map(|(mut view, _, held)| {
                view.active_leases = view.active_leases.saturating_sub(held);
                view
            })
            .collect();
        // Upgrading holds one lease of its own.
        for resident in state.retired.iter().filter_map(std::sync::Weak::upgrade) {
            let mut view = view(&resident, true);
            view.active_leases = view.active_leases.saturating_sub(1);
            out.push(view);
        }
        out
    }

    /// Bytes of the generations that names hold, each once.
    pub fn resident_bytes(&self) -> u64 {
        fit::bytes(&self.read().aliases)
    }

    /// Names evicted so far.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }
}

fn view(resident: &Arc<Resident>, retired: bool) -> GenerationView {
    GenerationView {
        generation: resident.generation().to_owned(),
        aliases: Vec::new(),
        rank: resident.max_rank(),
        bytes: resident.bytes(),
        retired,
        active_leases: Arc::strong_count(resident),
    }
}
