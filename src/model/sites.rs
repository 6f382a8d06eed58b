//! Sites: which linear of which layer an adapter's module path means, and over which columns.
//!
//! Where two model classes of one family name their linears differently (one fuses q, k and v, the other does not), an
//! adapter comes under either naming: both are found, and each is a set of sites of its own over the same columns.

use std::{collections::HashMap, ops::Range};

use crate::spec::{EncoderSpec, Mlp, ModulePart, Position, Relative};

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
    /// By naming: as the files name tensors; where there is another, as `Names::modules` has them.
    namings: Vec<Vec<Site>>,
    /// Naming and place in it.
    by_path: HashMap<String, (usize, usize)>,
    /// The naming of the class that the configuration is for.
    own: usize,
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

/// The linears of `spec` as its files name them, one site a module.
fn sites_of_files(spec: &EncoderSpec) -> Vec<Site> {
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
    list
}

/// `file` under the names of `modules`: whole or in parts; as it is where they have no name for it.
fn renamed(file: &Site, modules: &[ModulePart]) -> Vec<Site> {
    let layer = file.layer.unwrap_or(0);
    let of_this = modules
        .iter()
        .filter(|m| at_layer(m.of, layer) == file.path);
    let mut parts: Vec<Site> = of_this
        .map(|m| {
            let width = file.columns.len() / m.parts;
            let start = file.columns.start + m.part * width;
            Site {
                path: at_layer(m.path, layer),
                columns: start..start + width,
                ..file.clone()
            }
        })
        .collect();
    if parts.is_empty() {
        parts.push(file.clone());
    }
    parts.sort_by_key(|s| s.columns.start);
    parts
}

impl Sites {
    /// The sites of the encoder that `spec` describes.
    pub fn new(spec: &EncoderSpec) -> Self {
        let names = &spec.names;
        let mut namings = vec![sites_of_files(spec)];
        if !names.modules.is_empty() {
            let files = namings[0].iter();
            namings.push(files.flat_map(|s| renamed(s, names.modules)).collect());
        }
        let mut by_path = HashMap::new();
        for (naming, list) in namings.iter().enumerate() {
            for (i, site) in list.iter().enumerate() {
                by_path.entry(site.path.clone()).or_insert((naming, i));
            }
        }
        Self {
            own: usize::from(names.in_modules),
            namings,
            by_path,
            prefixes: names.prefixes,
        }
    }

    /// Every site as the configuration's own model class names it, layer by layer.
    pub fn all(&self) -> &[Site] {
        &self.namings[self.own]
    }

    /// Every site in the naming that `path` is of, if it names one.
    pub fn named_like(&self, path: &str) -> Option<&[Site]> {
        self.place(path).map(|(n, _)| self.namings[n].as_slice())
    }

    /// The site that `path` names, with or without a model class's prefix.
    pub fn find(&self, path: &str) -> Option<&Site> {
        self.place(path).map(|(n, i)| &self.namings[n][i])
    }

    /// The site whose tensor the files call `module`, a path without prefix.
    pub fn of_file(&self, module: &str) -> Option<&Site> {
        self.namings[0].iter().find(|s| s.path == module)
    }

    fn place(&self, path: &str) -> Option<(usize, usize)> {
        let stripped = self.prefixes.iter().filter_map(|p| path.strip_prefix(p));
        let mut spellings = stripped.chain([path]);
        spellings.find_map(|p| self.by_path.get(p)).copied()
    }

    /// The prefix with which `path` names a site, if it names one.
    pub fn prefix_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let site = self.find(path)?;
        path.strip_suffix(site.path.as_str())
    }
}
