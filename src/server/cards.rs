//! How the base and its adapters are described to clients. No path of the file system is told.

use serde::Serialize;
use utoipa::ToSchema;

use super::{openai::now, state::State};
use crate::{engine::Resident, model::Level};

/// A model, as OpenAI clients list them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Card {
    pub(super) id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    /// The base, for an adapter.
    parent: Option<String>,
    max_model_len: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_generation: Option<String>,
    task: &'static str,
    num_labels: usize,
}

/// What a task is for.
pub(super) fn task_of(resident: &Resident) -> &'static str {
    match &resident.classifier {
        None => "embedding",
        Some(c) if c.level == Level::Token => "token-classification",
        Some(c) if c.labels.len() == 1 => "rerank",
        Some(_) => "text-classification",
    }
}

/// The base under each of its names, then the adapters.
pub(super) fn all(state: &State) -> Vec<Card> {
    let registry = state.engine.registry();
    let card = |id: &str, resident: &Resident, parent: Option<String>| Card {
        id: id.to_owned(),
        object: "model",
        created: now(),
        owned_by: "sorank",
        root: id.to_owned(),
        adapter_generation: (parent.is_some()).then(|| resident.generation().to_owned()),
        parent,
        max_model_len: state.engine.model().max_tokens(),
        task: task_of(resident),
        num_labels: resident.classifier.as_ref().map_or(0, |c| c.labels.len()),
    };
    let base = registry.base();
    let names = state.options.model_names.iter();
    let mut cards: Vec<Card> = names.map(|name| card(name, base, None)).collect();
    let parent = || Some(state.model_name().to_owned());
    cards.extend((registry.list().iter()).map(|(name, r)| card(name, r, parent())));
    cards
}
