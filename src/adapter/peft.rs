//! A PEFT adapter (`adapter_config.json` beside `adapter_model.safetensors`) turned into an [`Adapter`].
//!
//! ```text
//! base_model.model.<module>.lora_A.weight      [R, in]
//! base_model.model.<module>.lora_B.weight      [out, R]
//! base_model.model.<module>.<parameter>        a module of modules_to_save
//! ```
//! Names as they stand in memory are read too (`lora_A.default.weight`, `.modules_to_save.default.`), and copies
//! that PEFT keeps of the base's own head (`.original_module.`) are passed over.
//!
//! PEFT itself is lenient: it ignores tensors that fit nowhere and leaves at zero what has no tensor. Here every
//! tensor has a place or the file is refused with all such names, ranks come from the shapes, and where the
//! configuration claims another rank neither is believed. That the modules exist and the widths fit the base is
//! asked at bind. The AdaLoRA layout differs by a third tensor; what is done with it is in `adalora`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    Adapter, Factors, SavedTensor, adalora,
    peft_config::{Kind, MAX_RANK, PeftConfig},
    tensors::TensorFile,
};
use crate::{Error, Result, mat::Matrix};

/// The configuration of a PEFT adapter.
pub const CONFIG: &str = "adapter_config.json";
/// The tensors of a PEFT adapter.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before every name.
pub(super) const PREFIX: &str = "base_model.model.";

/// Reads the two files, already in memory; `dir` is where messages say they are.
pub(super) fn read(config: &[u8], weights: &[u8], dir: &Path) -> Result<Adapter> {
    let config_path = dir.join(CONFIG);
    let path = dir.join(WEIGHTS);
    let config = PeftConfig::parse(config, &config_path)?;
    let file = TensorFile::parse(weights, &path)?;
    let layout = Layout::of(&file, &config, &path)?;

    let mut factors = BTreeMap::new();
    let mut pruned = BTreeSet::new();
    for (module, names) in &layout.modules {
        match read_factors(module, names, &file, &config, &path)? {
            Some(f) => drop(factors.insert(module.clone(), f)),
            None => drop(pruned.insert(module.clone())),
        }
    }
    let mut saved = BTreeMap::new();
    for (parameter, name) in &layout.saved {
        saved.insert(parameter.clone(), file.decode(name)?);
    }
    let mut provenance = file.metadata.clone();
    provenance.remove("format");
    Ok(Adapter {
        path: dir.to_owned(),
        factors,
        saved,
        labels: None,
        task_type: config.task_type,
        problem: None,
        base_fingerprint: provenance.remove(super::BASE_FINGERPRINT),
        base: config.base,
        bytes: weights.len() as u64,
        targets: config.targets.without(pruned),
        provenance,
    })
}

/// Names of the tensors of one adapted module.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) a: Option<String>,
    pub(super) b: Option<String>,
    /// AdaLoRA's singular values.
    pub(super) e: Option<String>,
}

/// Where each tensor of a file belongs.
#[derive(Debug, Default)]
struct Layout {
    modules: BTreeMap<String, Names>,
    /// Tensor names by parameter path.
    saved: BTreeMap<String, String>,
}

