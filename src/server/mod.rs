//! `sorank serve`: HTTP over an engine. One file a family of routes, wire types beside their handlers.
//!
//! A handler reads a body (`body`), chooses who answers (`select`), has it answered (`submit`, [`batcher`]) and lays
//! the answer out; reasons and status codes are in [`failure`]. Changing adapters is in `adapters` over `loads`,
//! `source` and `persist`. The model, its arithmetic and the scheduling rule are below, in `engine/`.

mod adapters;
mod auth;
mod base;
pub mod batcher;
mod body;
mod cards;
mod console;
pub mod cors;
mod docs;
mod embedding;
pub mod failure;
mod health;
mod kserve;
mod linger;
mod loads;
mod metrics;
mod observe;
mod openai;
pub mod options;
mod persist;
mod rerank;
pub mod run;
mod select;
mod source;
pub mod state;
mod store;
mod submit;
mod tei;
mod token_classify;
#[cfg(feature = "otlp")]
mod traces;
mod vllm;

use std::path::PathBuf;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
};
use tower_http::catch_panic::CatchPanicLayer;

#[cfg(feature = "otlp")]
pub use self::traces::{Traces, traces};
use self::{
    failure::{Failure, Family, envelope},
    loads::{Load, load_now},
    state::App,
};
pub use self::{
    options::{DefaultPrompt, Options},
    run::Running,
    state::State,
};
use crate::Result;

/// All routes of `app`. With an admin port of their own, `changing` is false here.
pub fn router(app: App, changing: bool) -> Router {
    let admin = match changing {
        true => admin_routes(),
        false => Router::new(),
    };
    let tei = of(Family::Tei, tei::router().merge(health::router()))
        .merge(of(Family::Tei, token_classify::router()));
    let openai = openai::router()
        .merge(rerank::router())
        .merge(vllm::router())
        .merge(adapters::listing());
    let routes = tei
        .merge(of(Family::OpenAi, openai))
        .merge(of(Family::Oip, kserve::router()))
        .merge(docs::router())
        .merge(console::router())
        .merge(admin)
        .fallback(observe::no_route);
    around(app, routes)
}

/// The routes that change adapters, for a port of their own; with health and the list.
pub fn admin_router(app: App) -> Router {
    let routes = admin_routes()
        .merge(of(Family::Tei, health::router()))
        .merge(of(Family::OpenAi, adapters::listing()))
        .fallback(observe::no_route);
    around(app, routes)
}

fn admin_routes() -> Router<App> {
    of(Family::OpenAi, adapters::changing()).merge(of(Family::Oip, kserve::changing()))
}

/// `routes` with the envelope of their family around failures.
fn of(family: Family, routes: Router<App>) -> Router<App> {
    let lay = move |request: Request, next: Next| async move {
        envelope(family, next.run(request).await)
    };
    routes
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(middleware::from_fn(lay))
}

/// What is around all routes.
fn around(app: App, routes: Router<App>) -> Router {
    let limit = DefaultBodyLimit::max(app.options.max_body_bytes);
    let patience = linger::Patience::of(&app.options);
    let routes = routes
        .layer(limit)
        .layer(middleware::from_fn_with_state(app.clone(), auth::keys))
        .layer(middleware::from_fn_with_state(
            app.clone(),
            observe::observe,
        ));
    // Outside of the keys: a browser's question before the request bears none.
    cors::around(&app.options.cors_allow_origin, routes)
        .layer(middleware::map_request(
            move |request: Request| async move { patience.with(request) },
        ))
        .with_state(app)
}

/// An adapter that is there from the start.
#[derive(Debug, Clone)]
pub enum StartAdapter {
    /// Of the built-in model, by its name.
    BuiltIn(&'static str),
    /// In a directory that the operator named.
    Dir(PathBuf),
}

/// Loads `adapters` and then what the state file says.
///
/// # Errors
/// When one of `adapters` cannot be loaded, the model has no prompt of the default one's name, or the state file cannot be read.
pub fn start(app: &App, adapters: &[(String, StartAdapter)]) -> Result<(), Failure> {
    for (name, from) in adapters {
        loads::check_name(app, name)?;
        let place = match from {
            StartAdapter::BuiltIn(name) => format!("built-in:{name}"),
            StartAdapter::Dir(dir) => format!("path:{}", dir.display()),
        };
        let how = Load {
            keep: loads::Keep::No,
            ..Load::default()
        };
        load_now(app, name, &place, &how).map_err(|failure| Failure {
            message: format!("adapter {name:?}: {}", failure.message),
            ..failure
        })?;
    }
    let prompt = app.prompt(None);
    prompt.map_err(|failure| Failure {
        message: format!("the default prompt: {}", failure.message),
        ..failure
    })?;
    persist::restore(app).map_err(|e| Failure::new(failure::Kind::InvalidAdapter, e.to_string()))
}
