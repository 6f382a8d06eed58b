//! Import of LoRA that lies in a whole checkpoint as parametrisations of its weights, one or a stack of several.
//!
//! ```text
//! <module>.parametrizations.weight.original   the base's weight [out, in]
//! <module>.parametrizations.weight.0.lora_A   [r, in], or [n, r, in] for n tasks (jina-embeddings-v3)
//! <module>.parametrizations.weight.0.lora_B   [out, r], or [n, out, r]
//! W = original + alpha / r * B A
//! ```
//! `config.json` beside it may name the tasks (`lora_adaptations`) and say `lora_alpha`; tensors that are no
//! parametrisation are the base's and are left alone. A table of embeddings has its factors the other way round,
//! [rows, r] and [r, width]; sorank has no adapters on tables, so one that is not zero is refused by name.

use std::{collections::BTreeMap, path::Path};

use super::{
    Adapter, Factors, SavedTensor, Targets, bounded,
    checkpoint::{self, Checkpoint, ImportReport, ImportedModule},
    json::Fields,
    peft_config::MAX_RANK,
};
use crate::{Error, Result, mat::Matrix};

const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const MARK: &str = ".parametrizations.weight.";

/// What a checkpoint does not say, or says of several.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedImport {
    /// `lora_alpha`; `None`: what `config.json` says, and an error where it says nothing.
    pub alpha: Option<f64>,
    /// Which of a stack: a name of `lora_adaptations`, or a number from 0.
    pub which: Option<String>,
}

/// The tensors of one module's parametrisation.
#[derive(Debug, Default)]
struct Names {
    a: Option<String>,
    b: Option<String>,
    original: Option<String>,
}

impl Adapter {
    /// Whether the checkpoint in `dir` has parametrised weights.
    ///
    /// # Errors
    /// When there is a weight file that cannot be read.
    pub fn is_embedded(dir: &Path) -> Result<bool> {
        let Ok(path) = checkpoint::first_of(dir, &WEIGHTS) else {
            return Ok(false);
        };
        let bytes = bounded::read(&path, bounded::MAX_WEIGHTS)?;
        let file = Checkpoint::parse(&bytes, &path)?;
        Ok(file.names().iter().any(|name| name.contains(MARK)))
    }

    /// Imports one LoRA of the checkpoint in `dir`.
    ///
    /// # Errors
    /// A stack of which none is chosen, or one that is not there; no alpha; tensors that are missing, of wrong shapes, not
    /// finite or of another parametrisation; a table of embeddings that is adapted.
    pub fn import_embedded(
        dir: &Path,
        options: &EmbeddedImport,
    ) -> Result<(Adapter, ImportReport)> {
        let path = checkpoint::first_of(dir, &WEIGHTS)?;
        let bytes = bounded::read(&path, bounded::MAX_WEIGHTS)?;
        let file = Checkpoint::parse(&bytes, &path)?;
        let side = Side::read(dir)?;
        let alpha = options.alpha.or(side.alpha).ok_or_else(|| {
            let why = "no lora_alpha in config.json: say it (--alpha)";
            Error::format(&path, why)
        })?;
        if !alpha.is_finite() {
            return Err(Error::format(
                &path,
                format!("alpha {alpha}: expected a finite number"),
            ));
        }
        let mut factors = BTreeMap::new();
        let mut report = ImportReport {
            alpha,
            modules: Vec::new(),
            head: Vec::new(),
        };
        for (module, names) in layout(&file, &path)? {
            let one = One::read(&module, &names, &file, &side, options, &path)?;
            let rank = one.rank;
            if one.is_zero() {
                let kept = Vec::new();
                report.modules.push(ImportedModule {
                    module,
                    rank_max: rank,
                    kept,
                });
                continue;
            }
            if one.table {
                let why = "sorank has no adapters on tables of embeddings, and without it the answers are others";
                return Err(Error::unsupported(&path, format!("LoRA on {module}"), why));
            }
            let kept = (0..rank).collect();
            report.modules.push(ImportedModule {
                module: module.clone(),
                rank_max: rank,
                kept,
            });
            factors.insert(module, one.factors((alpha / rank as f64) as f32));
        }
        if factors.is_empty() {
            return Err(Error::format(
                &path,
                "every parametrisation is zero: nothing to import",
            ));
        }
        let adapter = Adapter {
            path: dir.to_owned(),
            targets: Targets::exactly(factors.keys().cloned()),
            factors,
            saved: BTreeMap::new(),
            labels: None,
            task_type: None,
            problem: None,
            base: side.base,
            base_fingerprint: None,
            bytes: bytes.len() as u64,
            provenance: BTreeMap::new(),
        };
        Ok((adapter, report))
    }
}

/// What `config.json` says.
#[derive(Debug, Default)]
struct Side {
    alpha: Option<f64>,
    tasks: Vec<String>,
    base: Option<String>,
}

impl Side {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let bytes = bounded::read(&path, bounded::MAX_CONFIG)?;
        let fields = Fields::parse(&bytes, &path)?;
        let alpha = fields.get("lora_alpha");
        Ok(Self {
            alpha: alpha
                .map(|_| fields.number_or("lora_alpha", 0.0))
                .transpose()?,
            tasks: fields.strings("lora_adaptations")?.unwrap_or_default(),
            base: fields.string("_name_or_path")?.map(str::to_owned),
        })
    }
}

