//! Attention with every kind of position at every level, against `f64`; and that no cut changes a bit.

use super::*;
use crate::{
    kernel::{
        bucketed,
        naive::{Noise, assert_near},
        relative::bucket,
    },
    mat::Matrix,
    simd::levels,
};

/// Sums over up to 130 keys of values near 1, exponents of scores that are rounded at about 5.
pub(super) const TOLERANCE: f64 = 2e-6;
/// Scores of magnitude 5 and more from operands rounded by 2^-9 of themselves; values near 1.
const BF16: f64 = 5e-2;

/// Which position terms a case has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Plain,
    Window(usize),
    Bucketed,
    ToKey(usize),
    ToQuery(usize),
    /// Both terms, these buckets (0: none) and largest distance.
    Both(usize, usize),
    BothWindow(usize),
}

pub(super) const KINDS: [Kind; 11] = [
    Kind::Plain,
    Kind::Window(0),
    Kind::Window(5),
    Kind::Window(40),
    Kind::Bucketed,
    Kind::ToKey(16),
    Kind::ToQuery(16),
    Kind::Both(16, 40),
    Kind::Both(0, 24),
    Kind::Both(64, 200),
    Kind::BothWindow(9),
];

/// Everything one case owns.
pub(super) struct Case {
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) window: Option<usize>,
    /// q, k and v side by side, and columns that belong to nobody.
    pub(super) fused: Matrix,
    pub(super) bias: Option<(Matrix, DistanceBias)>,
    pub(super) distances: Option<Distances>,
    pub(super) buckets: (usize, usize),
    pub(super) keys: Option<(Matrix, PositionPanels)>,
    pub(super) queries: Option<(Matrix, PositionPanels)>,
    pub(super) dropout: Option<Dropout>,
    pub(super) precision: Precision,
}

impl Case {
    pub(super) fn new(kind: Kind, tokens: usize, heads: usize, width: usize) -> Self {
        let mut noise = Noise::new((tokens * 1000 + width) as u64);
        let h = heads * width;
        let buckets = match kind {
            Kind::ToKey(b) | Kind::ToQuery(b) => (b, 40),
            Kind::Both(b, d) => (b, d),
            Kind::BothWindow(_) => (16, 40),
            _ => (0, 0),
        };
        let relative = !matches!(kind, Kind::Plain | Kind::Window(_) | Kind::Bucketed);
        let distances = relative.then(|| Distances::new(buckets.0, buckets.1, 140));
        let mut table = |on: bool| {
            let rows = 2 * distances.as_ref().map_or(0, Distances::span);
            on.then(|| {
                let m = noise.matrix(rows, h, 1.0);
                let panels = PositionPanels::new(Precision::F32, m.view(), heads);
                (m, panels)
            })
        };
        let keys = table(relative && !matches!(kind, Kind::ToQuery(_)));
        let queries = table(relative && !matches!(kind, Kind::ToKey(_)));
        let bias = (kind == Kind::Bucketed).then(|| {
            let m = noise.matrix(32, heads, 2.0);
            let bias = DistanceBias::new(m.view(), 128, 140);
            (m, bias)
        });
        Self {
            heads,
            width,
            window: match kind {
                Kind::Window(w) | Kind::BothWindow(w) => Some(w),
                _ => None,
            },
            fused: noise.matrix(tokens, 3 * h + 5, 2.0),
            bias,
            distances,
            buckets,
            keys,
            queries,
            dropout: None,
            precision: Precision::F32,
        }
    }

    /// The same with operands of another precision.
    fn at(mut self, precision: Precision) -> Self {
        for (table, panels) in [&mut self.keys, &mut self.queries].into_iter().flatten() {
            *panels = PositionPanels::new(precision, table.view(), self.heads);
        }
        Self { precision, ..self }
    }

    /// The same with a share of the weights dropped.
    pub(super) fn dropping(self, share: f32) -> Self {
        let dropout = Dropout::new(share, 11);
        Self { dropout, ..self }
    }

