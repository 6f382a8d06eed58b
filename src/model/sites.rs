//! Sites: which linear of which layer an adapter's module path means, and over which columns.

use std::{collections::HashMap, ops::Range};

use crate::spec::{EncoderSpec, Mlp};

/// Linears of a layer, in slot order.
pub const LINEARS: usize = 4;

/// One module that an adapter may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Module path inside the encoder, without a model class's prefix.
    pub path: String,
    /// The (weight) layer it belongs to.
    pub layer: usize,
    /// Slot of the fused linear it is part of.
    pub slot: usize,
    /// Its columns of that linear.
    pub columns: Range<usize>,
    /// Input width.
    pub inputs: usize,
}

/// All sites of an encoder.
#[derive(Debug, Clone)]
pub struct Sites {
    list: Vec<Site>,
    by_path: HashMap<String, usize>,
    prefixes: &'static [&'static str],
}

/// A fused linear: its slot, the modules it is made of, and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearPlan {
    /// Slot: weight layer x [`LINEARS`] + place in the layer.
    pub slot: usize,
    /// Module paths in column order, without prefix.
    pub modules: Vec<String>,
    /// Output columns of each module.
    pub outputs: Vec<usize>,
    /// Input width.
    pub inputs: usize,
}

/// The linears of every weight layer, in slot order.
pub fn linear_plans(spec: &EncoderSpec) -> Vec<LinearPlan> {
    let layers = spec.layers.iter().map(|l| l.weights_of + 1).max().unwrap_or(0);
    let (h, f, names) = (spec.hidden, spec.ffn, &spec.names);
    let mut plans = Vec::with_capacity(layers * LINEARS);
    for layer in 0..layers {
        let gated = spec.layers.iter().any(|l| l.weights_of == layer && l.mlp == Mlp::Gated);
        let mlp_width = if gated { 2 * f } else { f };
        let out = std::slice::from_ref;
        let linears: [(&[&str], usize, usize); LINEARS] = [
            (names.qkv, 3 * h, h),
            (out(&names.attn_out), h, h),
            (names.mlp_in, mlp_width, h),
            (out(&names.mlp_out), h, f),
        ];
        for (place, (modules, width, inputs)) in linears.into_iter().enumerate() {
            plans.push(LinearPlan {
                slot: layer * LINEARS + place,
                modules: modules.iter().map(|m| at_layer(m, layer)).collect(),
                outputs: vec![width / modules.len(); modules.len()],
                inputs,
            });
        }
    }
    plans
}

/// A name template with its `{}` filled in.
pub fn at_layer(template: &str, layer: usize) -> String {
    template.replace("{}", &layer.to_string())
}

impl Sites {
    /// The sites of the encoder that `spec` describes.
    pub fn new(spec: &EncoderSpec) -> Self {
        let mut list = Vec::new();
        for plan in linear_plans(spec) {
            let mut column = 0;
            for (path, width) in plan.modules.into_iter().zip(plan.outputs) {
                list.push(Site {
                    path,
                    layer: plan.slot / LINEARS,
                    slot: plan.slot,
                    columns: column..column + width,
                    inputs: plan.inputs,
                });
                column += width;
            }
        }
        let by_path = list.iter().enumerate().map(|(i, s)| (s.path.clone(), i)).collect();
        Self { list, by_path, prefixes: spec.names.prefixes }
    }

    /// Every site, layer by layer.
    pub fn all(&self) -> &[Site] {
        &self.list
    }

    /// The site that `path` names, with or without a model class's prefix.
    pub fn find(&self, path: &str) -> Option<&Site> {
        let stripped = self.prefixes.iter().filter_map(|p| path.strip_prefix(p));
        stripped.chain([path]).find_map(|p| self.by_path.get(p)).map(|&i| &self.list[i])
    }

    /// The prefix with which `path` names a site, if it names one.
    pub fn prefix_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let site = self.find(path)?;
        path.strip_suffix(site.path.as_str())
    }
}
