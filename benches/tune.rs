use rustix::time::{ClockId, clock_gettime};
use sorank::{kernel::panel::*, mat::Matrix, simd};
fn seconds() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}
fn noise(rows: usize, cols: usize, seed: u32) -> Matrix {
    let mut s = seed;
    let mut next = || {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (s >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    Matrix::from_vec((0..rows * cols).map(|_| next()).collect(), rows, cols)
}
fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let precision = match args[0].as_str() {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        _ => Precision::Int8,
    };
    let cold = args.get(1).is_some_and(|a| a == "cold");
    let ms: Vec<usize> = args.get(2).map_or(vec![16, 32, 128, 512], |a| {
        a.split(',').map(|m| m.parse().unwrap()).collect()
    });
    for (n, k) in [(768, 768), (768, 3072), (3072, 768)] {
        let shape = PanelShape {
            n,
            k,
            precision,
            tight: false,
        };
        let w = noise(n, k, 1);
        let copies = if cold {
            (96usize << 20).div_ceil(shape.bytes())
        } else {
            1
        };
        let mut packed = vec![0u8; copies * shape.bytes() + 64];
        let start = packed.as_ptr().align_offset(64);
        pack(w.view(), shape, &mut packed[start..][..shape.bytes()]);
        for c in 1..copies {
            packed.copy_within(start..start + shape.bytes(), start + c * shape.bytes());
        }
        let bias = noise(1, n, 2);
        for &m in &ms {
            let x = noise(m, k, 3);
            let mut y = Matrix::zeros(m, n);
            let (mut shares, mut copy) = (vec![], 0);
            let ops = (2 * m * n * k) as f64;
            for _ in 0..60 {
                let t = seconds();
                let o = peak(simd::level(), precision, 40_000) as f64;
                let p = o / (seconds() - t);
                let reps = ((p * 0.003 / ops) as usize).max(1);
                let mut run = |reps| {
                    let t = seconds();
                    for _ in 0..reps {
                        copy += 1;
                        let w = Panels::new(
                            &packed[start + copy % copies * shape.bytes()..][..shape.bytes()],
                            shape,
                        );
                        Product {
                            x: x.view(),
                            w,
                            init: Init::Bias(bias.row(0)),
                            activation: None,
                            residual: None,
                        }
                        .into(y.view_mut());
                    }
                    ops * reps as f64 / (seconds() - t)
                };
                run(1);
                let r = run(reps);
                shares.push((100.0 * r / p, p / 1e9, r / 1e9));
            }
            shares.sort_by(|a, b| a.0.total_cmp(&b.0));
            let med = shares[30].0;
            shares.sort_by(|a, b| a.1.total_cmp(&b.1));
            let p = shares[54].1;
            shares.sort_by(|a, b| a.2.total_cmp(&b.2));
            let r = shares[54].2;
            println!(
                "{precision:?} {n}x{k} M {m:4} {} best {:.1}   median {med:.1}   peak {p:.0}",
                if cold { "cold" } else { "hot" },
                100.0 * r / p
            );
        }
    }
}
