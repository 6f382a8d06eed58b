//! `sorank bench`: what adapters cost on this machine, beside the bare base, in one interleaved run.

mod batch;
mod memory;

use std::{path::PathBuf, time::Instant};

use rayon::prelude::*;

use self::batch::Shape;
use super::{Failure, output::Output, rows::go_on, setup::ModelArgs};
use crate::{
    adapter::{Adapter, RandomSite, pruned_ranks},
    error::Error,
    kernel::panel::Precision,
    mat::Matrix,
    model::{Batch, Merged, Model, Task},
    report::bench::{BatchReport, BenchReport, Memory, Once, Variant, table},
    simd,
};

/// Measures the base, merged, with pruned adapters and with full-rank ones at the same sites, taking turns in every
/// round, and what swapping and merging an adapter takes. Adapters that are not given are made, with random factors.
/// Texts are random tokens: only speed is measured, after the answers were compared with each other.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Batches, as ROWSxTOKENS or ROWSxmixed (log-normal lengths, 4 to 128, about 22 in the mean)
    #[arg(long, value_delimiter = ',', default_value = "1x16,8x128,32xmixed")]
    batches: Vec<Shape>,
    /// Numbers of distinct adapters in a batch
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    distinct: Vec<usize>,
    /// Mean rank of adapters that are made
    #[arg(long, default_value_t = 4)]
    mean_rank: usize,
    /// Full ranks to compare with
    #[arg(long, value_delimiter = ',', default_value = "8,16,32,64")]
    full_ranks: Vec<usize>,
    /// Rounds of a batch, at most; in each, every variant runs
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Time for all batches: a large base gets fewer rounds, three at least
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u32,
    /// Also write the findings as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the findings as one page with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let threads = args.model.threads.map_or(0, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Failure::Failed(format!("starting threads: {e}")))?;
    let report = pool.install(|| bench(args))?;
    let write = |path: &Option<PathBuf>, text: &dyn Fn() -> String| match path {
        Some(path) => std::fs::write(path, text()).map_err(Error::io(path)),
        None => Ok(()),
    };
    write(&args.json, &|| {
        serde_json::to_string_pretty(&report).expect("numbers and strings are JSON")
    })?;
    write(&args.html, &|| crate::report::bench::page(&report))?;
    let mut out = Output::stdout();
    go_on(out.text(&table(&report))?)?;
    go_on(out.flush()?)
}

fn bench(args: &Args) -> Result<BenchReport, Failure> {
    let mut memory = vec![memory::now("starting")];
    let start = Instant::now();
    let model = args.model.load()?;
    let loaded = start.elapsed().as_secs_f64();
    let subjects = Subjects::new(args, &model)?;
    let first = Shape {
        rows: 1,
        tokens: Some(16),
    }
    .batch(&model, 1);
    // Touches every weight, so that what is mapped is also resident.
    model.forward(&first, &[&subjects.base], &mut ());
    memory.push(memory::now("loading and a first pass"));
    subjects.check(&model)?;
    let mut once = vec![Once::new("load the base", &[loaded])];
    once.extend(swap(args, &model, &subjects)?);
    memory.push(memory::now("binding adapters"));
    let merged = merge(args, &model, &subjects, &mut once, &mut memory)?;
    let mut batches = Vec::new();
    let share = f64::from(args.seconds) / args.batches.len() as f64;
    for shape in &args.batches {
        let merged = merged.as_ref();
        batches.push(measure(args, share, &model, &subjects, merged, *shape));
    }
    let spec = model.spec();
    let shape = format!(
        "{}, {} layers of {} ({} heads, {} in the feed-forward block)",
        spec.family,
        spec.layers.len(),
        spec.hidden,
        spec.heads,
        spec.ffn
    );
    Ok(BenchReport {
        version: env!("CARGO_PKG_VERSION"),
        model: args
            .model
            .model
            .as_ref()
            .map_or("the built-in model".to_owned(), |place| place.to_string()),
        shape,
        dtype: format!("{:?}", model.packed().precision()).to_lowercase(),
        cpu: format!("{}, {}", memory::cpu(), simd::level().name()),
        threads: rayon::current_num_threads(),
        batches,
        once,
        memory,
    })
}

/// The tasks that are compared.
struct Subjects {
    base: Task,
    /// As given, or with ranks as pruning leaves them; as many as the largest number of distinct ones.
    pruned: Vec<Task>,
    /// Every site of the first one at a full rank.
    full: Vec<(usize, Task)>,
    /// The first adapter, as data.
    adapter: Adapter,
    /// Sites of the base.
    sites: usize,
}

