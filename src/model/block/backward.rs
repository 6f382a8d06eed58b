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
    /// Norms whose answers are the inputs of layers, where the stream itself was not recorded: the layers.
    pub blocks: &'a [Block],
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
    /// What a linear read, made again.
    input: Matrix,
}

impl<'a, R: Recorded> Back<'a, R> {
    fn linear(
        &self,
        linear: &Linear,
        layer: usize,
        x: Mat<'_>,
        dy: Mat<'_>,
        gradients: &mut Gradients,
        dx: InputGradient<'_>,
    ) {
        let mut trained = Trained::at(linear, self.task(), gradients);
        trained.dropout = (linear.slot).and_then(|s| self.recorded.factor_dropout(layer, s));
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
        let at = |place| back.recorded.kept(place, layer);
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
                        0 => back.recorded.kept(Place::Embedded, 0),
                        _ => back.recorded.kept(Place::LayerOut, layer - 1),
                    };
                    let trained = gradients.base.norms.get_mut(&NormAt::Attention(number));
                    through(norm, x, d, w, trained);
                }
            }
        }
    }

    /// What the feed-forward half read: its norm's answer, or the stream after the attention half, normed or not.
    fn mlp_input<R: Recorded>(&self, back: &Back<'_, R>, layer: usize, to: &mut Matrix) {
        let norm = match self.spec.order {
            Order::Post => self.attn_norm.as_ref(),
            Order::Pre => Some(&self.mlp_norm),
        };
        normed(norm, back.recorded.kept(Place::AttnSum, layer), to);
    }

    /// What the attention half read: likewise of the stream that came into the layer.
    fn attention_input<R: Recorded>(&self, back: &Back<'_, R>, layer: usize, to: &mut Matrix) {
        let norm = match self.spec.order {
            Order::Post => None,
            Order::Pre => self.attn_norm.as_ref(),
        };
        match layer.checked_sub(1) {
            None => normed(norm, back.recorded.kept(Place::Embedded, 0), to),
            Some(under) if back.recorded.has(Place::LayerOut, under) => {
                normed(norm, back.recorded.kept(Place::LayerOut, under), to);
            }
            // Only a layer that norms last can be made again from its sum.
            Some(under) => {
                let sum = back.recorded.kept(Place::MlpSum, under);
                normed(Some(&back.blocks[under].mlp_norm), sum, to);
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
        let before = back.recorded.kept(Place::MlpIn, layer);
        let gated = self.spec.mlp != Mlp::Plain;
        let f = if gated {
            before.cols() / 2
        } else {
            before.cols()
        };
        let mut active = w.input.reshape(t, f);
        for r in 0..t {
            self.activate(before.row(r), active.row_mut(r));
        }
        let dy = masked(back, Place::MlpOut, layer, d, &mut w.half);
        // y = a Wt
        let dx = InputGradient::Write(w.ffn.reshape(t, f));
        back.linear(&self.mlp_out, layer, w.input.view(), dy, gradients, dx);
        let mut dh = w.wide.reshape(t, before.cols());
        let mut scratch = if gated { vec![0.0; f] } else { Vec::new() };
        for r in 0..t {
            self.activation_backward(before.row(r), w.ffn.row(r), dh.row_mut(r), &mut scratch);
        }
        self.mlp_input(back, layer, &mut w.input);
        let to = match normed {
            true => InputGradient::Write(w.half.reshape(t, h)),
            false => InputGradient::Add(d.view_mut()),
        };
        back.linear(
            &self.mlp_in,
            layer,
            w.input.view(),
            w.wide.view(),
            gradients,
            to,
        );
    }

    /// What forward makes of a row of the first linear's answer: `a = act(h)`, or `act(p) q` for `p | q` (`q | p` where
    /// the second half is the activated one) = h.
    fn activate(&self, h: &[f32], a: &mut [f32]) {
        if self.spec.mlp == Mlp::Plain {
            a.copy_from_slice(h);
            return self.spec.activation.apply(a);
        }
        let (p, q) = self.halves(h);
        a.copy_from_slice(p);
        self.spec.activation.apply(a);
        a.iter_mut().zip(q).for_each(|(a, q)| *a *= q);
    }

    /// The gradient of [`Block::activate`].
    fn activation_backward(&self, h: &[f32], da: &[f32], dh: &mut [f32], scratch: &mut [f32]) {
        let act = self.spec.activation;
        if self.spec.mlp == Mlp::Plain {
            return act.backward(h, da, dh);
        }
        let (p, q) = self.halves(h);
        let (first, second) = dh.split_at_mut(p.len());
        let (dp, dq) = match self.spec.mlp {
            Mlp::GatedSecond => (second, first),
            _ => (first, second),
        };
        dq.copy_from_slice(p);
        act.apply(dq);
        for i in 0..p.len() {
            dq[i] *= da[i];
            scratch[i] = da[i] * q[i];
        }
        act.backward(p, scratch, dp);
    }

    /// The activated half of a gated row, and the other.
    fn halves<'h>(&self, h: &'h [f32]) -> (&'h [f32], &'h [f32]) {
        let (first, second) = h.split_at(h.len() / 2);
        match self.spec.mlp {
            Mlp::GatedSecond => (second, first),
            _ => (first, second),
        }
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
        let at = |place| back.recorded.kept(place, layer);
        let dy = masked(back, Place::AttnOut, layer, d, &mut w.half);
        // y = context Wt
        let dx = InputGradient::Write(w.ffn.reshape(t, h));
        back.linear(&self.attn_out, layer, at(Place::Context), dy, gradients, dx);
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
            back.recorded,
        );
        self.attention_input(back, layer, &mut w.input);
        let to = match (back.below || layer > back.lowest, normed) {
            (false, _) => InputGradient::None,
            (true, true) => InputGradient::Write(w.half.reshape(t, h)),
            (true, false) => InputGradient::Add(d.view_mut()),
        };
        back.linear(
            &self.qkv,
            layer,
            w.input.view(),
            w.wide.view(),
            gradients,
            to,
        );
    }
}

/// `to = norm(x)`, or `x` itself where there is no norm.
fn normed(norm: Option<&Norm>, x: Mat<'_>, to: &mut Matrix) {
    let mut to = to.reshape(x.rows(), x.cols());
    match norm {
        Some(norm) => norm.forward_into(x, to),
        None => to.copy_from(x),
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