    pub(super) fn attention(&self) -> Attention<'_> {
        let h = self.heads * self.width;
        let all = self.fused.view();
        let mut attention = Attention {
            q: all.col_range(0..h),
            k: all.col_range(h..2 * h),
            v: all.col_range(2 * h..3 * h),
            heads: self.heads,
            scale: 1.0 / (self.width as f32).sqrt(),
            window: self.window,
            positions: Positions::None,
            dropout: self.dropout,
            precision: self.precision,
        };
        if let Some((_, bias)) = &self.bias {
            attention.positions = Positions::Bucketed(bias);
        }
        if let Some(distances) = &self.distances {
            let relative = Relative {
                distances,
                keys: self.keys.as_ref().map(|k| &k.1),
                queries: self.queries.as_ref().map(|q| &q.1),
            };
            attention.scale = relative.scale(self.width);
            attention.positions = Positions::Relative(relative);
        }
        attention
    }

    /// The twin: `out [T x N D]` from q, k, v `[T x N D]` and the projected tables, all in `f64`.
    pub(super) fn naive(&self, inputs: &Inputs) -> Vec<f64> {
        let (tokens, h) = (self.fused.rows(), self.heads * self.width);
        let scale = f64::from(self.attention().scale);
        let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let mut out = vec![0.0; tokens * h];
        for head in 0..self.heads {
            let at = |r: usize| r * h + head * self.width..r * h + (head + 1) * self.width;
            for i in 0..tokens {
                let q = &inputs.q[at(i)];
                let scores: Vec<f64> = (0..tokens)
                    .map(|j| {
                        if self.window.is_some_and(|w| i.abs_diff(j) > w) {
                            return f64::NEG_INFINITY;
                        }
                        let k = &inputs.k[at(j)];
                        let mut s = dot(q, k);
                        if let Some(d) = &self.distances {
                            let span = d.span() as isize;
                            let p = bucket(i as isize - j as isize, self.buckets.0, self.buckets.1);
                            let p = (p + span).clamp(0, 2 * span - 1) as usize;
                            if self.keys.is_some() {
                                s += dot(q, &inputs.keys[at(p)]);
                            }
                            if self.queries.is_some() {
                                s += dot(k, &inputs.queries[at(p)]);
                            }
                        }
                        s *= scale;
                        if let Some((table, _)) = &self.bias {
                            let b = bucketed::bucket(j as isize - i as isize, 32, 128);
                            s += f64::from(table.row(b)[head]);
                        }
                        s
                    })
                    .collect();
                let m = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let e: Vec<f64> = scores.iter().map(|s| (s - m).exp()).collect();
                let sum: f64 = e.iter().sum();
                let mut mask = vec![1.0f32; tokens];
                if let Some(dropout) = self.dropout {
                    let reach = self.window.unwrap_or(tokens);
                    let seen = i.saturating_sub(reach)..tokens.min(i + reach + 1);
                    dropout.row(head * tokens + i, &mut mask[seen]);
                }
                for j in 0..tokens {
                    let v = &inputs.v[at(j)];
                    for (o, v) in out[at(i)].iter_mut().zip(v) {
                        *o += f64::from(mask[j]) * e[j] / sum * v;
                    }
                }
            }
        }
        out
    }

    pub(super) fn inputs(&self) -> Inputs {
        let a = self.attention();
        let wide = |m: Mat<'_>| -> Vec<f64> {
            (0..m.rows())
                .flat_map(|r| m.row(r).iter().map(|&x| f64::from(x)))
                .collect()
        };
        let table = |t: &Option<(Matrix, PositionPanels)>| {
            t.as_ref().map_or(Vec::new(), |t| wide(t.0.view()))
        };
        Inputs {
            q: wide(a.q),
            k: wide(a.k),
            v: wide(a.v),
            keys: table(&self.keys),
            queries: table(&self.queries),
        }
    }
}

/// What the twin reads.
#[derive(Clone)]
pub(super) struct Inputs {
    pub(super) q: Vec<f64>,
    pub(super) k: Vec<f64>,
    pub(super) v: Vec<f64>,
    pub(super) keys: Vec<f64>,
    pub(super) queries: Vec<f64>,
}

#[test]
fn dropped_weights_are_those_of_the_mask_however_queries_are_cut() {
    let mut scratch = Scratch::default();
    for kind in KINDS {
        let case = Case::new(kind, 70, 2, 16).dropping(0.25);
        let want = case.naive(&case.inputs());
        let mut out = Matrix::zeros(70, 32);
        case.attention().forward(out.view_mut(), &mut scratch);
        assert_near(&format!("{kind:?}"), out.as_slice(), &want, TOLERANCE);
        let mut part = Matrix::zeros(9, 16);
        let attention = case.attention();
        attention.part(1..2, 40..49, part.view_mut(), &mut scratch);
        for r in 0..9 {
            assert_eq!(part.row(r), &out.row(40 + r)[16..], "{kind:?}");
        }
    }
}

#[test]
fn every_kind_equals_the_twin() {
    let mut scratch = Scratch::default();
    for kind in KINDS {
        for tokens in [1, 2, 7, 16, 17, 33, 130] {
            for width in [8, 16, 20, 32, 64] {
                for (precision, tolerance) in [(Precision::F32, TOLERANCE), (Precision::Bf16, BF16)]
                {
                    let case = Case::new(kind, tokens, 2, width).at(precision);
                    let want = case.naive(&case.inputs());
                    for &level in levels() {
                        let mut out =
                            Matrix::from_vec(vec![f32::NAN; tokens * 2 * width], tokens, 2 * width);
                        case.attention().part_at(
                            level,
                            0..2,
                            0..tokens,
                            out.view_mut(),
                            &mut scratch,
                        );
                        let what = format!(
                            "{kind:?}, {tokens} tokens, width {width}, {precision:?}, {level:?}"
                        );
                        assert_near(&what, out.as_slice(), &want, tolerance);
                    }
                }
            }
        }
    }
}

