//! The other side of `benches/peers/compare.py`: runs batches of random tokens and answers how long each took.
//!
//! `peer DIR DTYPE THREADS` says `ready`; for each line `ROWSxTOKENS` on stdin it writes milliseconds to stdout.
//! No tokenizer and no heads: the encoder alone, as for the peers.

use std::io::{BufRead, Write};

use sorank::{
    kernel::panel::Precision,
    model::{Batch, LoadOptions, Model, Sequence},
    weights::Source,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, dtype, threads] = args.as_slice() else {
        return Err("usage: peer DIR f32|bf16|int8 THREADS".into());
    };
    let precision: Precision = serde_json::from_value(dtype.as_str().into())?;
    let options = LoadOptions {
        precision: Some(precision),
        ..LoadOptions::default()
    };
    let model = Model::load(Source::dir(dir)?, &options)?;
    let base = model.base_task()?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build()?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (rows, tokens) = line.trim().split_once('x').ok_or("expected ROWSxTOKENS")?;
        let (rows, tokens): (usize, usize) = (rows.parse()?, tokens.parse()?);
        let ids: Vec<u32> = (0..(rows * tokens) as u32)
            .map(|i| 1000 + i * 7919 % 29000)
            .collect();
        let types = vec![0; tokens];
        let batch = Batch::pack(ids.chunks(tokens).map(|ids| Sequence {
            ids,
            types: &types,
            task: 0,
        }));
        let start = std::time::Instant::now();
        pool.install(|| model.forward(&batch, &[&base], &mut ()));
        writeln!(out, "{:.4}", 1e3 * start.elapsed().as_secs_f64())?;
        out.flush()?;
    }
    Ok(())
}
