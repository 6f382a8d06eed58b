//! Trained parameters of the base itself: BitFit and full fine-tuning.
//!
//! They live beside the factors as plain matrices, the linears fused as the model has them. A step's values go to a model
//! of the learner's own ([`Live::change`]); the result is a whole checkpoint ([`Live::export`]), because no adapter
//! format holds it.

use std::{collections::BTreeMap, path::Path};

use super::{Kind, Live};
use crate::{
    adapter::SavedTensor,
    error::Result,
    mat::Matrix,
    model::{
        Model,
        parameters::{BaseAt, BaseGradients, BaseKinds},
    },
};

impl Live {
    /// Adds the base's parameters of `kinds`, at the checkpoint's values.
    pub(super) fn add_base(&mut self, model: &Model, kinds: BaseKinds) -> Result<()> {
        for parameter in model.base_parameters(kinds)? {
            let kind = match parameter.at {
                BaseAt::Weight(_) => Kind::Weight,
                BaseAt::Bias(_) => Kind::Bias,
                BaseAt::Gamma(_) | BaseAt::Beta(_) => Kind::Norm,
                BaseAt::Table(_) => Kind::Embedding,
            };
            let value = model.base_value(&parameter)?;
            let at = self.push(parameter.names.join("|"), kind, value);
            self.base.push((at, parameter));
        }
        self.kinds = kinds;
        Ok(())
    }

    /// What is trained of the base itself.
    pub fn kinds(&self) -> BaseKinds {
        self.kinds
    }

    /// Puts the values into `model`, which is the learner's own.
    pub fn change(&self, model: &mut Model) {
        let value = |&(i, ref p): &(usize, _)| {
            let p: &crate::model::parameters::BaseParameter = p;
            (p.at, self.parameters[i].value.view())
        };
        model.change(&self.base.iter().map(value).collect::<Vec<_>>());
    }

    pub(super) fn base_gradients(&self, mut from: BaseGradients, out: &mut [Matrix]) {
        for (i, parameter) in &self.base {
            out[*i] = from.take(parameter.at);
        }
    }

    /// Writes `base` with everything trained in it, head and factors too, as a whole checkpoint at `out`.
    ///
    /// # Errors
    /// When `out` exists or cannot be written.
    pub fn export(&self, base: &Model, out: &Path) -> Result<()> {
        let mut changed = BTreeMap::new();
        for (i, parameter) in &self.base {
            let value = &self.parameters[*i].value;
            let vector = !matches!(parameter.at, BaseAt::Weight(_) | BaseAt::Table(_));
            // Fused linears are taken apart again: rows of a weight, elements of a bias.
            let mut rest = value.as_slice();
            for name in &parameter.names {
                let tensor = base.tensors().get(name);
                let tensor = tensor.expect("the loader found every tensor of the base");
                let (own, after) = rest.split_at(tensor.len());
                rest = after;
                let shape = tensor.shape.to_vec();
                debug_assert_eq!(vector, shape.len() == 1);
                let data = own.to_vec();
                changed.insert(name.clone(), SavedTensor { shape, data });
            }
        }
        base.export_changed(&self.adapter(base), &changed, out)
    }
}