/// The parametrised modules; a part that is neither a factor nor the original is refused.
fn layout(file: &Checkpoint<'_>, path: &Path) -> Result<BTreeMap<String, Names>> {
    let mut modules: BTreeMap<String, Names> = BTreeMap::new();
    let (mut missing, mut unused) = (Vec::new(), Vec::new());
    for name in file.names() {
        let Some((module, part)) = name.split_once(MARK) else {
            continue;
        };
        let names = modules.entry(module.to_owned()).or_default();
        match part {
            "original" => names.original = Some(name),
            "0.lora_A" => names.a = Some(name),
            "0.lora_B" => names.b = Some(name),
            _ => unused.push(name),
        }
    }
    for (module, names) in &modules {
        let parts = [
            (&names.a, "0.lora_A"),
            (&names.b, "0.lora_B"),
            (&names.original, "original"),
        ];
        let absent = parts.iter().filter(|(name, _)| name.is_none());
        missing.extend(absent.map(|(_, part)| format!("{module}{MARK}{part}")));
    }
    if missing.is_empty() && unused.is_empty() {
        return Ok(modules);
    }
    let path = path.to_owned();
    Err(Error::Tensors {
        path,
        missing,
        unused,
    })
}

/// One parametrisation of one module: `a [r x in]` and `b [out x r]`, or those of a table.
#[derive(Debug)]
struct One {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    inputs: usize,
    outputs: usize,
    table: bool,
}

impl One {
    fn read(
        module: &str,
        names: &Names,
        file: &Checkpoint<'_>,
        side: &Side,
        options: &EmbeddedImport,
        path: &Path,
    ) -> Result<Self> {
        let tensor = |name: &Option<String>| {
            let name = name.as_deref().expect("`layout` found all three");
            file.decode(name)
        };
        let original = tensor(&names.original)?.shape;
        let (a, b) = (tensor(&names.a)?, tensor(&names.b)?);
        let (a_shape, b_shape) = (a.shape.clone(), b.shape.clone());
        let (a, b) = match (a_shape.len(), b_shape.len()) {
            (3, 3) => {
                let which = chosen(a_shape[0], side, options, path)?;
                (slice(a, which), slice(b, which))
            }
            _ => (Some(a), Some(b)),
        };
        let wrong = || {
            let found = format!("lora_A {a_shape:?}, lora_B {b_shape:?}, original {original:?}");
            let why = format!(
                "{module}: expected [rank, in], [out, rank], [out, in], or stacks of them; found {found}"
            );
            Error::format(path, why)
        };
        let (Some(a), Some(b), &[outputs, inputs]) = (a, b, original.as_slice()) else {
            return Err(wrong());
        };
        let (&[a0, a1], &[b0, b1]) = (a.shape.as_slice(), b.shape.as_slice()) else {
            return Err(wrong());
        };
        let linear = a1 == inputs && b0 == outputs && a0 == b1;
        let table = a0 == outputs && b1 == inputs && a1 == b0;
        let rank = if linear { a0 } else { a1 };
        if !(linear || table) || rank == 0 || rank > MAX_RANK {
            return Err(wrong());
        }
        let (a, b) = (a.data, b.data);
        Ok(Self {
            a,
            b,
            rank,
            inputs,
            outputs,
            table: !linear,
        })
    }

    /// Whether it changes nothing: one of the factors as it was before training.
    fn is_zero(&self) -> bool {
        let zero = |x: &[f32]| x.iter().all(|v| *v == 0.0);
        zero(&self.a) || zero(&self.b)
    }

    fn factors(self, scale: f32) -> Factors {
        Factors {
            a: Matrix::from_vec(self.a, self.rank, self.inputs),
            b: Matrix::from_vec(self.b, self.outputs, self.rank),
            scale,
        }
    }
}

/// Matrix `which` of a stack; `None` where it is not that long.
fn slice(stack: SavedTensor, which: usize) -> Option<SavedTensor> {
    let &[n, rows, cols] = stack.shape.as_slice() else {
        return None;
    };
    let size = rows * cols;
    (which < n).then(|| SavedTensor {
        shape: vec![rows, cols],
        data: stack.data[which * size..][..size].to_vec(),
    })
}

/// Which of `n` is asked for.
fn chosen(n: usize, side: &Side, options: &EmbeddedImport, path: &Path) -> Result<usize> {
    let tasks = &side.tasks;
    let known = match tasks.is_empty() {
        true => format!("0 to {}", n.saturating_sub(1)),
        false => tasks.join(", "),
    };
    let Some(which) = &options.which else {
        return match n {
            1 => Ok(0),
            _ => {
                let why = format!("{n} adapters: choose one (--which) of {known}");
                Err(Error::format(path, why))
            }
        };
    };
    let named = tasks.iter().position(|t| t == which);
    let found = named.or_else(|| which.parse().ok()).filter(|&i| i < n);
    found.ok_or_else(|| Error::format(path, format!("no adapter {which:?} among {known}")))
}

#[cfg(test)]
mod tests;
