//! The gradient of a linear with low-rank factors: to its input, to the factors, to its weight and bias.
//!
//! The base's weight is mostly frozen, so of it only `dx = dy W` is needed. That product runs on panels of the
//! transposed weight ([`Transposed`]), packed once when training starts; what comes back through the factors continues
//! its sums. The factors' own gradients are sums over tokens of outer products, a block of tokens at a time.
//! Nothing of the forward pass is kept but `x`: `t = x At` is computed again.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    kernel::{
        dropout::Dropout,
        gemm::gemm,
        outer::{BLOCK, add_outer},
        panel::{Init, OwnedPanels, Panels, Part, Precision, Product, unpack},
        ranks::ranks_into,
    },
    mat::{Mat, MatMut, Matrix},
    model::{
        backward::Gradients,
        linear::{Linear, LowRank, Weight, probe::Probe},
        task::Task,
    },
    weights::Packed,
};

/// Panels of the transposed base linears, by slot: what `dx = dy W` reads.
#[derive(Debug, Default)]
pub struct Transposed(Vec<Option<OwnedPanels>>);

impl Transposed {
    /// Transposes every base linear of `packed` that `wanted` names by its slot.
    ///
    /// An int8 base is multiplied back to f32; the others keep their precision.
    pub fn new(packed: &Packed, wanted: impl Fn(usize) -> bool + Sync) -> Self {
        let transpose = |slot: usize| {
            let shape = packed.shape(slot);
            let mut w = Matrix::zeros(shape.n, shape.k);
            unpack(packed.panels(slot).bytes(), shape, w.view_mut());
            let precision = match shape.precision {
                Precision::Int8 => Precision::F32,
                other => other,
            };
            OwnedPanels::pack(transposed_of(w.view()).view(), precision, false)
        };
        Self(
            (0..packed.slots())
                .into_par_iter()
                .map(|s| wanted(s).then(|| transpose(s)))
                .collect(),
        )
    }

    /// The transposed weight of `slot`.
    fn panels(&self, slot: usize) -> Panels<'_> {
        let w = self.0.get(slot).and_then(Option::as_ref);
        w.expect("every linear that a gradient passes through was transposed")
            .view()
    }
}

/// `x` with rows and columns exchanged.
pub fn transposed_of(x: Mat<'_>) -> Matrix {
    let mut out = Matrix::zeros(x.cols(), x.rows());
    let mut to = out.view_mut();
    for r in 0..x.rows() {
        for (c, &v) in x.row(r).iter().enumerate() {
            to.row_mut(c)[r] = v;
        }
    }
    out
}

/// Gradients of a [`LowRank`], shaped as its factors.
#[derive(Debug, Clone)]
pub struct LowRankGradient {
    /// Of A of all parts, stacked: `[R x K]`.
    pub down: Matrix,
    /// Of B with the scale folded in, one a part, transposed: `[ranks x columns]`.
    pub up: Vec<Matrix>,
}

impl LowRankGradient {
    /// Zeros for `factors`.
    pub fn zeros(factors: &LowRank) -> Self {
        let down = &factors.down;
        let up = factors.parts.iter();
        Self {
            down: Matrix::zeros(down.rows(), down.cols()),
            up: up
                .map(|p| Matrix::zeros(p.ranks.len(), p.columns.len()))
                .collect(),
        }
    }

    /// Adds another's elements to its own.
    pub fn add(&mut self, other: &LowRankGradient) {
        add(&mut self.down, &other.down);
        for (to, from) in self.up.iter_mut().zip(&other.up) {
            add(to, from);
        }
    }
}

/// `to += from`
pub fn add(to: &mut Matrix, from: &Matrix) {
    assert_eq!((to.rows(), to.cols()), (from.rows(), from.cols()));
    let mut view = to.view_mut();
    for r in 0..from.rows() {
        for (to, from) in view.row_mut(r).iter_mut().zip(from.row(r)) {
            *to += from;
        }
    }
}

