//! What is loaded: names, generations, ranks, bytes, traffic. No place in the file system is told.

use axum::{
    Json,
    extract::{Query, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    engine::{Resident, registry::AliasView},
    server::{cards::task_of, state::App},
};

/// How much to tell.
#[derive(Debug, Default, Deserialize, IntoParams)]
pub(in crate::server) struct ListQuery {
    /// Whether each adapter's rank at every site is listed.
    #[serde(default)]
    ranks: bool,
}

/// All adapters and generations.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct Listed {
    object: &'static str,
    data: Vec<Adapter>,
    generations: Vec<Generation>,
    resident_generations: usize,
    retired_generations: usize,
    resident_bytes: u64,
    /// The most there may be; `null`: any number.
    max_adapters: Option<usize>,
    max_rank: Option<usize>,
    max_bytes: Option<u64>,
    evictions: u64,
}

/// A name and what it stands for.
#[derive(Debug, Serialize, ToSchema)]
struct Adapter {
    id: String,
    object: &'static str,
    generation: String,
    previous_generation: Option<String>,
    canary: Option<Canary>,
    rank: usize,
    bytes: u64,
    task: &'static str,
    labels: Vec<String>,
    ranks: Ranks,
    target_modules: Vec<String>,
    pinned: bool,
    merged: bool,
    /// Milliseconds since 1970; `null`: never.
    last_used: Option<u64>,
    hits: u64,
    load_ms: f64,
    selftest_rows: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank_map: Option<Vec<SiteRank>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Canary {
    generation: String,
    percent: u8,
}

#[derive(Debug, Serialize, ToSchema)]
struct Ranks {
    min: usize,
    max: usize,
    mean: f64,
}

#[derive(Debug, Serialize, ToSchema)]
struct SiteRank {
    /// `null`: outside the layers.
    layer: Option<usize>,
    site: String,
    rank: usize,
}

#[derive(Debug, Serialize, ToSchema)]
struct Generation {
    generation: String,
    aliases: Vec<String>,
    rank: usize,
    bytes: u64,
    retired: bool,
    active_leases: usize,
}

/// What is loaded
#[utoipa::path(get, path = "/v1/lora_adapters", tag = "Adapters", params(ListQuery),
    responses((status = 200, body = Listed)))]
pub(in crate::server) async fn lora_adapters(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Json<Listed> {
    let with_ranks = query.ranks;
    let registry = app.engine.registry();
    let generation = |g: crate::engine::registry::GenerationView| Generation {
        generation: g.generation,
        aliases: g.aliases,
        rank: g.rank,
        bytes: g.bytes,
        retired: g.retired,
        active_leases: g.active_leases,
    };
    // Before the names are copied: a copy holds leases of its own.
    let generations: Vec<Generation> = registry.generations().into_iter().map(generation).collect();
    let retired = generations.iter().filter(|g| g.retired).count();
    let aliases = registry.aliases().into_iter();
    let limits = registry.limits();
    Json(Listed {
        object: "list",
        data: aliases
            .map(|alias| adapter(&app, alias, with_ranks))
            .collect(),
        resident_generations: generations.len() - retired,
        retired_generations: retired,
        generations,
        resident_bytes: registry.resident_bytes(),
        max_adapters: (limits.adapters != usize::MAX).then_some(limits.adapters),
        max_rank: (limits.rank != usize::MAX).then_some(limits.rank),
        max_bytes: (limits.bytes != u64::MAX).then_some(limits.bytes),
        evictions: registry.evictions(),
    })
}

fn adapter(app: &App, alias: AliasView, with_ranks: bool) -> Adapter {
    let resident = &alias.current;
    let classifier = resident.classifier.as_ref();
    let all = || resident.ranks.iter().map(|(_, rank)| *rank);
    Adapter {
        generation: resident.generation().to_owned(),
        previous_generation: alias.previous.map(|(r, _)| r.generation().to_owned()),
        canary: alias.canary.map(|(r, percent, _)| Canary {
            generation: r.generation().to_owned(),
            percent,
        }),
        id: alias.name,
        object: "lora_adapter",
        rank: resident.max_rank(),
        bytes: resident.bytes(),
        task: task_of(resident),
        labels: classifier.map(|c| c.labels.to_vec()).unwrap_or_default(),
        ranks: Ranks {
            min: all().min().unwrap_or(0),
            max: all().max().unwrap_or(0),
            mean: resident.total_rank() as f64 / resident.ranks.len().max(1) as f64,
        },
        target_modules: targets(resident),
        pinned: alias.pinned,
        merged: false,
        last_used: (alias.last_used > 0).then_some(alias.last_used),
        hits: alias.hits,
        load_ms: resident.load_time().as_secs_f64() * 1e3,
        selftest_rows: resident.selftest_rows(),
        rank_map: with_ranks.then(|| rank_map(app, resident)),
    }
}

/// Last parts of the adapted modules' paths, each once.
fn targets(resident: &Resident) -> Vec<String> {
    let adapted = resident.ranks.iter().filter(|(_, rank)| *rank > 0);
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let mut names: Vec<String> = adapted.map(|(path, _)| last(path)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn rank_map(app: &App, resident: &Resident) -> Vec<SiteRank> {
    let sites = app.engine.model().sites();
    let site = |(path, rank): &(String, usize)| {
        let layer = sites.find(path).and_then(|site| site.layer);
        // The part of the path after the layer's number names the site.
        let number = layer.map(|n| format!(".{n}."));
        let after = number.and_then(|n| path.split_once(&n).map(|(_, site)| site.to_owned()));
        SiteRank {
            layer,
            site: after.unwrap_or_else(|| path.clone()),
            rank: *rank,
        }
    };
    resident.ranks.iter().map(site).collect()
}

/// An adapter, as llama.cpp's server lists them.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::server) struct LlamaAdapter {
    id: usize,
    /// Its name: places in the file system are not told.
    path: String,
    scale: f32,
}

/// What is loaded, as llama.cpp says it
#[utoipa::path(get, path = "/lora-adapters", tag = "Adapters",
    responses((status = 200, body = Vec<LlamaAdapter>)))]
pub(in crate::server) async fn llama_adapters(State(app): State<App>) -> Json<Vec<LlamaAdapter>> {
    let all = app.engine.registry().list().into_iter().enumerate();
    let one = |(id, (path, _))| LlamaAdapter {
        id,
        path,
        scale: 1.0,
    };
    Json(all.map(one).collect())
}
