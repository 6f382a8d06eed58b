//! `sorank serve`: the server's flags, its start and its end.
//!
//! Each flag is also an environment variable (`--max-batch-tokens`: `SORANK_MAX_BATCH_TOKENS`, by [`with_variables`]) and a
//! key of a TOML file (`max-batch-tokens`). A flag counts before a variable, a variable before the file.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, signal};
use tracing_subscriber::EnvFilter;

use super::{Failure, output::Output, place::Place, rows::go_on, setup::ModelArgs};
use crate::{
    embedded,
    engine::registry::Limits,
    server::{self, DefaultPrompt, Options, Running, StartAdapter, State},
};

/// Serves a base and its adapters over HTTP until it is told to end (SIGTERM, Ctrl-C); then it finishes what is under
/// way. Without --model the built-in model serves its three adapters.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Listening")]
struct Listen {
    /// A TOML file with these flags as keys
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, visible_alias = "hostname", default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one, which is printed
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// A port of its own, on the same address, for the routes that change adapters
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
    /// A name of the base in a request's `model`; repeatable. By default the model's directory name
    #[arg(long = "served-model-name", value_name = "NAME", value_delimiter = ',')]
    served_model_names: Vec<String>,
    /// Answer any unknown `model` by the base (clients that always send the name of another model)
    #[arg(long)]
    accept_any_model: bool,
    /// An origin whose pages may ask (`https://app.example`, `*`); repeatable
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    cors_allow_origin: Vec<String>,
    /// Log lines as JSON
    #[arg(long)]
    json_output: bool,
    /// Send traces to this OpenTelemetry collector (HTTP, `http://host:4318/v1/traces`)
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Rows that may wait; above, requests get 429
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_queue: usize,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_concurrent_requests: usize,
    /// Rows (texts times adapters) of one request
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_client_batch_size: usize,
    /// Rows of one batch; by default as many as its tokens allow
    #[arg(long, value_name = "N")]
    max_batch_requests: Option<usize>,
    /// Batches that run at once, each on its own share of the threads; at most as many as threads
    #[arg(long, value_name = "N", default_value_t = 2)]
    batch_workers: usize,
    /// Bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 20)]
    payload_limit: usize,
    /// Cut texts that are too long where a request does not say
    #[arg(long)]
    auto_truncate: bool,
    /// The model's prompt of this name before texts to embed, where a request names none
    #[arg(long, value_name = "NAME", conflicts_with = "default_prompt")]
    default_prompt_name: Option<String>,
    /// These words before texts to embed, where a request names no prompt
    #[arg(long, value_name = "TEXT")]
    default_prompt: Option<String>,
    /// Seconds that a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    request_timeout: f64,
    /// Seconds that a client may take to send its headers, and its body
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    read_timeout: f64,
    /// Seconds that requests under way may take once the server is told to end
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = seconds)]
    drain_timeout: f64,
    /// Seconds between not being ready and no longer accepting, for balancers to notice
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds)]
    drain_delay: f64,
    /// Adapters that metrics name; the rest are counted as `other`
    #[arg(long, value_name = "N", default_value_t = 100)]
    metric_adapters: usize,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Adapters")]
struct AdapterArgs {
    /// Let clients load, replace and unload adapters
    #[arg(long)]
    allow_runtime_adapters: bool,
    /// The directory that loads may name places in
    #[arg(long, value_name = "DIR")]
    adapter_root: Option<PathBuf>,
    /// A directory (or a URL prefix in an object store) whose subdirectories are adapters that load when first asked for
    #[arg(long, visible_alias = "lora-dir", value_name = "DIR")]
    adapter_dir: Option<PathBuf>,
    /// A URL prefix in an object store that loads may name places below; repeatable
    #[arg(long = "adapter-store", value_name = "URL", value_delimiter = ',')]
    adapter_stores: Vec<String>,
    /// Keep names, pins and canaries in this file over restarts
    #[arg(long, value_name = "FILE")]
    state_file: Option<PathBuf>,
    /// The most adapters; above, the longest unused go
    #[arg(long, visible_alias = "max-loras", value_name = "N")]
    max_adapters: Option<usize>,
    /// The most bytes of all adapters; above, the longest unused go
    #[arg(long, value_name = "BYTES")]
    max_adapter_bytes: Option<u64>,
    /// The largest rank of an adapter
    #[arg(long, visible_alias = "max-lora-rank", value_name = "R")]
    max_adapter_rank: Option<usize>,
    /// The largest weight file of an adapter
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    max_adapter_file_bytes: u64,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Access")]
struct Access {
    /// A key that requests must bear (Authorization: Bearer); repeatable
    #[arg(
        long = "api-key",
        value_name = "KEY",
        hide_env_values = true,
        value_delimiter = ','
    )]
    api_keys: Vec<String>,
    /// The token of the routes that change adapters
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
}

