//! Which adapter a request means. Every way of saying it that other servers know is taken; two that say different
//! things are an error, and so is a name that nobody has: a request is never answered by the base because of a typo.

use std::sync::Arc;

use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    failure::{Failure, Kind},
    loads,
    state::App,
};
use crate::engine::Resident;

/// What stands for the bare base in a list of adapters.
const BASE: &str = "__base__";
/// The header by which a gateway selects.
const HEADER: &str = "x-adapter";

/// The fields that select, on every route of inference.
#[derive(Debug, Default, Clone, Deserialize, ToSchema)]
pub(super) struct Which {
    /// The base's name, an adapter's, or `base::adapter`.
    #[serde(default)]
    pub(super) model: Option<String>,
    /// An adapter's name, or `{"generation": "<hash>"}`.
    #[serde(default)]
    adapter: Option<Named>,
    /// One name an input, `__base__` for none; of a single input, one answer each.
    #[serde(default)]
    adapters: Option<Vec<Named>>,
    #[serde(default)]
    parameters: Option<Parameters>,
    /// As `adapter` or `adapters`: names, never paths.
    #[serde(default)]
    lora_path: Option<OneOrMany>,
}

impl Which {
    /// What `parameters` say and nothing else.
    pub(super) fn with(parameters: Parameters) -> Self {
        Self {
            parameters: Some(parameters),
            ..Self::default()
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected the name of an adapter or {\"generation\": \"<hash>\"}"
)]
pub(super) enum Named {
    Name(String),
    Generation { generation: String },
}

#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a name or a list of names")]
enum OneOrMany {
    One(String),
    Many(Vec<Option<String>>),
}

/// Fields that LoRAX, TGI and KServe clients send.
#[derive(Debug, Default, Clone, Deserialize, ToSchema)]
pub(super) struct Parameters {
    #[serde(default)]
    pub(super) adapter_id: Option<String>,
    #[serde(default)]
    pub(super) adapter: Option<Named>,
}

/// Who answers a row.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// The adapter's name as asked for; `None` is the base.
    pub(super) name: Option<String>,
    pub(super) resident: Arc<Resident>,
}

/// Who answers.
#[derive(Debug, Clone)]
pub(super) enum Choice {
    /// One for all.
    One(Chosen),
    /// One a text, or all for the one text.
    Each(Vec<Chosen>),
}

impl Choice {
    /// Rows of so many texts: which text, for whom.
    pub(super) fn rows(&self, texts: usize) -> Result<Vec<(usize, Chosen)>, Failure> {
        match self {
            Choice::One(chosen) => Ok((0..texts).map(|t| (t, chosen.clone())).collect()),
            Choice::Each(all) if texts == 1 => Ok(all.iter().map(|c| (0, c.clone())).collect()),
            Choice::Each(all) if all.len() == texts => {
                Ok(all.iter().cloned().enumerate().collect())
            }
            Choice::Each(all) => {
                let n = all.len();
                let why = format!("{n} adapters for {texts} inputs; expected one an input");
                Err(Failure::invalid("adapters", why))
            }
        }
    }

    /// Whether it names a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Choice::Each(_))
    }

    /// The one for all.
    ///
    /// # Errors
    /// 400 where a list was given.
    pub(super) fn one(self) -> Result<Chosen, Failure> {
        match self {
            Choice::One(chosen) => Ok(chosen),
            Choice::Each(_) => Err(Failure::invalid(
                "adapters",
                "this route takes one adapter for all its texts",
            )),
        }
    }
}

/// Whom `which`, the headers and the model of the path select.
pub(super) async fn choose(
    app: &App,
    which: &Which,
    headers: &HeaderMap,
    path_model: Option<&str>,
) -> Result<Choice, Failure> {
    let single = single(app, which, headers, path_model).await?;
    let list = match (&which.adapters, &which.lora_path) {
        (Some(_), Some(OneOrMany::Many(_))) => {
            return Err(conflict("adapters", "lora_path"));
        }
        (Some(list), _) => Some(list.clone()),
        (None, Some(OneOrMany::Many(list))) => {
            let named = |n: &Option<String>| Named::Name(n.clone().unwrap_or(BASE.to_owned()));
            Some(list.iter().map(named).collect())
        }
        _ => None,
    };
    let Some(list) = list else {
        let named = single.map(|(_, named)| named);
        return chosen(app, named.as_ref()).await.map(Choice::One);
    };
    if let Some((field, _)) = single.filter(|(_, named)| !is_base(named)) {
        return Err(conflict(field, "adapters"));
    }
    if list.is_empty() {
        return Err(Failure::invalid("adapters", "the list is empty"));
    }
    let mut each: Vec<Chosen> = Vec::with_capacity(list.len());
    for (i, named) in list.iter().enumerate() {
        // One name is one generation throughout a request, whatever a canary's share is.
        match list[..i].iter().position(|n| n == named) {
            Some(same) => each.push(each[same].clone()),
            None => each.push(chosen(app, Some(named)).await?),
        }
    }
    Ok(Choice::Each(each))
}