impl Layout {
    /// Gives every tensor its place, or refuses the file with every name that has none and every one that is wanting.
    fn of(file: &TensorFile<'_>, config: &PeftConfig, path: &Path) -> Result<Self> {
        let adalora = matches!(config.kind, Kind::AdaLora { .. });
        let mut layout = Self::default();
        let mut unused = Vec::new();
        for name in file.names() {
            refuse_known_feature(name, path)?;
            let Some(bare) = name.strip_prefix(PREFIX) else {
                unused.push(name.to_owned());
                continue;
            };
            if let Some((module, part)) = factor_name(bare, adalora) {
                let names = layout.modules.entry(module.to_owned()).or_default();
                let slot = match part {
                    'A' => &mut names.a,
                    'B' => &mut names.b,
                    _ => &mut names.e,
                };
                refuse_second(slot.replace(name.to_owned()), name, path)?;
            } else if bare.contains(".original_module.") {
                // The base's own head as it was before training; PEFT does not load it either.
            } else if let Some(parameter) = saved_name(bare, &config.saved) {
                refuse_second(layout.saved.insert(parameter, name.to_owned()), name, path)?;
            } else {
                unused.push(name.to_owned());
            }
        }
        let missing = layout.missing(adalora);
        if !missing.is_empty() || !unused.is_empty() {
            return Err(Error::Tensors {
                path: path.to_owned(),
                missing,
                unused,
            });
        }
        let characters = layout.modules.keys().map(String::len).sum();
        config.refuse_bomb(characters, &path.with_file_name(CONFIG))?;
        layout.refuse_untargeted(config, path)?;
        if layout.modules.is_empty() && layout.saved.is_empty() {
            return Err(Error::format(path, "an adapter without a tensor"));
        }
        Ok(layout)
    }

    /// Halves without their other half.
    fn missing(&self, adalora: bool) -> Vec<String> {
        let suffix = if adalora { "" } else { ".weight" };
        let mut missing = Vec::new();
        for (module, names) in &self.modules {
            let parts = [(&names.a, 'A'), (&names.b, 'B'), (&names.e, 'E')];
            for (slot, part) in parts.into_iter().take(if adalora { 3 } else { 2 }) {
                if slot.is_none() {
                    missing.push(format!("{PREFIX}{module}.lora_{part}{suffix}"));
                }
            }
        }
        missing
    }

    fn refuse_untargeted(&self, config: &PeftConfig, path: &Path) -> Result<()> {
        let stray: Vec<&str> = self
            .modules
            .keys()
            .map(String::as_str)
            .filter(|module| !config.targets.matches(module))
            .collect();
        match stray.as_slice() {
            [] => Ok(()),
            _ => Err(Error::format(
                path,
                format!(
                    "tensors for module(s) that {CONFIG} does not target: {}",
                    stray.join(", ")
                ),
            )),
        }
    }
}

/// `<module>` and `A`, `B` or `E` of a factor's name without the prefix.
fn factor_name(bare: &str, adalora: bool) -> Option<(&str, char)> {
    let stem = if adalora {
        bare
    } else {
        bare.strip_suffix(".weight")?
    };
    let stem = stem.strip_suffix(".default").unwrap_or(stem);
    let (module, last) = stem.rsplit_once('.')?;
    match last {
        "lora_A" => Some((module, 'A')),
        "lora_B" => Some((module, 'B')),
        "lora_E" if adalora => Some((module, 'E')),
        _ => None,
    }
}

/// The parameter path of a tensor inside a module of `modules_to_save`.
///
/// PEFT wraps a module whose path *ends* in an entry, be it in the middle of a word: `classifier` saves
/// `pre_classifier` too.
fn saved_name(bare: &str, entries: &[String]) -> Option<String> {
    let path =
        bare.replacen(".modules_to_save.default.", ".", 1)
            .replacen(".modules_to_save.", ".", 1);
    let inside =
        |(end, _): (usize, &str)| entries.iter().any(|e| path[..end].ends_with(e.as_str()));
    let saved = !path.contains(".lora_") && path.match_indices('.').any(inside);
    saved.then_some(path)
}

/// Tensors whose name tells what they are, and that it is not supported.
fn refuse_known_feature(name: &str, path: &Path) -> Result<()> {
    const REFUSED: [(&str, &str, &str); 8] = [
        (
            ".lora_magnitude_vector",
            "DoRA",
            "the tensor rescales the merged weight",
        ),
        (
            ".lora_B.bias",
            "lora_bias",
            "the tensor is a bias on lora_B",
        ),
        (
            ".lora_B.default.bias",
            "lora_bias",
            "the tensor is a bias on lora_B",
        ),
        (
            ".lora_embedding_",
            "LoRA on an embedding",
            "only linear modules are adapted",
        ),
        (
            ".trainable_tokens_",
            "trainable_token_indices",
            "the base's embedding table is shared",
        ),
        (
            ".token_adapter.",
            "trainable_token_indices",
            "the base's embedding table is shared",
        ),
        (".lora_diag", "KaSA", "it truncates the base's weights"),
        (
            ".base_layer.",
            "a base weight in an adapter",
            "the base is frozen and shared",
        ),
    ];
    match REFUSED.iter().find(|(part, ..)| name.contains(part)) {
        None => Ok(()),
        Some((_, feature, why)) => Err(Error::unsupported(
            path,
            format!("{feature} (tensor {name})"),
            *why,
        )),
    }
}