#[test]
fn no_cut_changes_a_bit() {
    let precisions = [Precision::F32, Precision::Bf16];
    for (kind, precision) in KINDS.into_iter().flat_map(|k| precisions.map(|p| (k, p))) {
        let (tokens, heads, width) = (130, 3, 20);
        let case = Case::new(kind, tokens, heads, width).at(precision);
        let attention = case.attention();
        for &level in levels() {
            let mut whole = Matrix::zeros(tokens, heads * width);
            attention.part_at(
                level,
                0..3,
                0..tokens,
                whole.view_mut(),
                &mut Scratch::default(),
            );
            let mut scratch = Scratch::default();
            for (heads, queries) in [
                (0..1, 0..70),
                (1..3, 0..70),
                (0..2, 70..71),
                (2..3, 71..130),
                (0..1, 33..100),
                (0..3, 9..9),
            ] {
                let mut part = Matrix::zeros(queries.len(), heads.len() * width);
                attention.part_at(
                    level,
                    heads.clone(),
                    queries.clone(),
                    part.view_mut(),
                    &mut scratch,
                );
                for (r, i) in queries.enumerate() {
                    let want = &whole.row(i)[heads.start * width..heads.end * width];
                    assert_eq!(
                        part.row(r),
                        want,
                        "{kind:?} {precision:?} query {i} heads {heads:?} at {level:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn scratch_used_for_longer_sequences_changes_nothing() {
    for kind in [Kind::Plain, Kind::Window(5), Kind::Both(16, 40)] {
        let (short, long) = (Case::new(kind, 17, 2, 16), Case::new(kind, 130, 2, 64));
        let mut fresh = Matrix::zeros(17, 32);
        short
            .attention()
            .forward(fresh.view_mut(), &mut Scratch::default());
        let mut scratch = Scratch::default();
        let mut big = Matrix::zeros(130, 128);
        long.attention().forward(big.view_mut(), &mut scratch);
        let mut again = Matrix::zeros(17, 32);
        short.attention().forward(again.view_mut(), &mut scratch);
        assert!(fresh == again, "{kind:?}");
    }
}

#[test]
fn disentangled_terms_equal_the_reference() {
    // transformers 5.23, DisentangledSelfAttention with 2 heads of 4, position_buckets 4,
    // max_relative_positions 6, c2p and p2c, its projections replaced by the constants below; rows 0, 4 and 8.
    const GOLDEN: [(usize, [f64; 8]); 3] = [
        (
            0,
            [
                0.3643044, -0.0240771, -0.3938588, -0.4593812, 0.1821033, 0.1536596, 0.0065125,
                -0.1456656,
            ],
        ),
        (
            4,
            [
                -0.2489699, -0.3770395, -0.2138428, 0.1145492, 0.4442531, 0.5743164, 0.2607153,
                -0.2542906,
            ],
        ),
        (
            8,
            [
                -0.0101566, -0.1323371, -0.1522861, -0.0545928, 0.0570381, 0.2394407, 0.2368734,
                0.0513193,
            ],
        ),
    ];
    let fill = |rows: usize, a: f64, b: f64| {
        let data = (0..rows * 8)
            .map(|e| (a * e as f64 + b).sin() as f32)
            .collect();
        Matrix::from_vec(data, rows, 8)
    };
    let (q, k, v) = (fill(9, 0.37, 0.2), fill(9, 0.53, 1.1), fill(9, 0.91, 2.3));
    let distances = Distances::new(4, 6, 9);
    let keys = PositionPanels::new(Precision::F32, fill(8, 0.61, 0.4).view(), 2);
    let queries = PositionPanels::new(Precision::F32, fill(8, 0.29, 0.9).view(), 2);
    let relative = Relative {
        distances: &distances,
        keys: Some(&keys),
        queries: Some(&queries),
    };
    let attention = Attention {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        heads: 2,
        scale: relative.scale(4),
        window: None,
        positions: Positions::Relative(relative),
        dropout: None,
        precision: Precision::F32,
    };
    let mut out = Matrix::zeros(9, 8);
    attention.forward(out.view_mut(), &mut Scratch::default());
    for (row, want) in GOLDEN {
        // The reference is f32 too.
        assert_near(&format!("row {row}"), out.row(row), &want, 5e-7);
    }
}
