//! What an operator decides about a server.

use std::{path::PathBuf, time::Duration};

use crate::engine::registry::Limits;

/// The prompt of requests that name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultPrompt {
    /// The model's one of this name.
    Named(String),
    /// These words.
    Text(String),
}

/// Settings of a server; the defaults are those of `sorank serve`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of the base that a request's `model` may have; the first is what answers call it.
    pub model_names: Vec<String>,
    /// Whether any other `model` that no adapter has is the base too.
    pub accept_any_model: bool,
    /// Rows that may wait.
    pub queue: usize,
    /// Requests under way, tokenising and waiting included.
    pub max_concurrent_requests: usize,
    /// Inputs of one request.
    pub max_client_batch_size: usize,
    /// Rows of one batch.
    pub max_batch_rows: usize,
    /// Tokens of one batch.
    pub max_batch_tokens: usize,
    /// Batches that run at once, each on its own share of the threads; at most as many as threads.
    pub batch_workers: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Cut texts that are too long where a request does not say.
    pub auto_truncate: bool,
    /// What stands before a text to be embedded where a request names no prompt; none: what the model says.
    pub default_prompt: Option<DefaultPrompt>,
    /// A request's longest life; it may ask for less by `x-request-timeout-ms`.
    pub request_timeout: Duration,
    /// How long a client may take for its headers, and for its body.
    pub read_timeout: Duration,
    /// How long requests under way may take once the server is told to end.
    pub drain_timeout: Duration,
    /// Origins whose pages may ask; `*` is any. None: pages of no other origin.
    pub cors_allow_origin: Vec<String>,
    /// Keys, one of which every request but health must bear; none: no key is asked for.
    pub api_keys: Vec<String>,
    /// The token of the routes that change adapters; none: an API key, where there is one.
    pub admin_token: Option<String>,
    /// Whether adapters may be changed while it serves.
    pub runtime_adapters: bool,
    /// The directory that loads may name places in.
    pub adapter_root: Option<PathBuf>,
    /// A directory, or a URL prefix in an object store, below which adapters are found by name when first asked for.
    pub adapter_dir: Option<PathBuf>,
    /// Object stores that loads may name places in: URL prefixes.
    pub adapter_stores: Vec<String>,
    /// Where names, pins and canaries are kept over restarts.
    pub state_file: Option<PathBuf>,
    /// How much may be loaded.
    pub limits: Limits,
    /// The largest weight file of an adapter.
    pub max_adapter_file_bytes: u64,
    /// Whether the base's files are mapped, and so watched.
    pub base_is_mapped: bool,
    /// Adapters that metrics name; the rest are `other`.
    pub metric_adapters: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            model_names: vec!["sorank".to_owned()],
            accept_any_model: false,
            queue: 4096,
            max_concurrent_requests: 512,
            max_client_batch_size: 128,
            max_batch_rows: usize::MAX,
            max_batch_tokens: crate::engine::DEFAULT_BATCH_TOKENS,
            batch_workers: 2,
            max_body_bytes: 2 << 20,
            auto_truncate: false,
            default_prompt: None,
            request_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            cors_allow_origin: Vec::new(),
            api_keys: Vec::new(),
            admin_token: None,
            runtime_adapters: false,
            adapter_root: None,
            adapter_dir: None,
            adapter_stores: Vec::new(),
            state_file: None,
            limits: Limits::default(),
            max_adapter_file_bytes: 1 << 30,
            base_is_mapped: true,
            metric_adapters: 100,
        }
    }
}
