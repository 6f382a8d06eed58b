//! What a run is and came to: the identity that its checkpoints carry, `sorank.json`, and the page.

use serde_json::{Value, json};

use super::{
    args::Args,
    given::{Base, Data, Given},
};
use crate::{
    model::Level,
    report::{
        grouped,
        inspect::layer_and_site,
        rankmap::RankRow,
        train::{EpochRow, PhaseRow, TrainReport},
    },
    train::{
        Facts, Learner, Method,
        choice::{Point, pareto},
        run::{Outcome, Plan},
    },
};

/// What the run is: all that its result depends on. A checkpoint of another one is not gone on from.
pub(super) fn identity(
    args: &Args,
    given: &Given,
    base: &Base,
    train: &Data,
    dev: &Data,
    facts: &Facts<'_>,
) -> Value {
    let file =
        |data: &Data| json!({"file": data.path, "rows": data.rows.len(), "blake3": data.hash});
    json!({
        "sorank": env!("CARGO_PKG_VERSION"),
        "method": facts.method,
        "r_max": args.adapt.r_max,
        "alpha": args.adapt.alpha,
        "gate_init": facts.gate_init,
        "sites_asked": args.adapt.sites,
        "dropout": args.optimiser.dropped(),
        "dtype": base.model.packed().precision(),
        "max_tokens": base.limit.max,
        "batch_tokens": args.optimiser.batch_tokens,
        "plan": given.plan,
        "seed": args.optimiser.seed,
        "threads": rayon::current_num_threads(),
        "base_fingerprint": base.model.packed().content_hash(),
        "train": file(train),
        "dev": file(dev),
        "labels": given.labels.names,
        "problem": given.problem,
        "tags": given.level == Level::Token,
    })
}

/// What the run was and came to.
pub(super) fn made(
    identity: Value,
    plan: &Plan,
    outcome: &Outcome,
    learner: &Learner<'_>,
    facts: &Facts<'_>,
    start: usize,
) -> Value {
    let best = outcome
        .epochs
        .iter()
        .find(|e| e.epoch == outcome.best_epoch);
    let kept = match facts.method {
        Method::Bitfit | Method::Full => {
            let parameters = outcome.best.parameters.iter();
            parameters.map(|p| p.value.as_slice().len()).sum()
        }
        _ => outcome.best.kept().1,
    };
    let sites: serde_json::Map<_, _> = (outcome.best.ranks().into_iter())
        .map(|(path, rank, gates)| (path, json!({"rank": rank, "gates": gates})))
        .collect();
    let mut best_told = json!(best);
    if let Some(told) = best_told.as_object_mut() {
        told.remove("curve"); // it is in metrics.jsonl
    }
    let mut made = identity;
    made["base"] = json!(learner.base().source().path(""));
    made["best"] = best_told;
    made["score"] = json!({
        "metric": plan.metric,
        "value": best.map(|e| e.scores[plan.metric.as_str()]),
    });
    made["epochs"] = json!(outcome.epochs.len());
    made["seconds"] = json!(outcome.epochs.last().map(|e| e.seconds));
    made["parameters"] = json!({"start": start, "kept": kept});
    made["sites"] = sites.into();
    made["pareto"] = front(outcome, plan);
    if let Some(schedule) = &plan.schedule {
        made["phases"] = json!(schedule.phases(&outcome.epochs, &plan.metric));
    }
    made
}

/// The epochs that no other beats in score with as few parameters, fewest first.
fn front(outcome: &Outcome, plan: &Plan) -> Value {
    let points: Vec<Point> = (outcome.epochs.iter())
        .map(|e| Point {
            score: e.scores[plan.metric.as_str()],
            parameters: e.kept_parameters,
        })
        .collect();
    let told = pareto(&points).into_iter().map(|i| {
        let (epoch, point) = (&outcome.epochs[i], &points[i]);
        json!({
            "epoch": epoch.epoch,
            "phase": epoch.phase,
            "score": point.score,
            "parameters": point.parameters,
        })
    });
    told.collect()
}

