//! Reading a head while binding: the adapter's tensors first, then the base's, packed as the task's own.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    adapter::{Adapter, Factors},
    error::{Error, Result},
    kernel::panel::{OwnedPanels, Precision},
    mat::Mat,
    model::{
        Model,
        head::{Dense, Head},
        linear::{Linear, Weight},
        norm::Norm,
        reader::find,
    },
    spec::HeadSpec,
    weights::tensors::first_not_finite,
};

/// Reads a head's tensors, the adapter's first, then the base's.
pub(super) struct HeadReader<'a> {
    model: &'a Model,
    pub(super) adapter: Option<&'a Adapter>,
    /// Low-rank factors on a head's dense layer; folded into the task's own copy.
    pub(super) factors: BTreeMap<&'a str, &'a Factors>,
    used: Vec<String>,
    /// The module that must be the adapter's own, with everything in it.
    pub(super) own: Option<&'static str>,
}

/// `classifier` of `classifier.out_proj`.
pub(super) fn outermost(module: &str) -> &str {
    module.split('.').next().unwrap_or(module)
}

/// A tensor of a head.
struct HeadTensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl<'a> HeadReader<'a> {
    pub(super) fn new(model: &'a Model, adapter: Option<&'a Adapter>) -> Self {
        Self {
            model,
            adapter,
            factors: BTreeMap::new(),
            used: Vec::new(),
            own: None,
        }
    }

    /// The adapter's spelling of a saved tensor, with or without the encoder's prefix.
    pub(super) fn saved_name(&self, name: &str) -> Option<String> {
        let saved = &self.adapter?.saved;
        let prefixes = self.model.spec.names.prefixes.iter();
        let mut spellings = prefixes
            .map(|p| format!("{p}{name}"))
            .chain([name.to_owned()]);
        spellings.find(|n| saved.contains_key(n))
    }

    fn tensor(&mut self, name: &str, in_encoder: bool) -> Result<Option<HeadTensor>> {
        if let (Some(found), Some(adapter)) = (self.saved_name(name), self.adapter) {
            let saved = &adapter.saved[&found];
            self.used.push(found);
            return Ok(Some(HeadTensor {
                shape: saved.shape.clone(),
                data: saved.data.clone(),
            }));
        }
        if self.own == Some(outermost(name)) {
            return Ok(None);
        }
        let prefix = if in_encoder { self.model.prefix } else { "" };
        let tensors = &self.model.tensors;
        let found = find(tensors, &self.model.spec, &format!("{prefix}{name}"));
        let Some(tensor) = found.and_then(|n| tensors.get(&n)) else {
            return Ok(None);
        };
        Ok(Some(HeadTensor {
            shape: tensor.shape.to_vec(),
            data: tensor.values(tensor.shape)?,
        }))
    }

