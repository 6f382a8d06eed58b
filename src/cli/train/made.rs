//! What a run was and came to: `sorank.json`, and the page.

use serde_json::{Value, json};

use super::args::{Args, MethodArg};
use crate::{
    report::{
        grouped,
        inspect::layer_and_site,
        rankmap::RankRow,
        train::{EpochRow, TrainReport},
    },
    train::{
        Facts, Learner,
        run::{Outcome, Plan},
    },
};

/// What the run was and came to.
pub(super) fn made(
    identity: Value,
    plan: &Plan,
    outcome: &Outcome,
    learner: &Learner<'_>,
    method: MethodArg,
    start: usize,
) -> Value {
    let best = outcome
        .epochs
        .iter()
        .find(|e| e.epoch == outcome.best_epoch);
    let kept = match method {
        MethodArg::Bitfit | MethodArg::Full => {
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
    made
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
    let rates = format!(
        "{}, gates {}, head {}",
        plan["lr"], plan["gate_lr"], plan["head_lr"]
    );
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
        epochs: epochs.collect(),
        curve: curve.collect(),
        ranks: ranks.into_iter().filter_map(row).collect(),
    }
}