/// Where the gradient of a linear's input goes.
#[derive(Debug)]
pub enum InputGradient<'a> {
    /// Nobody below wants it.
    None,
    /// Written.
    Write(MatMut<'a>),
    /// Added to what is there.
    Add(MatMut<'a>),
}

/// What is trained at one linear: where gradients go.
#[derive(Debug, Default)]
pub struct Trained<'t, 'g> {
    /// What a task adds here.
    pub factors: Option<(&'t LowRank, &'g mut LowRankGradient)>,
    /// `[N x K]`
    pub weight: Option<&'g mut Matrix>,
    /// `[1 x N]`
    pub bias: Option<&'g mut Matrix>,
    /// Closed ranks.
    pub probe: Option<&'g mut Probe>,
    /// What dropped elements of the input that factors and closed ranks read.
    pub dropout: Option<Dropout>,
}

impl<'t, 'g> Trained<'t, 'g> {
    /// What `task` and `gradients` say of `linear`.
    pub fn at(linear: &Linear, task: Option<&'t Task>, gradients: &'g mut Gradients) -> Self {
        let Some(slot) = linear.slot else {
            return Self::default();
        };
        let factors = task.and_then(|t| t.factors.get(slot)?.as_ref());
        let gradient = gradients.factors.get_mut(slot).and_then(Option::as_mut);
        let (weights, biases) = (&mut gradients.base.weights, &mut gradients.base.biases);
        Self {
            factors: factors.zip(gradient),
            weight: weights.get_mut(slot).and_then(Option::as_mut),
            bias: biases.get_mut(slot).and_then(Option::as_mut),
            probe: gradients.probes.get_mut(slot).and_then(Option::as_mut),
            dropout: None,
        }
    }
}

impl Linear {
    /// The gradients of [`Linear::forward`] without epilogue, all rows being of one task.
    ///
    /// `x [T x K]`, `dy [T x N]`, `dx [T x K]`; what is `trained` is added to.
    pub fn backward(
        &self,
        transposed: &Transposed,
        x: Mat<'_>,
        dy: Mat<'_>,
        trained: Trained<'_, '_>,
        dx: InputGradient<'_>,
    ) {
        // y = x Wt + b
        if let Some(dw) = trained.weight {
            gemm(dw.view_mut(), 1.0, 1.0, dy, true, x, false);
        }
        if let Some(db) = trained.bias {
            add_rows(dy, db);
        }
        let dropped = trained.dropout.map(|dropout| {
            let mut to = Matrix::zeros(x.rows(), x.cols());
            to.view_mut().copy_from(x);
            dropout.rows(to.view_mut());
            to
        });
        let read = dropped.as_ref().map_or(x, Matrix::view);
        if let Some(probe) = trained.probe {
            probe.add(read, dy);
        }
        let (wanted, init) = match &dx {
            InputGradient::None => (false, Init::Zero),
            InputGradient::Write(_) => (true, Init::Zero),
            InputGradient::Add(_) => (true, Init::Keep),
        };
        let mut dt = Matrix::default();
        // What comes back through the factors: as a continuation of the sums, or where it is masked as its own matrix.
        let (mut down, mut through_mask) = (None, None);
        if let Some((factors, gradient)) = trained.factors {
            let mut dt = dt.reshape(x.rows(), factors.down.rows());
            factors_backward(factors, gradient, read, dy, dt.reborrow());
            // t = x At, so dx += dt A
            if let (Some(dropout), true) = (trained.dropout, wanted) {
                let mut dx = Matrix::zeros(x.rows(), x.cols());
                let a = factors.down.view();
                gemm(dx.view_mut(), 0.0, 1.0, dt.as_ref(), false, a, false);
                dropout.rows(dx.view_mut());
                through_mask = Some(dx);
            }
            down = (wanted && trained.dropout.is_none()).then(|| {
                let turned = transposed_of(factors.down.view());
                OwnedPanels::pack(turned.view(), Precision::F32, false)
            });
        }
        let (InputGradient::Write(dx) | InputGradient::Add(dx)) = dx else {
            return;
        };
        let Weight::Base(slot) = self.weight else {
            unreachable!("head layers have a gradient of their own");
        };
        let product = Product {
            x: dy,
            w: transposed.panels(slot),
            init,
            activation: None,
            residual: None,
        };
        let part = down.as_ref().map(|up| Part {
            rows: 0..dx.rows(),
            columns: 0..dx.cols(),
            t: dt.view(),
            up: up.view(),
        });
        let mut dx = dx;
        product.into_with_parts(part.as_slice(), dx.reborrow());
        if let Some(masked) = through_mask {
            for r in 0..dx.rows() {
                let to = dx.row_mut(r).iter_mut();
                to.zip(masked.row(r)).for_each(|(to, d)| *to += d);
            }
        }
    }
}

/// The gradients of `y += t Bt`, `t = x At`: those of the factors are added to, that of `t` is written to `dt [T x R]`.
fn factors_backward(
    factors: &LowRank,
    gradient: &mut LowRankGradient,
    x: Mat<'_>,
    dy: Mat<'_>,
    mut dt: MatMut<'_>,
) {
    let ups: Vec<Matrix> = (factors.parts.iter())
        .map(|part| transposed_of(part.up.unpack().view()))
        .collect();
    let mut t = Matrix::zeros(BLOCK, factors.down.rows());
    for rows in blocks(x.rows()) {
        let (x, dy) = (x.row_range(rows.clone()), dy.row_range(rows.clone()));
        let mut t = t.view_mut().row_range(0..rows.len());
        let mut dt = dt.reborrow().row_range(rows);
        // Rows are read from end to end first, as memory likes it; the sums then find them near.
        ranks_into(x, factors.down.view(), t.reborrow());
        for (part, up) in factors.parts.iter().zip(&ups) {
            let dy = dy.col_range(part.columns.clone());
            ranks_into(dy, up.view(), dt.reborrow().col_range(part.ranks.clone()));
        }
        for (part, dup) in factors.parts.iter().zip(&mut gradient.up) {
            let t = t.as_ref().col_range(part.ranks.clone());
            add_outer(t, dy.col_range(part.columns.clone()), dup.view_mut());
        }
        add_outer(dt.as_ref(), x, gradient.down.view_mut());
    }
}

/// `0..rows` in blocks.
fn blocks(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows)
        .step_by(BLOCK)
        .map(move |start| start..rows.min(start + BLOCK))
}

/// `to += ` the sum of the rows of `x`.
pub fn add_rows(x: Mat<'_>, to: &mut Matrix) {
    let mut to = to.view_mut();
    for r in 0..x.rows() {
        let to = to.row_mut(0).iter_mut();
        to.zip(x.row(r)).for_each(|(to, x)| *to += x);
    }
}
