//! What is counted, under the names that TEI's dashboards and LoRA-aware routers look for.
//!
//! Counters and histograms are filled as things happen; what the registry holds is read when somebody scrapes. Adapter
//! names become labels up to a number, after that they are `other`: a client cannot make series without end.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use super::{batcher::Ran, state::State, submit::Stats};

/// Seconds: from a single short row to a timeout.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
const TOKENS: &[f64] = &[
    8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// The label of adapters beyond the cap.
const OTHER: &str = "other";
/// The label of the bare base.
const BASE: &str = "__base__";

/// All series of one server.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    success: IntCounterVec,
    failure: IntCounterVec,
    duration: HistogramVec,
    tokenization: Histogram,
    queue: Histogram,
    inference: Histogram,
    input_length: Histogram,
    embed: OfKind,
    predict: OfKind,
    rerank: OfKind,
    routes: IntCounterVec,
    route_duration: HistogramVec,
    batch_size: Histogram,
    batch_tokens: Histogram,
    batch_tasks: Histogram,
    panics: IntCounter,
    queue_size: IntGauge,
    pub(super) in_flight: IntGauge,
    adapter_requests: IntCounterVec,
    adapter_duration: HistogramVec,
    adapter_queue: HistogramVec,
    pub(super) loads: IntCounterVec,
    pub(super) load_seconds: Histogram,
    evictions: IntGauge,
    resident_bytes: IntGauge,
    residents: IntGaugeVec,
    adapter_bytes: IntGaugeVec,
    adapter_rank: IntGaugeVec,
    adapter_rank_mean: GaugeVec,
    adapter_hits: IntGaugeVec,
    loaded: IntGaugeVec,
    max_adapters: Gauge,
    lora_info: GaugeVec,
    named: Mutex<HashSet<String>>,
    most_named: usize,
}

/// What TEI counts beside all requests for one kind of inference.
#[derive(Debug)]
struct OfKind {
    count: IntCounter,
    success: IntCounter,
    duration: Histogram,
    tokenization: Histogram,
    queue: Histogram,
    inference: Histogram,
}

struct Maker(Registry);

impl Maker {
    fn keep<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("metric names are constants");
        (self.0.register(Box::new(metric.clone()))).expect("each name is registered once");
        metric
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep(Histogram::with_opts(opts))
    }

    fn kind(&self, kind: &str) -> OfKind {
        let counter = |what: &str| {
            let help = format!("Requests to {kind}: {what}");
            self.keep(IntCounter::new(format!("te_{kind}_{what}"), help))
        };
        let seconds = |what: &str| {
            let help = format!("Seconds of requests to {kind}: {what}");
            self.histogram(&format!("te_{kind}_{what}"), &help, SECONDS)
        };
        OfKind {
            count: counter("count"),
            success: counter("success"),
            duration: seconds("duration"),
            tokenization: seconds("tokenization_duration"),
            queue: seconds("queue_duration"),
            inference: seconds("inference_duration"),
        }
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.keep(HistogramVec::new(opts, labels))
    }
}

