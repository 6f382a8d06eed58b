//! One layer of the encoder: attention and a feed-forward block, post-norm or pre-norm.

pub mod backward;

use crate::{
    kernel::activation::Activation,
    mat::{MatMut, Matrix},
    model::{
        attention::{self, LayerPositions},
        batch::Batch,
        hook::{Hook, Place},
        linear::{Epilogue, Linear},
        norm::Norm,
        task::{Task, factors_at},
    },
    spec::{LayerSpec, Mlp, Order},
    weights::Packed,
};

/// The weights of one layer.
#[derive(Debug, Clone)]
pub struct Block {
    /// Its facts.
    pub spec: LayerSpec,
    /// `[3H x H]`, q|k|v.
    pub qkv: Linear,
    /// `[H x H]`
    pub attn_out: Linear,
    /// `[F x H]`, gated `[2F x H]`.
    pub mlp_in: Linear,
    /// `[H x F]`
    pub mlp_out: Linear,
    /// Norm of the attention half.
    pub attn_norm: Option<Norm>,
    /// Norm of the feed-forward half.
    pub mlp_norm: Norm,
    /// Projections of relative positions, where they are not the layer's q and k: keys, then queries.
    pub own_positions: Option<Linear>,
    /// What attention knows of positions.
    pub positions: LayerPositions,
}

/// What is the same for every layer of one pass.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The packed base.
    pub packed: &'a Packed,
    /// The rows.
    pub batch: &'a Batch,
    /// The tasks its groups name.
    pub tasks: &'a [&'a Task],
    /// Attention heads.
    pub heads: usize,
    /// Threads inside an op.
    pub threads: usize,
}

/// Buffers between ops; they keep their allocation from batch to batch.
#[derive(Debug, Default)]
pub struct Workspace {
    /// The residual stream, `[T x H]`.
    pub x: Matrix,
    /// `[T x 3H]`
    pub qkv: Matrix,
    /// `[T x H]`
    pub context: Matrix,
    /// `[T x H]`: a half's result or its normed input.
    pub half: Matrix,
    /// `[T x F]` or `[T x 2F]`
    pub ffn: Matrix,
    /// `[T x F]` of a gated block.
    pub gated: Matrix,
    /// Embedding rows where they are not H wide.
    pub wide: Matrix,
}

impl Pass<'_> {
    fn linear<H: Hook>(
        &self,
        linear: &Linear,
        x: &Matrix,
        epilogue: Epilogue<'_>,
        y: MatMut<'_>,
        (hook, layer): (&H, usize),
    ) {
        let mut groups = linear
            .slot
            .map(|s| factors_at(self.batch, self.tasks, s))
            .unwrap_or_default();
        let dropout = linear.slot.and_then(|s| hook.factor_dropout(layer, s));
        let dropped = dropout.filter(|_| !groups.is_empty()).map(|dropout| {
            let mut x = x.clone();
            dropout.rows(x.view_mut());
            x
        });
        for group in &mut groups {
            group.input = dropped.as_ref().map(Matrix::view);
        }
        linear.forward(self.packed, x.view(), &groups, epilogue, y, self.threads);
    }
}

impl Block {
    /// The linear that projects relative positions.
    pub fn projects_positions(&self) -> &Linear {
        self.own_positions.as_ref().unwrap_or(&self.qkv)
    }

    /// Where tasks keep their factors for this layer's linears.
    pub fn slots(&self) -> impl Iterator<Item = usize> {
        let linears = [&self.qkv, &self.attn_out, &self.mlp_in, &self.mlp_out];
        let linears = linears.into_iter().chain(&self.own_positions);
        linears.filter_map(|linear| linear.slot)
    }

    /// One layer: `w.x` in, `w.x` out.
    pub fn forward<H: Hook>(&self, pass: Pass<'_>, layer: usize, w: &mut Workspace, hook: &mut H) {
        match self.spec.order {
            Order::Post => {
                self.attention(pass, layer, Input::Stream, w, hook);
                self.norm(self.attn_norm.as_ref(), w);
                self.mlp(pass, layer, Input::Stream, w, hook);
                self.norm(Some(&self.mlp_norm), w);
            }
            Order::Pre => {
                let input = self.pre_norm(self.attn_norm.as_ref(), w);
                self.attention(pass, layer, input, w, hook);
                let input = self.pre_norm(Some(&self.mlp_norm), w);
                self.mlp(pass, layer, input, w, hook);
            }
        }
        hook.at(Place::LayerOut, layer, w.x.view_mut());
    }

    fn norm(&self, norm: Option<&Norm>, w: &mut Workspace) {
        if let Some(norm) = norm {
            norm.forward(w.x.view_mut());
        }
    }

    /// `half = norm(x)`, or nothing where there is no norm.
    fn pre_norm(&self, norm: Option<&Norm>, w: &mut Workspace) -> Input {
        let Some(norm) = norm else {
            return Input::Stream;
        };
        norm.forward_into(w.x.view(), w.half.reshape(w.x.rows(), w.x.cols()));
        Input::Half
    }