/// Gives every flag of `sorank serve` that has no environment variable yet the one of its name.
pub(super) fn with_variables(command: clap::Command) -> clap::Command {
    let named = |arg: clap::Arg| {
        let variable = match (arg.get_long(), arg.get_env()) {
            (Some(long), None) => format!("SORANK_{}", long.to_uppercase().replace('-', "_")),
            _ => return arg,
        };
        arg.env(&*variable.leak()) // clap borrows names for the life of the process
    };
    command.mut_subcommand("serve", |serve| serve.mut_args(named))
}

fn seconds(arg: &str) -> Result<f64, String> {
    let seconds: f64 = arg
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    match (0.0..=1e6).contains(&seconds) {
        true => Ok(seconds),
        false => Err("expected 0 to 1000000 seconds".to_owned()),
    }
}

impl AdapterArgs {
    /// # Errors
    /// Of a place that adapters are to come from and cannot.
    fn places(&self) -> Result<(), Failure> {
        let url = |place: &str| {
            place
                .split_once("://")
                .is_some_and(|(_, rest)| !rest.is_empty())
        };
        let dir = self
            .adapter_dir
            .iter()
            .filter(|dir| !url(&dir.to_string_lossy()));
        let root = self
            .adapter_root
            .iter()
            .map(|root| ("--adapter-root", root));
        for (flag, dir) in root.chain(dir.map(|dir| ("--adapter-dir", dir))) {
            if !dir.is_dir() {
                let why = format!("{flag} {}: there is no such directory", dir.display());
                return Err(Failure::Failed(why));
            }
        }
        match self.adapter_stores.iter().find(|store| !url(store)) {
            Some(other) => Err(Failure::Usage(format!(
                "--adapter-store {other:?}: expected a URL such as s3://bucket/prefix"
            ))),
            None => Ok(()),
        }
    }
}

impl Args {
    fn options(&self) -> Result<Options, Failure> {
        let (limits, adapters) = (&self.limits, &self.adapters);
        let blank = |key: &String| key.trim().is_empty();
        if (self.access.api_keys.iter().chain(&self.access.admin_token)).any(blank) {
            let why = "an API key or admin token is empty; leave it out to have none";
            return Err(Failure::Usage(why.to_owned()));
        }
        let origins = &self.listen.cors_allow_origin;
        if let Some(other) = origins.iter().find(|o| !server::cors::is_origin(o)) {
            let why = format!("--cors-allow-origin {other:?}: expected * or https://host[:port]");
            return Err(Failure::Usage(why));
        }
        self.adapters.places()?;
        let named = limits.default_prompt_name.clone().map(DefaultPrompt::Named);
        let words = limits.default_prompt.clone().map(DefaultPrompt::Text);
        Ok(Options {
            default_prompt: named.or(words),
            cors_allow_origin: origins.clone(),
            model_names: self.model_names(),
            accept_any_model: self.listen.accept_any_model,
            queue: limits.max_queue,
            max_concurrent_requests: limits.max_concurrent_requests,
            max_client_batch_size: limits.max_client_batch_size,
            max_batch_rows: limits.max_batch_requests.unwrap_or(usize::MAX),
            max_batch_tokens: self.model.max_batch_tokens,
            batch_workers: limits.batch_workers,
            max_body_bytes: limits.payload_limit,
            auto_truncate: limits.auto_truncate,
            request_timeout: Duration::from_secs_f64(limits.request_timeout),
            read_timeout: Duration::from_secs_f64(limits.read_timeout),
            drain_timeout: Duration::from_secs_f64(limits.drain_timeout),
            api_keys: self.access.api_keys.clone(),
            admin_token: self.access.admin_token.clone(),
            runtime_adapters: adapters.allow_runtime_adapters,
            adapter_root: adapters.adapter_root.clone(),
            adapter_dir: adapters.adapter_dir.clone(),
            adapter_stores: adapters.adapter_stores.clone(),
            state_file: adapters.state_file.clone(),
            limits: Limits {
                adapters: adapters.max_adapters.unwrap_or(usize::MAX),
                bytes: adapters.max_adapter_bytes.unwrap_or(u64::MAX),
                rank: adapters.max_adapter_rank.unwrap_or(usize::MAX),
            },
            max_adapter_file_bytes: adapters.max_adapter_file_bytes,
            base_is_mapped: !self.model.no_mmap,
            metric_adapters: limits.metric_adapters,
        })
    }

    fn model_names(&self) -> Vec<String> {
        if !self.listen.served_model_names.is_empty() {
            return self.listen.served_model_names.clone();
        }
        let place = self.model.model.as_ref();
        vec![place.map_or_else(|| "sorank-tiny".to_owned(), Place::name)]
    }

    /// Adapters from the start: the built-in ones of the built-in model, and those given, repositories pulled.
    fn start_adapters(&self) -> Result<Vec<(String, StartAdapter)>, Failure> {
        let built_in = match self.model.model {
            None => embedded::adapters(),
            Some(_) => Vec::new(),
        };
        let built_in = built_in.into_iter();
        let built_in = built_in.map(|(name, _)| (name.to_owned(), StartAdapter::BuiltIn(name)));
        let mut all: Vec<_> = built_in.collect();
        for (name, place) in &self.model.adapters {
            let dir = place.adapter(self.model.quiet)?.to_owned();
            all.push((name.clone(), StartAdapter::Dir(dir)));
        }
        Ok(all)
    }
}

