//! The gradient of a linear with low-rank factors: to its input, and to the factors.
//!
//! The base's weight is frozen, so of it only `dx = dy W` is needed. That product runs on panels of the
//! transposed weight ([`Transposed`]), packed once when training starts. Factors are small; theirs go through
//! `gemm`. Nothing of the forward pass is kept but `x`: `t = x At` is computed again.

use crate::{
    kernel::{
        gemm::gemm,
        panel::{Init, OwnedPanels, Panels, Precision, Product, unpack},
    },
    mat::{Mat, MatMut, Matrix},
    model::linear::{Linear, LowRank, Weight},
    weights::Packed,
};

/// Panels of the transposed base linears, by slot: what `dx = dy W` reads.
#[derive(Debug, Default)]
pub struct Transposed(Vec<Option<OwnedPanels>>);

impl Transposed {
    /// Transposes every base linear of `packed` that `wanted` names by its slot.
    ///
    /// An int8 base is multiplied back to f32; the others keep their precision.
    pub fn new(packed: &Packed, wanted: impl Fn(usize) -> bool) -> Self {
        let transpose = |slot: usize| {
            let shape = packed.shape(slot);
            let mut w = Matrix::zeros(shape.n, shape.k);
            unpack(packed.panels(slot).bytes(), shape, w.view_mut());
            let precision = match shape.precision {
                Precision::Int8 => Precision::F32,
                other => other,
            };
            OwnedPanels::pack(transposed(w.view()).view(), precision, false)
        };
        Self(
            (0..packed.slots())
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
pub fn transposed(x: Mat<'_>) -> Matrix {
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
    /// Of B with the scale folded in, one a part: `[columns x ranks]`.
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
                .map(|p| Matrix::zeros(p.columns.len(), p.ranks.len()))
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

impl Linear {
    /// The gradients of [`Linear::forward`] without epilogue, all rows being of one task.
    ///
    /// `x [T x K]`, `dy [T x N]`, `dx [T x K]`; `factors` are what forward added here, and their gradient is added to.
    pub fn backward(
        &self,
        transposed: &Transposed,
        x: Mat<'_>,
        dy: Mat<'_>,
        factors: Option<(&LowRank, &mut LowRankGradient)>,
        dx: InputGradient<'_>,
    ) {
        // y = x Wt + b
        let mut dx = match dx {
            InputGradient::None => None,
            InputGradient::Write(dx) => Some(self.base_backward(transposed, dy, Init::Zero, dx)),
            InputGradient::Add(dx) => Some(self.base_backward(transposed, dy, Init::Keep, dx)),
        };
        let Some((factors, gradient)) = factors else {
            return;
        };
        let (tokens, rank) = (x.rows(), factors.down.rows());
        let a = &factors.down;
        let mut t = Matrix::zeros(tokens, rank);
        gemm(t.view_mut(), 0.0, 1.0, x, false, a.view(), true);
        let mut dt = Matrix::zeros(tokens, rank);
        for (part, dup) in factors.parts.iter().zip(&mut gradient.up) {
            let up = part.up.unpack();
            let dy = dy.col_range(part.columns.clone());
            // y_part += t_part Bt
            let t = t.view().col_range(part.ranks.clone());
            gemm(dup.view_mut(), 1.0, 1.0, dy, true, t, false);
            let dt = dt.view_mut().col_range(part.ranks.clone());
            gemm(dt, 0.0, 1.0, dy, false, up.view(), false);
        }
        // t = x At
        gemm(
            gradient.down.view_mut(),
            1.0,
            1.0,
            dt.view(),
            true,
            x,
            false,
        );
        if let Some(dx) = &mut dx {
            gemm(dx.reborrow(), 1.0, 1.0, dt.view(), false, a.view(), false);
        }
    }

    fn base_backward<'a>(
        &self,
        transposed: &Transposed,
        dy: Mat<'_>,
        init: Init<'_>,
        mut dx: MatMut<'a>,
    ) -> MatMut<'a> {
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
        product.into(dx.reborrow());
        dx
    }
}