/// The page of the run that `made` describes.
pub(super) fn page(args: &Args, made: &Value, outcome: &Outcome, facts: &Facts<'_>) -> TrainReport {
    let metric = made["score"]["metric"].as_str().unwrap_or_default();
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let file = |which: &str| {
        let of = &made[which];
        let rows = grouped(of["rows"].as_u64().unwrap_or_default());
        format!("{}, {rows} rows", of["file"].as_str().unwrap_or_default())
    };
    let plan = &made["plan"];
    let last = outcome.epochs.last();
    let (tokens, seconds) = last.map_or((0, 0.0), |e| (e.tokens, e.seconds));
    let rate = (tokens as f64 / seconds.max(1e-6)).round() as u64;
    let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let low_rank = facts.method.trainable().low_rank;
    let mut told = vec![
        fact("method", name(&made["method"])),
        fact("base", args.model.to_string()),
        fact("training rows", file("train")),
        fact("development rows", file("dev")),
        fact("labels", facts.labels.len().to_string()),
    ];
    if low_rank {
        let of = format!("{} at every site, alpha {}", facts.r_max, facts.alpha);
        told.push(fact("rank at the start", of));
        let (start, kept) = (&made["parameters"]["start"], &made["parameters"]["kept"]);
        let share = 100.0 * kept.as_f64().unwrap_or_default() / start.as_f64().unwrap_or(1.0);
        let [start, kept] = [start, kept].map(|n| grouped(n.as_u64().unwrap_or_default()));
        told.push(fact(
            "parameters kept",
            format!("{kept} of {start} ({share:.0} %)"),
        ));
    }
    let optimizer = &plan["optimizer"];
    let prox = optimizer["prox"].to_string().replace(['{', '}', '"'], "");
    let (decay, clip) = (&optimizer["weight_decay"], &optimizer["clip"]);
    let l1 = &optimizer["l1"];
    let shown = format!("AdamW, weight decay {decay}, clip {clip}, L1 {l1}, prox {prox}");
    told.push(fact("optimiser", shown));
    let mut gates = match &plan["gate_travel"] {
        Value::Null => plan["gate_lr"].to_string(),
        travel => format!("by a travel of {travel}"),
    };
    if let [from, to] = plan["gate_window"].as_array().map_or(&[][..], |w| w) {
        gates.push_str(&format!(" from {from} to {to} of the steps"));
    }
    if let Some(share) = plan["keep"].as_f64() {
        gates.push_str(&format!(", at most {:.0} % kept", 100.0 * share));
    }
    let rates = format!("{}, gates {gates}, head {}", plan["lr"], plan["head_lr"]);
    told.push(fact("learning rate", rates));
    told.push(fact("rows a step", plan["batch"].to_string()));
    told.push(fact("seed", made["seed"].to_string()));
    let time = format!(
        "{seconds:.1} s, {} tokens/s, {} threads",
        grouped(rate),
        made["threads"]
    );
    told.push(fact("training time", time));
    told.push(fact("base fingerprint", name(&made["base_fingerprint"])));
    let epochs = outcome.epochs.iter().map(|e| EpochRow {
        epoch: e.epoch,
        loss: e.loss,
        scores: e
            .scores
            .iter()
            .map(|(n, v)| ((*n).to_owned(), *v))
            .collect(),
        train: e.train_scores.get(metric).copied(),
        ranks: e.kept_ranks,
        parameters: e.kept_parameters,
        seconds: e.seconds,
    });
    let ranks = outcome.best.ranks();
    let columns = |path: &str, which: &str| {
        let name = format!("{path}.{which}");
        let parameters = &outcome.best.parameters;
        let found = parameters.iter().find(|p| p.name == name);
        found.map_or(0, |p| p.value.cols()) as u64
    };
    let row = |(path, rank, _): (String, usize, Vec<f32>)| {
        let (layer, site) = layer_and_site(&path);
        Some(RankRow {
            layer: layer?,
            site,
            rank,
            r_max: Some(facts.r_max),
            params: rank as u64 * (columns(&path, "a") + columns(&path, "b")),
        })
    };
    let curve = outcome.epochs.iter().flat_map(|e| e.curve.iter().copied());
    let title = match &args.columns.task {
        Some(task) => task.clone(),
        None => {
            let name = args.out.file_name().unwrap_or(args.out.as_os_str());
            name.to_string_lossy().into_owned()
        }
    };
    TrainReport {
        title: format!("{title}, {}", name(&made["method"])),
        facts: told,
        metric: metric.to_owned(),
        best: outcome.best_epoch,
        phases: phases(made),
        epochs: epochs.collect(),
        curve: curve.collect(),
        ranks: ranks.into_iter().filter_map(row).collect(),
    }
}

/// The phases of a schedule, as `made` tells them.
fn phases(made: &Value) -> Vec<PhaseRow> {
    let rows = made["phases"].as_array().map_or(&[][..], Vec::as_slice);
    let whole = |value: &Value| value.as_u64().unwrap_or_default() as usize;
    let row = |p: &Value| PhaseRow {
        number: whole(&p["number"]),
        strength: p["strength"].as_f64().unwrap_or_default(),
        epoch: whole(&p["epoch"]),
        memorisation: p["memorisation"].as_f64(),
        generalisation: p["generalisation"].as_f64().unwrap_or(f64::NAN),
        ranks: whole(&p["kept_ranks"]),
        parameters: whole(&p["kept_parameters"]),
    };
    rows.iter().map(row).collect()
}
