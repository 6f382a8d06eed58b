//! The head's parameters: from the checkpoint or new, into layers, and their gradients.

use std::sync::Arc;

use super::{Facts, Kind, Live};
use crate::{
    error::{Error, Result},
    kernel::panel::{OwnedPanels, Precision},
    mat::Matrix,
    model::{
        Head, Model,
        head::{Dense, backward::HeadGradient},
        linear::{Linear, Weight},
        norm::Norm,
    },
    spec::HeadSpec,
    train::random::Random,
};

/// Places of the head's parameters.
#[derive(Debug, Clone)]
pub(super) struct LiveHead {
    pub(super) spec: HeadSpec,
    dense: Option<(usize, Option<usize>)>,
    norm: Option<(usize, Option<usize>, f32)>,
    out: (usize, usize),
}

impl LiveHead {
    /// A head without parameters yet.
    pub(super) fn new(spec: HeadSpec) -> Self {
        Self {
            spec,
            dense: None,
            norm: None,
            out: (0, 0),
        }
    }
}

impl Live {
    /// Adds the parameters: the checkpoint's where it has them in this shape, else normal with deviation 0.02.
    pub(super) fn add_head(
        &mut self,
        model: &Model,
        prefix: &str,
        facts: &Facts<'_>,
    ) -> Result<()> {
        let (h, spec) = (model.spec().hidden, self.head.spec);
        let mut tensor =
            |name: String, in_encoder: bool, rows: usize, cols: usize, fill: Option<f32>| {
                let shown = match in_encoder {
                    true => format!("{prefix}{name}"),
                    false => name.clone(),
                };
                let shape = if fill.is_some() {
                    vec![cols]
                } else {
                    vec![rows, cols]
                };
                let found = model.head_tensor(&name, in_encoder)?;
                let data = match (found, fill) {
                    (Some((found, data)), _) if found == shape => data,
                    (_, Some(fill)) => vec![fill; cols],
                    (_, None) => {
                        let mut random = Random::new(facts.seed, &shown);
                        (0..rows * cols)
                            .map(|_| (0.02 * random.normal()) as f32)
                            .collect()
                    }
                };
                let value = Matrix::from_vec(data, rows, cols);
                Ok::<_, Error>(self.push(shown, Kind::Head, value))
            };
        let (mut dense, mut norm) = (None, None);
        if let Some(d) = spec.dense {
            let weight = tensor(format!("{}.weight", d.name), d.in_encoder, h, h, None)?;
            let bias = match d.bias {
                true => Some(tensor(
                    format!("{}.bias", d.name),
                    d.in_encoder,
                    1,
                    h,
                    Some(0.0),
                )?),
                false => None,
            };
            dense = Some((weight, bias));
            if let Some(n) = d.norm {
                let weight = tensor(format!("{n}.weight"), d.in_encoder, 1, h, Some(1.0))?;
                let bias = match model.spec().embed.norm_bias {
                    true => Some(tensor(format!("{n}.bias"), d.in_encoder, 1, h, Some(0.0))?),
                    false => None,
                };
                norm = Some((weight, bias, model.spec().norm_eps));
            }
        }
        let labels = facts.labels.len();
        let weight = tensor(format!("{}.weight", spec.out), false, labels, h, None)?;
        let bias = tensor(format!("{}.bias", spec.out), false, 1, labels, Some(0.0))?;
        (self.head.dense, self.head.norm, self.head.out) = (dense, norm, (weight, bias));
        Ok(())
    }

    /// The layers of the head, as they are now.
    pub(super) fn head(&self) -> Head {
        let matrix = |i: usize| &self.parameters[i].value;
        let row = |i: usize| matrix(i).as_slice().to_vec();
        let linear = |weight: usize, bias: Option<usize>| Linear {
            weight: Weight::Own(Arc::new(OwnedPanels::pack(
                matrix(weight).view(),
                Precision::F32,
                false,
            ))),
            bias: bias.map(row),
            slot: None,
        };
        let dense = self.head.dense.zip(self.head.spec.dense);
        Head {
            pool: self.head.spec.pool,
            dense: dense.map(|((weight, bias), spec)| Dense {
                linear: linear(weight, bias),
                activation: spec.activation,
                norm: self.head.norm.map(|(gamma, beta, eps)| Norm {
                    gamma: row(gamma).into(),
                    beta: beta.map(|b| row(b).into()),
                    eps,
                }),
            }),
            out: linear(self.head.out.0, Some(self.head.out.1)),
        }
    }

    /// Puts the head's gradients in their parameters' places.
    pub(super) fn head_gradients(&self, from: &HeadGradient, out: &mut [Matrix]) {
        let mut put = |i: usize, d: &Matrix| out[i] = d.clone();
        if let (Some((weight, bias)), Some(d)) = (self.head.dense, &from.dense) {
            put(weight, &d.weight);
            bias.into_iter().for_each(|bias| put(bias, &d.bias));
        }
        if let (Some((gamma, beta, _)), Some((dgamma, dbeta))) = (self.head.norm, &from.norm) {
            put(gamma, dgamma);
            beta.into_iter().for_each(|beta| put(beta, dbeta));
        }
        put(self.head.out.0, &from.out.weight);
        put(self.head.out.1, &from.out.bias);
    }
}
