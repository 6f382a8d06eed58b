//! The server over real sockets: each group of routes, who is chosen, the life of adapters, overload and the end.

#![allow(clippy::unwrap_used)] // clippy.toml lets tests unwrap; what they share stands outside a #[test] function

mod adapters;
mod answers;
mod life;
mod overflow;
mod safety;
mod selection;
mod settings;
mod sockets;
mod state;
#[cfg(feature = "object-store")]
mod stores;

use std::{path::PathBuf, sync::Arc};

use serde_json::Value;
use sorank::{
    embedded,
    engine::Engine,
    model::{LoadOptions, Model},
    server::{self, Options, Running, StartAdapter, State, batcher::Compute},
    text::Tokenizer,
};

/// A server on a free port, its runtime, and the client's side.
pub(crate) struct Server {
    pub(crate) state: Arc<State>,
    pub(crate) url: String,
    running: Option<Running>,
    runtime: tokio::runtime::Runtime,
}

/// Status, headers that were asked about, and the body.
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) text: String,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).map(|v| v.to_str().unwrap());
        value.unwrap_or("")
    }
}

/// The built-in model's engine, without adapters.
pub(crate) fn tiny() -> Engine {
    let source = embedded::base();
    let tokenizer = Tokenizer::load(&|name| source.read(name), &source.path("")).unwrap();
    let model = Model::load(source, &LoadOptions::default()).unwrap();
    Engine::new(model, tokenizer, 2048).unwrap()
}

/// Where the built-in adapters are as directories.
pub(crate) fn adapters_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/tiny/adapters")
}

/// Options that let adapters change, from `root`.
pub(crate) fn runtime(root: impl Into<PathBuf>) -> Options {
    Options {
        runtime_adapters: true,
        adapter_root: Some(root.into()),
        ..Options::default()
    }
}

/// Copies the built-in adapter `from` into `root/to`.
pub(crate) fn copy(from: &str, root: &std::path::Path, to: &str) {
    let to = root.join(to);
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(adapters_dir().join(from)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

impl Server {
    /// Over the built-in model and its three adapters.
    pub(crate) fn start(options: Options) -> Self {
        let built_in = ["sentiment", "question", "intent"];
        let adapters = built_in.map(|name| (name.to_owned(), StartAdapter::BuiltIn(name)));
        Self::with(State::new(tiny(), options), &adapters)
    }

    /// The same, its batches computed by `compute`, one at a time.
    pub(crate) fn computing(options: Options, compute: Compute) -> Self {
        let options = Options {
            batch_workers: 1,
            ..options
        };
        let state = State::with_compute(Arc::new(tiny()), options, compute);
        Self::with(
            state,
            &[("sentiment".to_owned(), StartAdapter::BuiltIn("sentiment"))],
        )
    }

    pub(crate) fn with(state: Arc<State>, adapters: &[(String, StartAdapter)]) -> Self {
        server::start(&state, adapters).expect("the adapters load");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let running = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            Running::start(listener, &state, server::router(state.clone(), true)).unwrap()
        });
        Self {
            url: format!("http://{}", running.address),
            running: Some(running),
            state,
            runtime,
        }
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Got {
        self.post_with(path, body, &[])
    }

    pub(crate) fn post_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Got {
        post(&self.url, path, &body.to_string(), headers)
    }

    pub(crate) fn get(&self, path: &str) -> Got {
        let response = agent().get(format!("{}{path}", self.url)).call().unwrap();
        got(response)
    }

    /// Ends it; whether all that was under way was done.
    pub(crate) fn stop(&mut self) -> bool {
        let running = self.running.take().expect("it is ended once");
        self.runtime.block_on(running.stop())
    }
}

pub(crate) fn post(url: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Got {
    let json = ("content-type", "application/json");
    let typed = headers.iter().any(|(name, _)| *name == json.0);
    let mut request = agent().post(format!("{url}{path}"));
    for (name, value) in headers.iter().chain((!typed).then_some(&json)) {
        request = request.header(*name, *value);
    }
    got(request.send(body).unwrap())
}

pub(crate) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into()
}

pub(crate) fn got(mut response: ureq::http::Response<ureq::Body>) -> Got {
    Got {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.body_mut().read_to_string().unwrap(),
    }
}

/// Numbers of a JSON list, as they were sent: the shortest decimals of f32 read back exactly.
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"))
}