pub(super) fn run(args: &Args, level: EnvFilter) -> Result<(), Failure> {
    let start = Instant::now();
    let options = args.options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from))
        .max_blocking_threads(64)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|e| Failure::Failed(format!("starting threads: {e}")))?;
    let _traces = log(args, level)?;
    let adapters = args.start_adapters()?;
    let engine = args.model.bare_engine()?;
    let app = State::new(engine, options);
    let done = runtime.block_on(serve(args, &app, adapters, start));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn serve(
    args: &Args,
    app: &Arc<State>,
    adapters: Vec<(String, StartAdapter)>,
    start: Instant,
) -> Result<(), Failure> {
    let loading = app.clone();
    let loaded = tokio::task::spawn_blocking(move || server::start(&loading, &adapters));
    loaded
        .await
        .map_err(|e| Failure::Failed(e.to_string()))?
        .map_err(|failure| Failure::Failed(failure.message))?;
    let own_port = args.listen.admin_port;
    let main = listen(args, args.listen.port).await?;
    let main = running(main, app, server::router(app.clone(), own_port.is_none()))?;
    let admin = match own_port {
        Some(port) => {
            let listener = listen(args, port).await?;
            Some(running(listener, app, server::admin_router(app.clone()))?)
        }
        None => None,
    };
    say(args, app, start, &main, admin.as_ref())?;
    told_to_end().await?;
    tracing::info!("ending: finishing what is under way");
    app.drain();
    tokio::time::sleep(Duration::from_secs_f64(args.limits.drain_delay)).await;
    let all = main.stop().await;
    if let Some(admin) = admin {
        admin.stop().await;
    }
    if !all {
        tracing::warn!("some requests were not done within the drain timeout");
    }
    Ok(())
}

async fn listen(args: &Args, port: u16) -> Result<TcpListener, Failure> {
    let host = &args.listen.host;
    TcpListener::bind((host.as_str(), port))
        .await
        .map_err(|e| Failure::Failed(format!("listening on {host}:{port}: {e}")))
}

fn running(
    listener: TcpListener,
    app: &Arc<State>,
    routes: axum::Router,
) -> Result<Running, Failure> {
    Running::start(listener, app, routes).map_err(|e| Failure::Failed(format!("listening: {e}")))
}

/// Prints what is served and where.
fn say(
    args: &Args,
    app: &Arc<State>,
    start: Instant,
    main: &Running,
    admin: Option<&Running>,
) -> Result<(), Failure> {
    let mut out = Output::stdout();
    let names = args.model_names().join(", ");
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let adapters: Vec<String> = (app.engine().registry().list().into_iter())
        .map(|(name, _)| name)
        .collect();
    let adapters = match adapters.as_slice() {
        [] => "no adapter".to_owned(),
        names => names.join(", "),
    };
    let address = main.address;
    let mut text = format!(
        "sorank serves {names} with {adapters}\nlistening on http://{address} (docs: /docs)\n"
    );
    if let Some(admin) = admin {
        text += &format!("admin on http://{}\n", admin.address);
    }
    text += &format!("ready after {ms:.0} ms\n");
    go_on(out.text(&text)?)?;
    go_on(out.flush()?)
}

async fn told_to_end() -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::Failed(format!("waiting for signals: {e}"));
    #[cfg(unix)]
    {
        let mut term =
            signal::unix::signal(signal::unix::SignalKind::terminate()).map_err(failed)?;
        tokio::select! {
            _ = term.recv() => Ok(()),
            ended = signal::ctrl_c() => ended.map_err(failed),
        }
    }
    #[cfg(not(unix))]
    signal::ctrl_c().await.map_err(failed)
}

/// Sets up the log; what is returned sends the last traces when it is dropped.
fn log(args: &Args, level: EnvFilter) -> Result<impl Sized, Failure> {
    use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(super::colours())
        .with_target(false);
    let lines = match args.listen.json_output {
        true => lines.json().boxed(),
        false => lines.boxed(),
    };
    #[cfg(feature = "otlp")]
    let (traces, layer) = match &args.listen.otlp_endpoint {
        Some(endpoint) => {
            let (provider, layer) = server::traces(endpoint).map_err(Failure::Failed)?;
            // Whoever wants few lines in the log wants traces all the same.
            let layer = layer.with_filter(tracing_subscriber::filter::LevelFilter::INFO);
            (Some(provider), Some(layer))
        }
        None => (None, None),
    };
    #[cfg(not(feature = "otlp"))]
    let (traces, layer) = ((), None::<tracing_subscriber::layer::Identity>);
    tracing_subscriber::registry()
        .with(lines.with_filter(level))
        .with(layer)
        .init();
    Ok(traces)
}