impl Metrics {
    pub(super) fn new(most_named: usize) -> Self {
        let m = Maker(Registry::new());
        let float = |name: &str, help: &str, labels: &[&str]| {
            m.keep(GaugeVec::new(Opts::new(name, help), labels))
        };
        let adapter = &["adapter"];
        let seconds = |name: &str, help: &str| m.histogram(name, help, SECONDS);
        Self {
            requests: m.counters("te_request_count", "Requests", &["method"]),
            success: m.counters("te_request_success", "Requests answered", &["method"]),
            failure: m.counters("te_request_failure", "Requests refused or failed", &["err"]),
            duration: m.histograms("te_request_duration", "Seconds of a request", &["method"]),
            tokenization: seconds("te_request_tokenization_duration", "Seconds of tokenising"),
            queue: seconds("te_request_queue_duration", "Seconds in the queue"),
            inference: seconds("te_request_inference_duration", "Seconds of its batch"),
            input_length: m.histogram("te_request_input_length", "Tokens of a request", TOKENS),
            embed: m.kind("embed"),
            predict: m.kind("predict"),
            rerank: m.kind("rerank"),
            routes: m.counters("sorank_route_answers", "Answers by route", &["route"]),
            route_duration: m.histograms(
                "sorank_route_duration_seconds",
                "Seconds by route",
                &["route"],
            ),
            batch_size: m.histogram("te_batch_next_size", "Rows of a batch", COUNTS),
            batch_tokens: m.histogram("te_batch_next_tokens", "Tokens of a batch", TOKENS),
            batch_tasks: m.histogram(
                "sorank_batch_adapters",
                "Distinct tasks of a batch, the base one of them",
                COUNTS,
            ),
            panics: m.keep(IntCounter::new(
                "sorank_batch_panics",
                "Batches that panicked",
            )),
            queue_size: m.gauge("te_queue_size", "Rows that wait"),
            in_flight: m.gauge("sorank_requests_in_flight", "Requests under way"),
            adapter_requests: m.counters(
                "sorank_adapter_requests",
                "Rows answered, by adapter",
                adapter,
            ),
            adapter_duration: m.histograms(
                "sorank_adapter_duration_seconds",
                "Seconds from queue to answer of a request, by adapter",
                adapter,
            ),
            adapter_queue: m.histograms(
                "sorank_adapter_queue_seconds",
                "Seconds in the queue, by adapter",
                adapter,
            ),
            loads: m.counters("sorank_adapter_loads", "Loads, by outcome", &["outcome"]),
            load_seconds: seconds(
                "sorank_adapter_load_seconds",
                "Seconds of loading an adapter",
            ),
            evictions: m.gauge("sorank_adapter_evictions", "Adapters evicted so far"),
            resident_bytes: m.gauge("sorank_adapters_resident_bytes", "Bytes of all adapters"),
            residents: m.gauges(
                "sorank_adapter_generations",
                "Generations in memory",
                &["state"],
            ),
            adapter_bytes: m.gauges("sorank_adapter_bytes", "Bytes of an adapter", adapter),
            adapter_rank: m.gauges("sorank_adapter_rank_max", "Its largest rank", adapter),
            adapter_rank_mean: float("sorank_adapter_rank_mean", "Its mean rank", adapter),
            adapter_hits: m.gauges("sorank_adapter_hits", "Requests for it so far", adapter),
            loaded: m.gauges(
                "vllm:lora_adapter_loaded",
                "Adapters in memory",
                &["adapter_name", "level", "pinned"],
            ),
            max_adapters: m.keep(Gauge::new(
                "vllm:max_lora_adapters",
                "Adapters that may be loaded",
            )),
            lora_info: float(
                "vllm:lora_requests_info",
                "Adapters running and waiting; the value is the time of reading",
                &["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
            ),
            registry: m.0.clone(),
            named: Mutex::default(),
            most_named,
        }
    }

    /// The label of an adapter.
    fn label<'a>(&self, name: Option<&'a str>) -> &'a str {
        let Some(name) = name else { return BASE };
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if !named.contains(name) {
            if named.len() >= self.most_named {
                return OTHER;
            }
            named.insert(name.to_owned());
        }
        name
    }

    pub(super) fn batch(&self, ran: Ran) {
        self.batch_size.observe(ran.rows as f64);
        self.batch_tokens.observe(ran.tokens as f64);
        self.batch_tasks.observe(ran.tasks as f64);
        self.queue_size.set(ran.waiting as i64);
        if ran.panicked {
            self.panics.inc();
        }
    }

    /// The kind of inference that `route` is for, by TEI's names.
    fn kind(&self, route: &str) -> Option<&OfKind> {
        match route {
            "/embed" | "/embed_all" | "/embeddings" | "/v1/embeddings" | "/similarity" => {
                Some(&self.embed)
            }
            "/predict" | "/classify" => Some(&self.predict),
            "/rerank" | "/v1/rerank" | "/v2/rerank" => Some(&self.rerank),
            _ => None,
        }
    }

    /// A request to `route` was answered.
    pub(super) fn answered(&self, route: &str, stats: Option<&Stats>, took: Duration) {
        let method = match stats {
            Some(stats) if stats.rows > 1 => "batch",
            _ => "single",
        };
        let seconds = took.as_secs_f64();
        self.requests.with_label_values(&[method]).inc();
        self.success.with_label_values(&[method]).inc();
        self.duration.with_label_values(&[method]).observe(seconds);
        self.routes.with_label_values(&[route]).inc();
        self.route_duration
            .with_label_values(&[route])
            .observe(seconds);
        let Some(stats) = stats else { return };
        if let Some(kind) = self.kind(route) {
            kind.count.inc();
            kind.success.inc();
            kind.duration.observe(seconds);
            (kind.tokenization).observe(stats.tokenization.as_secs_f64());
            kind.queue.observe(stats.queue.as_secs_f64());
            kind.inference.observe(stats.inference.as_secs_f64());
        }
        self.tokenization.observe(stats.tokenization.as_secs_f64());
        self.queue.observe(stats.queue.as_secs_f64());
        self.inference.observe(stats.inference.as_secs_f64());
        self.input_length.observe(stats.tokens as f64);
        for (name, rows) in &stats.adapters {
            let label = &[self.label(name.as_deref())];
            self.adapter_requests
                .with_label_values(label)
                .inc_by(*rows as u64);
            let queue = stats.queue.as_secs_f64();
            self.adapter_queue.with_label_values(label).observe(queue);
            self.adapter_duration
                .with_label_values(label)
                .observe(queue + stats.inference.as_secs_f64());
        }
    }

    /// A request to `route` got no answer.
    pub(super) fn failed(&self, route: &str, err: &str) {
        self.requests.with_label_values(&["single"]).inc();
        if let Some(kind) = self.kind(route) {
            kind.count.inc();
        }
        self.failure.with_label_values(&[err]).inc();
    }

    /// All series as text.
    pub(super) fn text(&self, state: &State) -> String {
        self.read(state);
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut out)
            .expect("writing to memory does not fail");
        String::from_utf8(out).expect("the exposition format is text")
    }

    /// Reads what the registry and the queue hold now.
    fn read(&self, state: &State) {
        let registry = state.engine.registry();
        let aliases = registry.aliases();
        for gauges in [
            &self.adapter_bytes,
            &self.adapter_rank,
            &self.adapter_hits,
            &self.loaded,
        ] {
            gauges.reset();
        }
        self.adapter_rank_mean.reset();
        self.lora_info.reset();
        self.queue_size.set(state.batcher.waiting() as i64);
        self.evictions.set(registry.evictions() as i64);
        self.resident_bytes.set(registry.resident_bytes() as i64);
        let generations = registry.generations();
        let retired = generations.iter().filter(|g| g.retired).count();
        let live = generations.len() - retired;
        self.residents
            .with_label_values(&["resident"])
            .set(live as i64);
        self.residents
            .with_label_values(&["retired"])
            .set(retired as i64);
        let most = registry.limits().adapters;
        let waiting_tasks = state.batcher.waiting_tasks();
        let (mut running, mut waiting) = (Vec::new(), Vec::new());
        for alias in &aliases {
            let label = self.label(Some(&alias.name));
            let resident = &alias.current;
            self.adapter_bytes
                .with_label_values(&[label])
                .add(resident.bytes() as i64);
            self.adapter_rank
                .with_label_values(&[label])
                .set(resident.max_rank() as i64);
            let mean = resident.total_rank() as f64 / resident.ranks.len().max(1) as f64;
            self.adapter_rank_mean.with_label_values(&[label]).set(mean);
            self.adapter_hits
                .with_label_values(&[label])
                .add(alias.hits as i64);
            let pinned = if alias.pinned { "true" } else { "false" };
            self.loaded
                .with_label_values(&[label, "cpu", pinned])
                .add(1);
            if label != OTHER {
                // Every resident adapter can run in the next batch: none has to be brought in first.
                running.push(label);
                let address = std::sync::Arc::as_ptr(resident) as usize;
                if waiting_tasks.contains(&address) {
                    waiting.push(label);
                }
            }
        }
        let most = if most == usize::MAX {
            aliases.len()
        } else {
            most
        };
        self.max_adapters.set(most as f64);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.lora_info
            .with_label_values(&[&most.to_string(), &running.join(","), &waiting.join(",")])
            .set(now.map_or(0.0, |d| d.as_secs_f64()));
    }
}
