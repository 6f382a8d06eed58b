//! What must go so that the rest is within the limits: the longest unused first, pinned names never.
//!
//! First go earlier generations, which nobody is served by; then names. The name that is being changed stays.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Alias, AliasView, Limits};
use crate::engine::refused::Refused;

/// Evicts from `aliases` until it is within `limits`; the names that went, as they stood.
pub(super) fn fit(
    aliases: &mut BTreeMap<String, Alias>,
    changed: &str,
    limits: Limits,
) -> Result<Vec<AliasView>, Refused> {
    if let Some(alias) = aliases.get(changed) {
        let canary = alias.canary.as_ref().map(|(held, _)| held);
        for held in [Some(&alias.current), canary].into_iter().flatten() {
            let (rank, most) = (held.resident.max_rank(), limits.rank);
            if rank > most {
                return Err(Refused::RankTooLarge { rank, most });
            }
        }
    }
    let mut evicted = Vec::new();
    while aliases.len() > limits.adapters {
        let most = limits.adapters;
        let name = oldest(aliases, changed).ok_or(Refused::TooManyAdapters { most })?;
        evicted.extend(remove(aliases, &name));
    }
    while bytes(aliases) > limits.bytes {
        if drop_oldest_previous(aliases) {
            continue;
        }
        let Some(name) = oldest(aliases, changed) else {
            let (most, needed) = (limits.bytes, bytes(aliases));
            return Err(Refused::TooManyBytes { most, needed });
        };
        evicted.extend(remove(aliases, &name));
    }
    Ok(evicted)
}

/// Bytes of all generations held, each counted once.
pub(super) fn bytes(aliases: &BTreeMap<String, Alias>) -> u64 {
    let all = aliases.values().flat_map(Alias::residents);
    let each: HashMap<_, _> = all.map(|r| (Arc::as_ptr(r), r.bytes())).collect();
    each.values().sum()
}

fn oldest(aliases: &BTreeMap<String, Alias>, changed: &str) -> Option<String> {
    let free = aliases
        .iter()
        .filter(|(name, a)| !a.pinned && *name != changed);
    free.min_by_key(|(_, a)| a.used.tick.load(Relaxed))
        .map(|(name, _)| name.clone())
}

fn drop_oldest_previous(aliases: &mut BTreeMap<String, Alias>) -> bool {
    let with = aliases.values_mut().filter(|a| a.previous.is_some());
    match with.min_by_key(|a| a.used.tick.load(Relaxed)) {
        Some(alias) => alias.previous.take().is_some(),
        None => false,
    }
}

fn remove(aliases: &mut BTreeMap<String, Alias>, name: &str) -> Option<AliasView> {
    aliases.remove(name).map(|alias| alias.view(name))
}
