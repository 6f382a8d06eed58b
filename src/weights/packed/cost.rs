//! What building, opening, merging and restoring cost at the size of BERT-base. Prints; run by hand:
//! `cargo test --release --lib packed::cost -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    kernel::panel::{self, Precision},
    weights::{
        Dtype, Source,
        writer::{self, Content, Output},
    },
};

fn timed<T>(what: &str, bytes: usize, f: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let out = f();
    let took = start.elapsed();
    let rate = bytes as f64 / took.as_secs_f64() / 1e9;
    eprintln!(
        "{what:<34} {:>9.2} ms  {rate:>6.2} GB/s",
        took.as_secs_f64() * 1e3
    );
    (out, took)
}

#[test]
#[ignore = "half a gigabyte of files; prints times"]
fn at_the_size_of_bert_base() {
    let dir = tempfile::tempdir().unwrap();
    let linears = [(2304, 768), (768, 768), (3072, 768), (768, 3072)];
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let slots: Vec<(String, PanelShape)> = (0..48)
            .map(|i| {
                let (n, k) = linears[i % 4];
                let tight = false;
                (
                    format!("linear.{i}"),
                    PanelShape {
                        n,
                        k,
                        precision,
                        tight,
                    },
                )
            })
            .collect();
        let path = dir.path().join("model.safetensors");
        if !path.exists() {
            let outputs: Vec<Output> = slots
                .iter()
                .enumerate()
                .map(|(i, (name, s))| Output {
                    name: name.clone(),
                    shape: vec![s.n, s.k],
                    dtype: Dtype::F32,
                    content: Content::Make(Box::new(move || {
                        let value = |j: usize| ((i * 31 + j) as f32 * 0.618).fract() - 0.5;
                        Ok((0..s.n * s.k).map(value).collect())
                    })),
                })
                .collect();
            writer::write(&path, &outputs, &Default::default()).unwrap();
        }
        let tensors = Tensors::open(&Source::dir(dir.path()).unwrap()).unwrap();
        let total: usize = slots.iter().map(|s| s.1.bytes()).sum();
        eprintln!(
            "-- {precision:?}: {:.0} MB in {} slots",
            total as f64 / 1e6,
            slots.len()
        );
        timed(
            "content hash of the checkpoint",
            tensors.bytes() as usize,
            || tensors.fingerprint().len(),
        );
        let cache = dir.path().join("cache");
        let options = PackOptions {
            cache: Cache::Dir(&cache),
            ..PackOptions::default()
        };
        let fill = |i: usize| {
            let (name, s) = &slots[i];
            tensors.get(name).unwrap().matrix(s.n, s.k)
        };
        let open = || Packed::open_or_build(&tensors, &slots, &fill, &options).unwrap();
        timed("build", total, open);
        let (mut packed, _) = timed("open", total, open);
        let sum = |packed: &Packed| {
            packed
                .map
                .iter()
                .step_by(4096)
                .map(|&b| u64::from(b))
                .sum::<u64>()
        };
        timed("first touch of every page", total, || sum(&packed));
        timed("second touch", total, || sum(&packed));
        timed("verify", total, || packed.verify().unwrap());
        let (copy, _) = timed("read and write the bytes (memcpy)", total, || {
            packed.map.to_vec()
        });
        drop(copy);
        if precision != Precision::Int8 {
            for _ in 0..2 {
                timed("write every slot (merge's floor)", total, || {
                    for slot in 0..packed.slots() {
                        packed.panels_mut(slot).iter_mut().for_each(|b| *b ^= 1);
                    }
                });
                timed("restore", total, || packed.restore().unwrap());
            }
            let shape = packed.shape(0);
            let (up, down) = (Matrix::zeros(shape.n, 4), Matrix::zeros(4, shape.k));
            timed("add rank 4 to one slot", shape.bytes(), || {
                let (bytes, columns) = (packed.panels_mut(0), 0..shape.n);
                panel::add_low_rank(bytes, shape, columns, up.view(), down.view());
            });
        }
        timed("fork", total, || packed.fork().unwrap());
    }
}
