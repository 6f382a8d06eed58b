//! The gradient of a layer, from its output's to its input's, through what a hook recorded on the way up.

use super::{Block, Pass};
use crate::{
    mat::{Mat, Matrix},
    model::{
        attention,
        backward::{Gradients, Recorded},
        hook::Place,
        linear::{
            Linear,
            backward::{InputGradient, Trained, Transposed},
        },
        norm::Norm,
        parameters::NormAt,
        task::Task,
    },
    spec::{Mlp, Order},
};

/// What is the same for every layer of one backward pass.
pub struct Back<'a, R> {
    /// As in forward; all rows are of one task.
    pub pass: Pass<'a>,
    /// What forward left.
    pub recorded: &'a R,
    /// What `dx = dy W` reads.
    pub transposed: &'a Transposed,
    /// Whether anything below the lowest layer wants the gradient of its input.
    pub below: bool,
    /// The lowest layer with something to train.
    pub lowest: usize,
}

impl<R> std::fmt::Debug for Back<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Back")
            .field("pass", &self.pass)
            .finish_non_exhaustive()
    }
}

/// Buffers of a backward pass; they keep their allocation.
#[derive(Debug, Default)]
pub struct Scratch {
    half: Matrix,
    wide: Matrix,
    ffn: Matrix,
}

impl<'a, R: Recorded> Back<'a, R> {
    fn linear(
        &self,
        linear: &Linear,
        x: Mat<'_>,
        dy: Mat<'_>,
        gradients: &mut Gradients,
        dx: InputGradient<'_>,
    ) {
        let trained = Trained::at(linear, self.task(), gradients);
        linear.backward(self.transposed, x, dy, trained, dx);
    }

    /// The task of all rows.
    fn task(&self) -> Option<&'a Task> {
        let group = self.pass.batch.groups().first()?;
        Some(self.pass.tasks[group.task])
    }
}

impl Block {
    /// The gradient `d [T x H]` of the layer's output becomes that of its input. Where nothing below is trained,
    /// `d` holds nothing of use afterwards.
    pub fn backward<R: Recorded>(
        &self,
        back: &Back<'_, R>,
        layer: usize,
        d: &mut Matrix,
        w: &mut Scratch,
        gradients: &mut Gradients,
    ) {
        let at = |place| back.recorded.at(place, layer);
        let number = self.spec.weights_of;
        match self.spec.order {
            Order::Post => {
                // x = norm(x + mlp(x))
                let x = at(Place::MlpSum);
                let trained = gradients.base.norms.get_mut(&NormAt::Mlp(number));
                norm_backward(&self.mlp_norm, x, d, &mut w.half, trained);
                self.mlp_backward(back, layer, d, w, gradients, false);
                // x = norm(x + attention(x))
                if let Some(norm) = &self.attn_norm {
                    let x = at(Place::AttnSum);
                    let trained = gradients.base.norms.get_mut(&NormAt::Attention(number));
                    norm_backward(norm, x, d, &mut w.half, trained);
                }
                self.attention_backward(back, layer, d, w, gradients, false);
            }
            Order::Pre => {
                // x = x + mlp(norm(x))
                self.mlp_backward(back, layer, d, w, gradients, true);
                let trained = gradients.base.norms.get_mut(&NormAt::Mlp(number));
                through(&self.mlp_norm, at(Place::AttnSum), d, w, trained);
                // x = x + attention(norm(x))
                let normed = self.attn_norm.is_some();
                self.attention_backward(back, layer, d, w, gradients, normed);
                if let (Some(norm), true) = (&self.attn_norm, back.below || layer > back.lowest) {
                    let x = match layer {
                        0 => back.recorded.at(Place::Embedded, 0),
                        _ => back.recorded.at(Place::LayerOut, layer - 1),
                    };
                    let trained = gradients.base.norms.get_mut(&NormAt::Attention(number));
                    through(norm, x, d, w, trained);
                }
            }
        }
    }