impl Subjects {
    fn new(args: &Args, model: &Model) -> Result<Self, Failure> {
        let sites = model.sites().all();
        let random = |rank: &dyn Fn(usize) -> usize, seed| {
            let site = |(i, site): (usize, &crate::model::sites::Site)| RandomSite {
                path: site.path.clone(),
                inputs: site.inputs,
                outputs: site.columns.len(),
                rank: rank(i),
            };
            let sites: Vec<RandomSite> = sites.iter().enumerate().map(site).collect();
            Adapter::random(&sites, seed)
        };
        let mut pruned = Vec::new();
        let mut adapter = None;
        for (name, given) in args.model.all_adapters()? {
            let given = given?;
            pruned.push(model.bind(&name, &given)?);
            adapter.get_or_insert(given);
        }
        let most = args.distinct.iter().copied().max().unwrap_or(1).max(1);
        for seed in pruned.len()..most {
            let ranks = pruned_ranks(sites.len(), args.mean_rank, seed as u32);
            let made = random(&|i| ranks[i], seed as u32);
            pruned.push(model.bind(&format!("made {seed}"), &made)?);
            adapter.get_or_insert(made);
        }
        let adapter = adapter.expect("there is one adapter at least");
        let adapted = |i: usize| {
            let path = &sites[i].path;
            adapter.factors.keys().any(|k| k.ends_with(path.as_str()))
        };
        let mut full = Vec::new();
        for &rank in &args.full_ranks {
            let made = random(&|i| if adapted(i) { rank } else { 0 }, 77);
            full.push((rank, model.bind("full", &made)?));
        }
        Ok(Self {
            base: model.base_task()?,
            pruned,
            full,
            sites: sites.len(),
            adapter,
        })
    }

    fn mean_rank(&self, tasks: &[&Task]) -> f64 {
        let total: usize = tasks.iter().map(|t| t.total_rank()).sum();
        total as f64 / (self.sites * tasks.len()) as f64
    }

    /// Rows of a mixed batch equal the same rows alone, before anything is timed.
    fn check(&self, model: &Model) -> Result<(), Failure> {
        let tasks: Vec<&Task> = self.pruned.iter().collect();
        let batch = Shape {
            rows: tasks.len(),
            tokens: None,
        }
        .batch(model, tasks.len());
        let together = model.forward(&batch, &tasks, &mut ());
        for s in 0..batch.sequences() {
            let alone = model.forward(&batch.slice(s..s + 1), &tasks, &mut ());
            let rows = together.view().row_range(batch.rows(s));
            if (0..alone.rows()).any(|r| alone.row(r) != rows.row(r)) {
                let why = format!("row {s} of a mixed batch differs from the same row alone");
                return Err(Failure::Failed(why));
            }
        }
        Ok(())
    }
}

/// Seconds of `run`.
fn timed<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let out = run();
    (start.elapsed().as_secs_f64(), out)
}

/// From an adapter's files to its first answer, and how much of that is the answer.
fn swap(args: &Args, model: &Model, subjects: &Subjects) -> Result<Vec<Once>, Failure> {
    let dir = tempfile::tempdir().map_err(Error::io(std::path::Path::new("<temporary>")))?;
    let at = dir.path().join("adapter");
    subjects.adapter.write(&at)?;
    let batch = Shape {
        rows: 1,
        tokens: Some(16),
    }
    .batch(model, 1);
    let (mut swaps, mut reads, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let start = Instant::now();
        let task = model.bind("swapped", &Adapter::read(&at)?)?;
        reads.push(start.elapsed().as_secs_f64());
        answers.push(timed(|| model.forward(&batch, &[&task], &mut ())).0);
        swaps.push(start.elapsed().as_secs_f64());
    }
    Ok(vec![
        Once::new("swap: adapter file to first answer (16 tokens)", &swaps),
        Once::new("  of which reading and binding", &reads),
        Once::new("  of which the answer", &answers),
    ])
}

