//! The other side of `benches/peers/compare.py`: runs batches of made-up tokens and answers how long they took.
//!
//! `peer DIR DTYPE THREADS` says `ready`; for each line `{"batches": [[lengths of rows], ...], "answers": bool}` on stdin it
//! writes `{"ms": all batches, "first": states of the first tokens, if asked}`.
//! No tokenizer and no heads: the encoder alone, as for the peers.

use std::io::{BufRead, Write};

use sorank::{
    kernel::panel::Precision,
    model::{Batch, LoadOptions, Model, Sequence},
    weights::Source,
};

#[derive(serde::Deserialize)]
struct Line {
    batches: Vec<Vec<usize>>,
    #[serde(default)]
    answers: bool,
}

#[derive(serde::Serialize)]
struct Answer {
    ms: f64,
    first: Vec<Vec<f32>>,
}

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
        let line: Line = serde_json::from_str(&line?)?;
        let batches: Vec<Batch> = line.batches.iter().map(|of| batch(of)).collect();
        let start = std::time::Instant::now();
        let states: Vec<_> = batches
            .iter()
            .map(|batch| pool.install(|| model.forward(batch, &[&base], &mut ())))
            .collect();
        let ms = 1e3 * start.elapsed().as_secs_f64();
        let mut first = Vec::new();
        if line.answers {
            for (batch, states) in batches.iter().zip(&states) {
                let rows = (0..batch.sequences()).map(|s| states.row(batch.rows(s).start).to_vec());
                first.extend(rows);
            }
        }
        serde_json::to_writer(&mut out, &Answer { ms, first })?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

/// Rows of these lengths, of tokens that `compare.py` makes too.
fn batch(lengths: &[usize]) -> Batch {
    let mut next = (0..).map(|i| 1000 + i * 7919 % 29000);
    let rows: Vec<(Vec<u32>, Vec<u32>)> = lengths
        .iter()
        .map(|&n| (next.by_ref().take(n).collect(), vec![0; n]))
        .collect();
    Batch::pack(rows.iter().map(|(ids, types)| Sequence {
        ids,
        types,
        task: 0,
    }))
}
