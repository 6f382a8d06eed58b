//! The other side of `benches/peers/train.py`: steps of LoRA training on rows of random tokens, and how long each took.
//!
//! `train_peer DIR DTYPE THREADS [DROPOUT]` says `ready`; for each line `ROWSxTOKENS` on stdin it makes a whole step
//! (forward, backward, AdamW; r = 8 on every linear, two labels) and writes its milliseconds and loss to stdout.

use std::io::{BufRead, Write};

use sorank::{
    kernel::panel::Precision,
    model::{Level, LoadOptions, Model},
    spec::Problem,
    train::{
        Example, Facts, Learner, Live, Method, Optimizer, Rates, Settings, Shares, Target,
        sora::GateInit,
    },
    weights::Source,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(dir), Some(dtype), Some(threads)) = (args.first(), args.get(1), args.get(2)) else {
        return Err("usage: train_peer DIR f32|bf16 THREADS [DROPOUT]".into());
    };
    let hidden: f32 = args.get(3).map_or(Ok(0.0), |d| d.parse())?;
    let dropout = Shares {
        hidden,
        ..Shares::default()
    };
    let precision: Precision = serde_json::from_value(dtype.as_str().into())?;
    let options = LoadOptions {
        precision: Some(precision),
        ..LoadOptions::default()
    };
    let model = Model::load(Source::dir(dir)?, &options)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build()?;
    let facts = Facts {
        method: Method::Lora,
        sites: &[],
        r_max: 8,
        alpha: 16.0,
        gate_init: GateInit::Ones,
        problem: Problem::SingleLabelClassification,
        level: Level::Sequence,
        labels: vec!["no".into(), "yes".into()],
        seed: 1,
    };
    let live = Live::new(&model, &facts)?;
    let mut learner = pool.install(|| Learner::new(&model, live, dropout, 1))?;
    let mut optimizer = Optimizer::new(Settings::default(), &learner.live.parameters);
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for (step, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        let (rows, tokens) = line.trim().split_once('x').ok_or("expected ROWSxTOKENS")?;
        let (rows, tokens): (usize, usize) = (rows.parse()?, tokens.parse()?);
        let ids = |row: usize| {
            (0..tokens).map(move |i| (1000 + (row * tokens + i) * 7919 % 29000) as u32)
        };
        let examples: Vec<Example> = (0..rows)
            .map(|row| Example {
                ids: ids(row).collect(),
                types: vec![0; tokens],
                target: Target::Class(row % 2),
            })
            .collect();
        let rows: Vec<&Example> = examples.iter().collect();
        let start = std::time::Instant::now();
        let loss = pool.install(|| {
            let bound = learner.bind(true);
            let (loss, mut gradients) = learner.gradients(&bound, &rows, step as u64);
            let parameters = &mut learner.live.parameters;
            optimizer.step(parameters, &mut gradients, &|_| None, Rates::all(1e-4));
            loss
        });
        let ms = 1e3 * start.elapsed().as_secs_f64();
        writeln!(out, "{ms:.3} {loss:.6}")?;
        out.flush()?;
    }
    Ok(())
}