fn refuse_second(first: Option<String>, second: &str, path: &Path) -> Result<()> {
    match first {
        None => Ok(()),
        Some(first) => {
            let why = format!("tensors {first} and {second} are two spellings of one");
            Err(Error::format(path, why))
        }
    }
}

/// The factors of one module, or `None` where nothing of it is left (AdaLoRA).
fn read_factors(
    module: &str,
    names: &Names,
    file: &TensorFile<'_>,
    config: &PeftConfig,
    path: &Path,
) -> Result<Option<Factors>> {
    let name = |slot: &Option<String>| slot.clone().expect("`Layout::missing` found every half");
    let (a_name, b_name) = (name(&names.a), name(&names.b));
    let shape = |name: &str| {
        file.shape(name)
            .expect("the name came from this file")
            .to_vec()
    };
    let (a_shape, b_shape) = (shape(&a_name), shape(&b_name));
    let wrong = |name: &str, expected: String, found: &[usize]| Error::Shape {
        path: path.to_owned(),
        name: name.to_owned(),
        expected,
        found: found.to_vec(),
    };
    let &[rank, _] = a_shape.as_slice() else {
        return Err(wrong(
            &a_name,
            "[rank, in], as of a linear module".into(),
            &a_shape,
        ));
    };
    if rank > MAX_RANK {
        return Err(wrong(
            &a_name,
            format!("[rank, in] with a rank of at most {MAX_RANK}"),
            &a_shape,
        ));
    }
    let &[_, b_rank] = b_shape.as_slice() else {
        return Err(wrong(
            &b_name,
            "[out, rank], as of a linear module".into(),
            &b_shape,
        ));
    };
    if b_rank != rank {
        return Err(wrong(
            &b_name,
            format!("[out, {rank}], lora_A being {a_shape:?}"),
            &b_shape,
        ));
    }
    let (claimed, key) = config.claimed_rank(module);
    if claimed != rank {
        let why =
            format!("{key} says that {module} has rank {claimed}, and {a_name} has rank {rank}");
        return Err(Error::config(&path.with_file_name(CONFIG), key, why));
    }
    let scale = config.scale(module, rank);
    if !scale.is_finite() {
        let why = format!("the scale of {module} is {scale}");
        return Err(Error::config(
            &path.with_file_name(CONFIG),
            "lora_alpha",
            why,
        ));
    }
    if let Some(e_name) = &names.e {
        if shape(e_name) != [rank, 1] {
            return Err(wrong(
                e_name,
                format!("[{rank}, 1], lora_A being {a_shape:?}"),
                &shape(e_name),
            ));
        }
        if rank == 0 {
            return Ok(None);
        }
        let e = file.decode(e_name)?.data;
        let [a, b] = [file.decode(&a_name)?, file.decode(&b_name)?].map(matrix);
        let folded = adalora::fold(&a, &b, &e, scale);
        let checked = folded.map(|f| f.refuse_overflow(&a_name, &b_name, path).map(|()| f));
        return checked.transpose();
    }
    let (a, b) = (matrix(file.decode(&a_name)?), matrix(file.decode(&b_name)?));
    let factors = Factors { a, b, scale };
    factors.refuse_overflow(&a_name, &b_name, path)?;
    Ok(Some(factors))
}

/// A tensor of two dimensions as a matrix.
fn matrix(tensor: SavedTensor) -> Matrix {
    let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
    Matrix::from_vec(tensor.data, rows, cols)
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