    /// From `d`, the gradient of the half's output, to that of its input: into `w.half` where it was `normed`, added
    /// to `d` otherwise.
    fn mlp_backward<R: Recorded>(
        &self,
        back: &Back<'_, R>,
        layer: usize,
        d: &mut Matrix,
        w: &mut Scratch,
        gradients: &mut Gradients,
        normed: bool,
    ) {
        let (t, h) = (d.rows(), d.cols());
        let at = |place| back.recorded.at(place, layer);
        let active = at(Place::MlpActive);
        let f = active.cols();
        let dy = masked(back, Place::MlpOut, layer, d, &mut w.half);
        // y = a Wt
        let dx = InputGradient::Write(w.ffn.reshape(t, f));
        back.linear(&self.mlp_out, active, dy, gradients, dx);
        back.recorded
            .backward(Place::MlpActive, layer, w.ffn.view_mut());
        let before = at(Place::MlpIn);
        let act = self.spec.activation;
        let mut dh = w.wide.reshape(t, before.cols());
        let gated = self.spec.mlp == Mlp::Gated;
        let mut active = vec![0.0; f];
        for r in 0..t {
            let da = w.ffn.row(r);
            if !gated {
                // a = act(h)
                act.backward(before.row(r), da, dh.row_mut(r));
                continue;
            }
            // a = act(p) q for p | q = h
            let (p, q) = before.row(r).split_at(f);
            let (dp, dq) = dh.row_mut(r).split_at_mut(f);
            active.copy_from_slice(p);
            act.apply(&mut active);
            for i in 0..f {
                dq[i] = da[i] * active[i];
                active[i] = da[i] * q[i];
            }
            act.backward(p, &active, dp);
        }
        let to = match normed {
            true => InputGradient::Write(w.half.reshape(t, h)),
            false => InputGradient::Add(d.view_mut()),
        };
        back.linear(
            &self.mlp_in,
            at(Place::MlpInput),
            w.wide.view(),
            gradients,
            to,
        );
    }

    fn attention_backward<R: Recorded>(
        &self,
        back: &Back<'_, R>,
        layer: usize,
        d: &mut Matrix,
        w: &mut Scratch,
        gradients: &mut Gradients,
        normed: bool,
    ) {
        let (t, h) = (d.rows(), d.cols());
        let at = |place| back.recorded.at(place, layer);
        let dy = masked(back, Place::AttnOut, layer, d, &mut w.half);
        // y = context Wt
        let dx = InputGradient::Write(w.ffn.reshape(t, h));
        back.linear(&self.attn_out, at(Place::Context), dy, gradients, dx);
        let own = Trained::at(self.projects_positions(), back.task(), gradients);
        attention::backward::backward(
            self,
            back.pass,
            layer,
            at(Place::Qkv),
            w.ffn.view(),
            w.wide.reshape(t, 3 * h),
            back.transposed,
            own,
        );
        let to = match (back.below || layer > back.lowest, normed) {
            (false, _) => InputGradient::None,
            (true, true) => InputGradient::Write(w.half.reshape(t, h)),
            (true, false) => InputGradient::Add(d.view_mut()),
        };
        back.linear(
            &self.qkv,
            at(Place::AttnInput),
            w.wide.view(),
            gradients,
            to,
        );
    }
}

/// The gradient of a half's output before whatever the hook did to it there: `d` itself where it did nothing.
fn masked<'m, R: Recorded>(
    back: &Back<'_, R>,
    place: Place,
    layer: usize,
    d: &'m Matrix,
    scratch: &'m mut Matrix,
) -> Mat<'m> {
    if !back.recorded.changes(place) {
        return d.view();
    }
    let mut to = scratch.reshape(d.rows(), d.cols());
    to.copy_from(d.view());
    back.recorded.backward(place, layer, to);
    scratch.view()
}

/// `d`, the gradient of `norm(x)`, becomes that of `x`.
fn norm_backward(
    norm: &Norm,
    x: Mat<'_>,
    d: &mut Matrix,
    scratch: &mut Matrix,
    trained: Option<&mut (Matrix, Matrix)>,
) {
    norm.backward(x, d.view(), scratch.reshape(x.rows(), x.cols()), trained);
    std::mem::swap(d, scratch);
}

/// `d += norm'(x) half`: the gradient that came back through a half joins the stream.
fn through(
    norm: &Norm,
    x: Mat<'_>,
    d: &mut Matrix,
    w: &mut Scratch,
    trained: Option<&mut (Matrix, Matrix)>,
) {
    let mut dx = w.ffn.reshape(x.rows(), x.cols());
    norm.backward(x, w.half.view(), dx.reborrow(), trained);
    let mut d = d.view_mut();
    for r in 0..x.rows() {
        let to = d.row_mut(r).iter_mut();
        to.zip(dx.as_ref().row(r)).for_each(|(d, x)| *d += x);
    }
}