    /// `x = x + out(attention(qkv(input)))`
    fn attention<H: Hook>(
        &self,
        pass: Pass<'_>,
        layer: usize,
        input: Input,
        w: &mut Workspace,
        hook: &mut H,
    ) {
        let (t, h) = (w.x.rows(), w.x.cols());
        hook.at(Place::AttnInput, layer, input.of(w).view_mut());
        w.qkv.reshape(t, 3 * h);
        let from = match input {
            Input::Stream => &w.x,
            Input::Half => &w.half,
        };
        let y = w.qkv.view_mut();
        pass.linear(&self.qkv, from, Epilogue::default(), y, (&*hook, layer));
        attention::turn(self, pass, w.qkv.view_mut());
        hook.at(Place::Qkv, layer, w.qkv.view_mut());
        let context = w.context.reshape(t, h);
        attention::forward(self, pass, layer, w.qkv.view(), context, &*hook);
        hook.at(Place::Context, layer, w.context.view_mut());
        self.add_half(pass, layer, &self.attn_out, Half::Attention, w, hook);
    }

    /// `x = x + out(act(in(input)))`
    fn mlp<H: Hook>(
        &self,
        pass: Pass<'_>,
        layer: usize,
        input: Input,
        w: &mut Workspace,
        hook: &mut H,
    ) {
        let t = w.x.rows();
        hook.at(Place::MlpInput, layer, input.of(w).view_mut());
        let f = self.mlp_out_width(pass.packed);
        let gated = self.spec.mlp != Mlp::Plain;
        w.ffn.reshape(t, if gated { 2 * f } else { f });
        let from = match input {
            Input::Stream => &w.x,
            Input::Half => &w.half,
        };
        let fuse = !gated && !H::WATCHES;
        let epilogue = Epilogue {
            activation: fuse.then_some(self.spec.activation),
            residual: None,
        };
        let y = w.ffn.view_mut();
        pass.linear(&self.mlp_in, from, epilogue, y, (&*hook, layer));
        if !fuse {
            hook.at(Place::MlpIn, layer, w.ffn.view_mut());
            if gated {
                let second = self.spec.mlp == Mlp::GatedSecond;
                gate(self.spec.activation, second, &mut w.ffn, &mut w.gated);
            } else {
                let mut ffn = w.ffn.view_mut();
                for r in 0..t {
                    self.spec.activation.apply(ffn.row_mut(r));
                }
            }
        }
        hook.at(Place::MlpActive, layer, w.ffn.view_mut());
        self.add_half(pass, layer, &self.mlp_out, Half::Mlp, w, hook);
    }

    /// `x = x + linear(context or ffn)`: the residual is part of the product unless someone watches.
    fn add_half<H: Hook>(
        &self,
        pass: Pass<'_>,
        layer: usize,
        linear: &Linear,
        half: Half,
        w: &mut Workspace,
        hook: &mut H,
    ) {
        let (t, h) = (w.x.rows(), w.x.cols());
        let Workspace {
            x,
            half: out,
            context,
            ffn,
            ..
        } = w;
        let (from, before, after) = match half {
            Half::Attention => (&*context, Place::AttnOut, Place::AttnSum),
            Half::Mlp => (&*ffn, Place::MlpOut, Place::MlpSum),
        };
        let y = out.reshape(t, h);
        if H::WATCHES {
            pass.linear(linear, from, Epilogue::default(), y, (&*hook, layer));
            hook.at(before, layer, out.view_mut());
            let mut y = out.view_mut();
            for r in 0..t {
                for (y, x) in y.row_mut(r).iter_mut().zip(x.row(r)) {
                    *y += x;
                }
            }
        } else {
            let epilogue = Epilogue {
                activation: None,
                residual: Some(x.view()),
            };
            pass.linear(linear, from, epilogue, y, (&*hook, layer));
        }
        std::mem::swap(x, out);
        hook.at(after, layer, x.view_mut());
    }

    fn mlp_out_width(&self, packed: &Packed) -> usize {
        match &self.mlp_out.weight {
            crate::model::linear::Weight::Base(slot) => packed.shape(*slot).k,
            crate::model::linear::Weight::Own(w) => w.shape().k,
        }
    }
}

/// `out = act(a) * b` for `a | b` = `x`, the halves of its columns; `x` becomes `out`.
fn gate(activation: Activation, second: bool, x: &mut Matrix, out: &mut Matrix) {
    let f = x.cols() / 2;
    let mut y = out.reshape(x.rows(), f);
    for r in 0..x.rows() {
        let (a, b) = x.row(r).split_at(f);
        let (a, b) = if second { (b, a) } else { (a, b) };
        let y = y.row_mut(r);
        y.copy_from_slice(a);
        activation.apply(y);
        for (y, b) in y.iter_mut().zip(b) {
            *y *= b;
        }
    }
    std::mem::swap(x, out);
}

/// Where a half reads its input.
#[derive(Clone, Copy)]
enum Input {
    /// The residual stream itself.
    Stream,
    /// Its normed copy.
    Half,
}

impl Input {
    fn of(self, w: &mut Workspace) -> &mut Matrix {
        match self {
            Input::Stream => &mut w.x,
            Input::Half => &mut w.half,
        }
    }
}

/// Which half of a layer.
#[derive(Clone, Copy)]
enum Half {
    Attention,
    Mlp,
}
