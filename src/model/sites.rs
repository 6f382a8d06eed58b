//! Sites: which linear of which layer an adapter's module path means, and over which columns.

use std::{collections::HashMap, ops::Range};

use crate::spec::{EncoderSpec, Mlp, Position, Relative};

/// What a linear of the encoder does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// From the embedding width to the hidden width; belongs to no layer.
    Embedding,
    /// q|k|v.
    Qkv,
    /// Output of attention.
    AttnOut,
    /// Into the feed-forward block.
    MlpIn,
    /// Out of it.
    MlpOut,
    /// Projections of relative positions: keys, queries.
    Positions,
}

/// One module that an adapter may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Module path inside the encoder, without a model class's prefix.
    pub path: String,
    /// The (weight) layer it belongs to; none for the embedding layer.
    pub layer: Option<usize>,
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

/// A fused linear: its slot (its place in the list of plans), the modules it is made of, and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearPlan {
    /// The (weight) layer it belongs to.
    pub layer: Option<usize>,
    /// What it does.
    pub role: Role,
    /// Module paths in column order, without prefix.
    pub modules: Vec<String>,
    /// Output columns of each module.
    pub outputs: Vec<usize>,
    /// Input width.
    pub inputs: usize,
}

/// The linears of an encoder, in slot order.
pub fn linear_plans(spec: &EncoderSpec) -> Vec<LinearPlan> {
    let mut plans = Vec::new();
    if spec.embed.project {
        plans.push(LinearPlan {
            layer: None,
            role: Role::Embedding,
            modules: vec![spec.names.embed_project.to_owned()],
            outputs: vec![spec.hidden],
            inputs: spec.embed.width,
        });
    }
    let layers = spec
        .layers
        .iter()
        .map(|l| l.weights_of + 1)
        .max()
        .unwrap_or(0);
    for layer in 0..layers {
        let facts = spec.layers.iter().find(|l| l.weights_of == layer);
        let facts = facts.expect("layers of weights are numbered without a gap");
        let (h, f, names) = (spec.hidden, spec.ffn, &spec.names);
        let mlp_width = if facts.mlp == Mlp::Plain { f } else { 2 * f };
        let one = std::slice::from_ref;
        let mut push = |role, modules: &[&str], width: usize, inputs| {
            plans.push(LinearPlan {
                layer: Some(layer),
                role,
                modules: modules.iter().map(|m| at_layer(m, layer)).collect(),
                outputs: vec![width / modules.len(); modules.len()],
                inputs,
            });
        };
        push(Role::Qkv, names.qkv, 3 * h, h);
        push(Role::AttnOut, one(&names.attn_out), h, h);
        push(Role::MlpIn, names.mlp_in, mlp_width, h);
        push(Role::MlpOut, one(&names.mlp_out), h, f);
        if let Position::Relative(Relative {
            shared_keys: false,
            c2p,
            p2c,
            ..
        }) = facts.position
        {
            let wanted = names.relative_projections.iter().zip([c2p, p2c]);
            let modules: Vec<&str> = wanted
                .filter(|(_, wanted)| *wanted)
                .map(|(m, _)| *m)
                .collect();
            if !modules.is_empty() {
                push(Role::Positions, &modules, modules.len() * h, h);
            }
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
        for (slot, plan) in linear_plans(spec).into_iter().enumerate() {
            let mut column = 0;
            for (path, width) in plan.modules.into_iter().zip(plan.outputs) {
                let (layer, inputs) = (plan.layer, plan.inputs);
                list.push(Site {
                    path,
                    layer,
                    slot,
                    columns: column..column + width,
                    inputs,
                });
                column += width;
            }
        }
        let by_path = list
            .iter()
            .enumerate()
            .map(|(i, s)| (s.path.clone(), i))
            .collect();
        Self {
            list,
            by_path,
            prefixes: spec.names.prefixes,
        }
    }

    /// Every site, layer by layer.
    pub fn all(&self) -> &[Site] {
        &self.list
    }

    /// The site that `path` names, with or without a model class's prefix.
    pub fn find(&self, path: &str) -> Option<&Site> {
        let stripped = self.prefixes.iter().filter_map(|p| path.strip_prefix(p));
        stripped
            .chain([path])
            .find_map(|p| self.by_path.get(p))
            .map(|&i| &self.list[i])
    }

    /// The prefix with which `path` names a site, if it names one.
    pub fn prefix_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let site = self.find(path)?;
        path.strip_suffix(site.path.as_str())
    }
}
