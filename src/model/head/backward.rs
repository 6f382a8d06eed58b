//! The gradient of a classification head: to its input and to all of its weights.
//!
//! Heads are small and run on a few rows, so everything goes through `gemm` on unpacked weights, and the forward
//! pass is computed again from its input.

use crate::{
    kernel::gemm::gemm,
    mat::{Mat, Matrix},
    model::{
        head::Head,
        linear::{Linear, Weight, backward::add},
    },
};

/// Gradients of a head's weights, shaped as they are.
#[derive(Debug, Clone, Default)]
pub struct HeadGradient {
    /// Of the dense layer.
    pub dense: Option<LayerGradient>,
    /// Of the norm after it: weight and bias, `[1 x H]` each (the bias unused where there is none).
    pub norm: Option<(Matrix, Matrix)>,
    /// Of the output layer.
    pub out: LayerGradient,
}

/// Gradients of one layer of a head.
#[derive(Debug, Clone, Default)]
pub struct LayerGradient {
    /// `[N x K]`
    pub weight: Matrix,
    /// `[1 x N]`, unused where there is no bias.
    pub bias: Matrix,
}

impl LayerGradient {
    fn zeros(linear: &Linear) -> Self {
        let w = own(linear).shape();
        Self {
            weight: Matrix::zeros(w.n, w.k),
            bias: Matrix::zeros(1, w.n),
        }
    }

    fn add(&mut self, other: &Self) {
        add(&mut self.weight, &other.weight);
        add(&mut self.bias, &other.bias);
    }
}

impl HeadGradient {
    /// Zeros for `head`.
    pub fn zeros(head: &Head) -> Self {
        let dense = head.dense.as_ref();
        let norm = dense.and_then(|d| d.norm.as_ref()).map(|n| {
            let row = || Matrix::zeros(1, n.gamma.len());
            (row(), row())
        });
        Self {
            dense: dense.map(|d| LayerGradient::zeros(&d.linear)),
            norm,
            out: LayerGradient::zeros(&head.out),
        }
    }

    /// Adds another's elements to its own.
    pub fn add(&mut self, other: &Self) {
        if let (Some(to), Some(from)) = (&mut self.dense, &other.dense) {
            to.add(from);
        }
        if let (Some(to), Some(from)) = (&mut self.norm, &other.norm) {
            add(&mut to.0, &from.0);
            add(&mut to.1, &from.1);
        }
        self.out.add(&other.out);
    }
}

impl Head {
    /// The gradients of [`Head::forward`] at `x [R x H]`, given `dlogits [R x labels]`: those of the weights are added
    /// to `gradient`, that of `x` is returned.
    pub fn backward(&self, x: Mat<'_>, dlogits: Mat<'_>, gradient: &mut HeadGradient) -> Matrix {
        let Some(dense) = &self.dense else {
            return layer(&self.out, x, dlogits, &mut gradient.out);
        };
        // z = x Wt + b; a = act(z); h = norm(a); logits = h Ot + c
        let w = own(&dense.linear).unpack();
        let mut z = Matrix::zeros(x.rows(), w.rows());
        gemm(z.view_mut(), 0.0, 1.0, x, false, w.view(), true);
        let mut view = z.view_mut();
        for r in 0..x.rows() {
            let bias = dense.linear.bias.iter().flatten();
            view.row_mut(r)
                .iter_mut()
                .zip(bias)
                .for_each(|(z, b)| *z += b);
        }
        let mut a = z.clone();
        let mut view = a.view_mut();
        (0..x.rows()).for_each(|r| dense.activation.apply(view.row_mut(r)));
        let mut dh = match &dense.norm {
            None => layer(&self.out, a.view(), dlogits, &mut gradient.out),
            Some(norm) => {
                let mut h = a.clone();
                norm.forward(h.view_mut());
                let dh = layer(&self.out, h.view(), dlogits, &mut gradient.out);
                let mut da = Matrix::zeros(a.rows(), a.cols());
                norm.backward(a.view(), dh.view(), da.view_mut(), gradient.norm.as_mut());
                da
            }
        };
        let mut view = dh.view_mut();
        let mut dz = vec![0.0; z.cols()];
        for r in 0..x.rows() {
            dense
                .activation
                .backward(z.row(r), view.row_mut(r), &mut dz);
            view.row_mut(r).copy_from_slice(&dz);
        }
        let of_dense = gradient.dense.get_or_insert_default();
        layer(&dense.linear, x, dh.view(), of_dense)
    }
}

/// `y = x Wt + b`: `dW += dyt x`, `db += sum dy`, returns `dx = dy W`.
fn layer(linear: &Linear, x: Mat<'_>, dy: Mat<'_>, gradient: &mut LayerGradient) -> Matrix {
    gemm(gradient.weight.view_mut(), 1.0, 1.0, dy, true, x, false);
    let mut bias = gradient.bias.view_mut();
    for r in 0..dy.rows() {
        bias.row_mut(0)
            .iter_mut()
            .zip(dy.row(r))
            .for_each(|(b, d)| *b += d);
    }
    let mut dx = Matrix::zeros(x.rows(), x.cols());
    let w = own(linear).unpack();
    gemm(dx.view_mut(), 0.0, 1.0, dy, false, w.view(), false);
    dx
}

/// The weight of a head's layer.
pub fn own(linear: &Linear) -> &crate::kernel::panel::OwnedPanels {
    match &linear.weight {
        Weight::Own(w) => w,
        Weight::Base(_) => unreachable!("head weights are a task's own"),
    }
}