    /// Shape and elements of a tensor.
    pub(super) fn whole(
        &mut self,
        name: &str,
        in_encoder: bool,
    ) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        Ok(self.tensor(name, in_encoder)?.map(|t| (t.shape, t.data)))
    }

    pub(super) fn read(&mut self, spec: &HeadSpec) -> Result<Head> {
        let h = self.model.spec.hidden;
        let mut missing = Vec::new();
        let dense = match &spec.dense {
            None => None,
            Some(d) => {
                let linear = self.linear(d.name, d.in_encoder, d.bias, Some(h), &mut missing)?;
                let norm = d
                    .norm
                    .map(|n| self.norm(n, d.in_encoder, &mut missing))
                    .transpose()?;
                Some((linear, d.activation, norm))
            }
        };
        let out = self.linear(spec.out, false, true, None, &mut missing)?;
        let (Some(out), true) = (out, missing.is_empty()) else {
            return Err(Error::HeadMissing {
                path: self.path(),
                missing,
            });
        };
        let dense = dense.and_then(|(linear, activation, norm)| {
            Some(Dense {
                linear: linear?,
                activation,
                norm: norm.flatten(),
            })
        });
        Ok(Head {
            pool: spec.pool,
            dense,
            out,
        })
    }

    fn linear(
        &mut self,
        name: &str,
        in_encoder: bool,
        bias: bool,
        outputs: Option<usize>,
        missing: &mut Vec<String>,
    ) -> Result<Option<Linear>> {
        let h = self.model.spec.hidden;
        let weight_name = format!("{name}.weight");
        let Some(mut weight) = self.tensor(&weight_name, in_encoder)? else {
            missing.push(weight_name);
            return Ok(None);
        };
        let n = weight.shape.first().copied().unwrap_or(0);
        if weight.shape != [outputs.unwrap_or(n), h] || n == 0 {
            let outputs = outputs.map_or("labels".to_owned(), |n| n.to_string());
            return Err(self.shape_error(weight_name, format!("[{outputs}, {h}]"), weight.shape));
        }
        self.fold(name, in_encoder, &mut weight)?;
        let bias = match bias {
            false => None,
            true => {
                let bias_name = format!("{name}.bias");
                match self.tensor(&bias_name, in_encoder)? {
                    Some(b) if b.shape == [n] => Some(b.data),
                    Some(b) => return Err(self.shape_error(bias_name, format!("[{n}]"), b.shape)),
                    None => {
                        missing.push(bias_name);
                        return Ok(None);
                    }
                }
            }
        };
        let packed = OwnedPanels::pack(Mat::new(&weight.data, n, h), Precision::F32, false);
        Ok(Some(Linear {
            weight: Weight::Own(Arc::new(packed)),
            bias,
            slot: None,
        }))
    }

    /// Adds `scale B A` of factors on this module to the task's own copy of its weight.
    fn fold(&self, name: &str, in_encoder: bool, weight: &mut HeadTensor) -> Result<()> {
        let prefixes = self.model.spec.names.prefixes.iter();
        let mut spellings = prefixes
            .filter(|_| in_encoder)
            .map(|p| format!("{p}{name}"));
        let found = spellings.find_map(|n| self.factors.get(n.as_str()));
        if let Some(f) = found.or_else(|| self.factors.get(name)) {
            let (n, k) = (weight.shape[0], weight.shape[1]);
            let w = crate::mat::MatMut::new(&mut weight.data, n, k);
            crate::kernel::gemm::gemm(w, 1.0, f.scale, f.b.view(), false, f.a.view(), false);
            if let Some(at) = first_not_finite(&weight.data) {
                let why = format!(
                    "tensor {name}.weight with the adapter folded in holds {} at element {at}",
                    weight.data[at]
                );
                return Err(Error::format(&self.path(), why));
            }
        }
        Ok(())
    }

    fn norm(
        &mut self,
        name: &str,
        in_encoder: bool,
        missing: &mut Vec<String>,
    ) -> Result<Option<Norm>> {
        let h = self.model.spec.hidden;
        let (norm_bias, eps) = (self.model.spec.embed.norm_bias, self.model.spec.norm_eps);
        let mut vector = |part: &str, missing: &mut Vec<String>| -> Result<Option<Arc<[f32]>>> {
            let name = format!("{name}.{part}");
            match self.tensor(&name, in_encoder)? {
                Some(t) if t.shape == [h] => Ok(Some(t.data.into())),
                Some(t) => Err(self.shape_error(name, format!("[{h}]"), t.shape)),
                None => {
                    missing.push(name);
                    Ok(None)
                }
            }
        };
        let gamma = vector("weight", missing)?;
        let beta = match norm_bias {
            true => vector("bias", missing)?,
            false => None,
        };
        Ok(gamma.map(|gamma| Norm { gamma, beta, eps }))
    }

    /// A saved tensor that nothing reads would be a part of the adapter that has no effect.
    pub(super) fn check_all_used(&self) -> Result<()> {
        let Some(adapter) = self.adapter else {
            return Ok(());
        };
        let heads = [&self.model.spec.sequence_head, &self.model.spec.token_head];
        let of_a_head = |name: &str| {
            heads.iter().any(|h| {
                let dense = h.dense.map(|d| d.name);
                [Some(h.out), dense].into_iter().flatten().any(|m| {
                    name.strip_suffix(".weight")
                        .or(name.strip_suffix(".bias"))
                        .is_some_and(|n| n.ends_with(m))
                })
            })
        };
        let unused: Vec<String> = adapter
            .saved
            .keys()
            .filter(|n| !self.used.contains(n) && !of_a_head(n))
            .cloned()
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors {
            path: adapter.path.clone(),
            missing: Vec::new(),
            unused,
        })
    }

    fn shape_error(&self, name: String, expected: String, found: Vec<usize>) -> Error {
        Error::Shape {
            path: self.path(),
            name,
            expected,
            found,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        match self.adapter {
            Some(adapter) => adapter.path.clone(),
            None => self.model.tensors.path().to_owned(),
        }
    }
}
