//! Every operation of the trait at every level of this CPU, against plain `f32` arithmetic.

use super::*;

struct Ops<'a> {
    a: &'a [f32; LANES],
    b: &'a [f32; LANES],
}

impl Kernel for Ops<'_> {
    type Out = Vec<(&'static str, [f32; LANES])>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Out {
        let (a, b) = (s.load(self.a), s.load(self.b));
        let n = s.round(b);
        let rows = [
            ("add", s.add(a, b)),
            ("sub", s.sub(a, b)),
            ("mul", s.mul(a, b)),
            ("div", s.div(a, b)),
            ("min", s.min(a, b)),
            ("max", s.max(a, b)),
            ("abs", s.abs(a)),
            ("round", s.round(a)),
            ("scale2", s.scale2(a, n)),
            ("select_lt", s.select_lt(a, b, a, n)),
            ("max_bits_signed", s.max_bits_signed(a, b)),
            ("max_bits_unsigned", s.max_bits_unsigned(a, b)),
            ("sum", s.splat(s.sum(a))),
            ("sum_each", s.splat(s.sum_each([b, n, a, b])[2])),
            ("sum_each", s.splat(s.sum_each([a, n, b, n])[0])),
            ("sum_each", s.splat(s.sum_each([b, a, n, b])[1])),
            ("sum_each", s.splat(s.sum_each([b, n, b, a])[3])),
            ("max_lane", s.splat(s.max_lane(a))),
        ];
        rows.map(|(name, v)| {
            let mut out = [0.0; LANES];
            s.store(v, &mut out);
            (name, out)
        })
        .to_vec()
    }
}

struct Parts<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Parts<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let v = s.load_part(self.0);
        s.store_part(s.add(v, s.splat(1.0)), self.1);
    }
}

#[test]
fn operations_equal_plain_arithmetic_at_every_level() {
    let a: [f32; LANES] = std::array::from_fn(|i| (i as f32 - 7.5) * 1.37);
    let b: [f32; LANES] = std::array::from_fn(|i| (i as f32 * 5.3) % 7.0 - 3.0);
    let tree = |mut v: [f32; LANES]| {
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|i| v[i] += v[i + half]);
        }
        v[0]
    };
    for &level in levels() {
        for (name, got) in run_at(level, Ops { a: &a, b: &b }) {
            for i in 0..LANES {
                let (x, y) = (a[i], b[i]);
                let want = match name {
                    "add" => x + y,
                    "sub" => x - y,
                    "mul" => x * y,
                    "div" => x / y,
                    "min" => x.min(y),
                    "max" => x.max(y),
                    "abs" => x.abs(),
                    "round" => x.round_ties_even(),
                    "scale2" => x * y.round_ties_even().exp2(),
                    "select_lt" => {
                        if x < y {
                            x
                        } else {
                            y.round_ties_even()
                        }
                    }
                    "max_bits_signed" => f32::from_bits(
                        x.to_bits()
                            .cast_signed()
                            .max(y.to_bits().cast_signed())
                            .cast_unsigned(),
                    ),
                    "max_bits_unsigned" => f32::from_bits(x.to_bits().max(y.to_bits())),
                    "sum" | "sum_each" => tree(a),
                    _ => 7.5 * 1.37,
                };
                assert_eq!(
                    got[i].to_bits(),
                    want.to_bits(),
                    "{name} lane {i} at {level:?}"
                );
            }
        }
    }
}

#[test]
fn parts_touch_nothing_else() {
    for &level in levels() {
        for n in 0..LANES {
            let from: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut to = [-1.0; LANES];
            run_at(level, Parts(&from, &mut to[..n]));
            for (i, &x) in to.iter().enumerate() {
                assert_eq!(
                    x,
                    if i < n { i as f32 + 1.0 } else { -1.0 },
                    "lane {i} of {n} at {level:?}"
                );
            }
        }
    }
}

struct Narrow<'a>(&'a [f32; LANES]);

impl Kernel for Narrow<'_> {
    type Out = ([f32; LANES], [f32; LANES], [f32; LANES], [u8; LANES]);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Out {
        let (mut rounded, mut first, mut second) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let mut bytes = [0; LANES];
        s.store(s.round_bf16(s.load(self.0)), &mut rounded);
        // SAFETY: 16 words are read, 16 bytes are written.
        unsafe {
            let (a, b) = s.load_bf16_pairs_ptr(self.0.as_ptr().cast());
            s.store(a, &mut first);
            s.store(b, &mut second);
            s.store_low_bytes_ptr(s.load(self.0), bytes.as_mut_ptr());
        }
        (rounded, first, second, bytes)
    }
}

#[test]
fn narrow_types_round_and_widen_as_stated() {
    let mut cases = vec![
        [
            0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 254.5, 255.4, 256.0, 300.0, 1e-40, 1.0, 3.0, 7.0, 9.0,
            127.5,
        ],
        std::array::from_fn(|i| f32::from_bits(0x3f80_7fff + (i as u32 % 4))), // around a tie
        std::array::from_fn(|i| f32::from_bits(0x7f7f_7ffe + (i as u32 % 8))), // around overflow
        std::array::from_fn(|i| {
            f32::from_bits([0x7f80_0001, 0xffff_ffff, 0x7f80_0000, 0xff80_0000][i % 4])
        }),
    ];
    cases.extend((0..200u32).map(|i| {
        std::array::from_fn(|l| f32::from_bits((i * 16 + l as u32).wrapping_mul(0x9e37_79b9)))
    }));
    for &level in levels() {
        for case in &cases {
            let (rounded, first, second, bytes) = run_at(level, Narrow(case));
            for (i, &x) in case.iter().enumerate() {
                let want = half::bf16::from_f32(x).to_f32();
                let right =
                    rounded[i].to_bits() == want.to_bits() || (x.is_nan() && rounded[i].is_nan());
                assert!(
                    right,
                    "{level:?}: {x:e} rounds to {:e}, not {want:e}",
                    rounded[i]
                );
                let bits = x.to_bits();
                assert_eq!(
                    (first[i].to_bits(), second[i].to_bits()),
                    (bits << 16, bits & 0xffff_0000),
                    "{level:?}: the pair of {x:e}"
                );
                assert_eq!(bytes[i], bits as u8, "{level:?}: the low byte of {x:e}");
            }
        }
    }
}

#[test]
fn levels_that_ci_requires_ran() {
    let ran: Vec<_> = levels().iter().map(|l| l.name()).collect();
    println!("levels tested: {}", ran.join(", "));
    for required in std::env::var("REQUIRE_LEVELS")
        .unwrap_or_default()
        .split(',')
        .filter(|s| !s.is_empty())
    {
        assert!(
            ran.contains(&required),
            "REQUIRE_LEVELS names {required}, but this CPU has only {ran:?}"
        );
    }
}