/// What the fields that name one adapter agree on, with one of those fields.
async fn single(
    app: &App,
    which: &Which,
    headers: &HeaderMap,
    path_model: Option<&str>,
) -> Result<Option<(&'static str, Named)>, Failure> {
    let mut said: Vec<(&'static str, Named)> = Vec::new();
    let name = |n: &String| Named::Name(n.clone());
    for (field, model) in [("model", which.model.as_deref()), ("path", path_model)] {
        if let Some(model) = model {
            said.extend(of_model(app, model, field).await?.map(|n| (field, n)));
        }
    }
    said.extend(which.adapter.clone().map(|n| ("adapter", n)));
    let parameters = which.parameters.iter();
    for p in parameters {
        said.extend(
            p.adapter_id
                .as_ref()
                .map(|n| ("parameters.adapter_id", name(n))),
        );
        said.extend(p.adapter.clone().map(|n| ("parameters.adapter", n)));
    }
    if let Some(OneOrMany::One(one)) = &which.lora_path {
        said.push(("lora_path", name(one)));
    }
    if let Some(value) = headers.get(HEADER) {
        let value = value.to_str().map_err(|_| {
            Failure::new(Kind::Validation, "the header x-adapter is not ASCII text")
        })?;
        said.push((HEADER, Named::Name(value.to_owned())));
    }
    let mut said = said.into_iter();
    let Some(first) = said.next() else {
        return Ok(None);
    };
    match said.find(|(_, named)| *named != first.1) {
        Some((other, _)) => Err(conflict(first.0, other)),
        None => Ok(Some(first)),
    }
}

/// What a `model` says about adapters: nothing, where it is the base's own name. Base names come before adapters'.
async fn of_model(app: &App, model: &str, field: &'static str) -> Result<Option<Named>, Failure> {
    let bases = &app.options.model_names;
    if bases.iter().any(|base| base == model) {
        return Ok(None);
    }
    for base in bases {
        let rest = model.strip_prefix(base.as_str());
        let alias = rest.and_then(|r| r.strip_prefix("::").or_else(|| r.strip_prefix(':')));
        if let Some(alias) = alias {
            return Ok(Some(Named::Name(alias.to_owned())));
        }
    }
    let any = app.options.accept_any_model && field == "model";
    if any && model != BASE && loads::resolve(app, model).await?.is_none() {
        return Ok(None);
    }
    Ok(Some(Named::Name(model.to_owned())))
}

fn is_base(named: &Named) -> bool {
    matches!(named, Named::Name(name) if name == BASE)
}

async fn chosen(app: &App, named: Option<&Named>) -> Result<Chosen, Failure> {
    let base = || Chosen {
        name: None,
        resident: app.engine.registry().base().clone(),
    };
    match named {
        None => Ok(base()),
        Some(named) if is_base(named) => Ok(base()),
        Some(Named::Name(name)) => match loads::resolve(app, name).await? {
            Some(resident) => Ok(Chosen {
                name: Some(name.clone()),
                resident,
            }),
            None => {
                let known = app.engine.registry().get(Some(name));
                Err(known.map_or_else(Failure::from, |_| {
                    Failure::new(Kind::UnknownModel, format!("no adapter is named {name:?}"))
                }))
            }
        },
        Some(Named::Generation { generation }) => {
            let found = app.engine.registry().generation(generation);
            let resident = found.ok_or_else(|| {
                let why = format!("no adapter is at generation {generation:?}");
                Failure::new(Kind::UnknownModel, why)
            })?;
            Ok(Chosen {
                name: Some(resident.name.clone().unwrap_or_default()),
                resident,
            })
        }
    }
}

fn conflict(first: &str, second: &str) -> Failure {
    let why = format!("{first} and {second} name different adapters");
    Failure::new(Kind::Conflict, why)
}