/// Merges and unmerges, compares the bits with the base's, and leaves a merged model; none in int8.
fn merge(
    args: &Args,
    model: &Model,
    subjects: &Subjects,
    once: &mut Vec<Once>,
    memory: &mut Vec<Memory>,
) -> Result<Option<Merged>, Failure> {
    if model.packed().precision() == Precision::Int8 {
        return Ok(None);
    }
    let task = &subjects.pruned[0];
    let batch = Shape {
        rows: 1,
        tokens: Some(16),
    }
    .batch(model, 1);
    let before = model.forward(&batch, &[&subjects.base], &mut ());
    let (mut merging, mut unmerging) = (Vec::new(), Vec::new());
    let mut fork = model.fork()?;
    for _ in 0..args.rounds.min(7) {
        let (seconds, merged) = timed(|| Merged::new(fork, task));
        merging.push(seconds);
        let (seconds, back) = timed(|| merged.and_then(Merged::unmerge));
        unmerging.push(seconds);
        fork = back?;
    }
    if fork.forward(&batch, &[&subjects.base], &mut ()) != before {
        return Err(Failure::Failed(
            "the unmerged base differs from the base".into(),
        ));
    }
    once.push(Once::new("merge one adapter", &merging));
    once.push(Once::new("unmerge it", &unmerging));
    let adapted = |slot: &usize| task.factors.get(*slot).is_some_and(Option::is_some);
    let slots: Vec<usize> = (0..model.packed().slots()).filter(adapted).collect();
    let copy = |&slot: &usize| model.packed().panels(slot).bytes().to_vec();
    let copying: Vec<f64> = (0..args.rounds.min(7))
        .map(|_| timed(|| slots.par_iter().map(copy).collect::<Vec<_>>()).0)
        .collect();
    once.push(Once::new("  a plain copy of those weights", &copying));
    let merged = Merged::new(fork, task)?;
    memory.push(memory::now("merging into a fork"));
    Ok(Some(merged))
}

/// One way of running one batch.
struct Lane<'a> {
    name: String,
    adapters: usize,
    mean_rank: f64,
    batch: Batch,
    run: Box<dyn Fn(&Batch) -> Matrix + 'a>,
    seconds: Vec<f64>,
}

/// Rounds that are measured however long they take, as far as so many were asked for.
const LEAST_ROUNDS: u32 = 3;
/// Passes from which on a first, unmeasured round would be long and change nothing.
const LONG_PASS: f64 = 0.1;

/// All variants of one batch, in about `budget` seconds.
fn measure(
    args: &Args,
    budget: f64,
    model: &Model,
    subjects: &Subjects,
    merged: Option<&Merged>,
    shape: Shape,
) -> BatchReport {
    let mut planned = vec![("base".to_owned(), vec![&subjects.base])];
    for &count in args.distinct.iter().filter(|&&n| n > 0 && n <= shape.rows) {
        let tasks = subjects.pruned[..count].iter().collect();
        planned.push((format!("{count} adapter(s), pruned"), tasks));
    }
    for (rank, task) in &subjects.full {
        planned.push((format!("full rank {rank}"), vec![task]));
    }
    let plan = planned.into_iter().enumerate();
    let mut lanes: Vec<Lane<'_>> = plan
        .map(|(i, (name, tasks))| Lane {
            name,
            adapters: if i == 0 { 0 } else { tasks.len() },
            mean_rank: subjects.mean_rank(&tasks),
            batch: shape.batch(model, tasks.len()),
            run: Box::new(move |batch| model.forward(batch, &tasks, &mut ())),
            seconds: Vec::new(),
        })
        .collect();
    if let Some(merged) = merged {
        let lane = Lane {
            name: "merged".to_owned(),
            adapters: 1,
            mean_rank: 0.0,
            batch: shape.batch(model, 1),
            run: Box::new(move |batch| merged.forward(batch, &mut ())),
            seconds: Vec::new(),
        };
        lanes.insert(1, lane);
    }
    // Short batches are run several times a round, or a clock tick would be a percent.
    let (once, _) = timed(|| (lanes[0].run)(&lanes[0].batch));
    let repeats = (0.02 / once).ceil().clamp(1.0, 50.0) as usize;
    let start = Instant::now();
    let mut measured = 0;
    for round in 0.. {
        let warm = round > 0 || once > LONG_PASS;
        let (spent, least) = (start.elapsed().as_secs_f64(), measured >= LEAST_ROUNDS);
        // Another round as long as those before must still fit.
        let next = spent / f64::from(measured.max(1));
        if measured == args.rounds || least && spent + next > budget {
            break;
        }
        for i in 0..lanes.len() {
            let at = (i + round) % lanes.len(); // nobody is always first
            let lane = &mut lanes[at];
            let (seconds, ()) = timed(|| (0..repeats).for_each(|_| drop((lane.run)(&lane.batch))));
            if warm {
                lane.seconds.push(seconds / repeats as f64);
            }
        }
        measured += u32::from(warm);
    }
    let tokens = lanes[0].batch.tokens();
    let base = &lanes[0].seconds;
    let variants = lanes.iter().enumerate().map(|(i, lane)| {
        let facts = (lane.adapters, lane.mean_rank);
        Variant::new(
            lane.name.clone(),
            facts,
            tokens,
            &lane.seconds,
            (i > 0).then_some(base),
        )
    });
    BatchReport {
        name: shape.to_string(),
        rows: shape.rows,
        tokens,
        rounds: measured as usize,
        variants: variants.collect(),
    }
}
