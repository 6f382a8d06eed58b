//! Import of a checkpoint of the original SoRA code, or of plain OpenDelta LoRA, as an [`Adapter`].
//!
//! ```text
//! <module>.lora.lora_A   [r_max, in]
//! <module>.lora.lora_B   [out, r_max]
//! <module>.lora.gate     [1, r_max] or [r_max]; absent in plain LoRA, where it counts as ones
//! dW = alpha / r_max * B diag(gate) A
//! ```
//! The file is `pytorch_model.bin` (read without executing anything, see `unpickle`) or safetensors of the same names.
//! A rank whose gate is zero is dropped, and so is one whose row of A or column of B is; the rest of the gate and the
//! scale go into B. The scale is that of `r_max`, the rank *before* pruning: it never changed while gates died.
//!
//! The original code saves neither alpha nor, on DeBERTa, the pooler and classifier (they stayed at their random start).
//! Alpha is asked for, or taken from an OpenDelta `config.json`, or 16; the head comes from another file by request.
//! Weights of the base in the file are refused: an adapter that needs a changed base is not an adapter.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    Adapter, SavedTensor, Targets, TaskType, bounded,
    checkpoint::{self, Checkpoint, ImportReport, ImportedModule},
    gate,
    json::Fields,
    labels,
    peft_config::MAX_RANK,
};
use crate::{Error, Result, mat::Matrix};

/// `lora_alpha` of the original scripts, which write it nowhere.
const DEFAULT_ALPHA: f64 = 16.0;
/// Files of a checkpoint directory, the first there is.
const CANDIDATES: [&str; 3] = [
    "model.safetensors",
    "pytorch_model.safetensors",
    "pytorch_model.bin",
];
/// Modules that make up a classification head, wherever in a path they stand.
const HEADS: [&str; 4] = ["pooler", "classifier", "pre_classifier", "score"];

/// What an import cannot learn from the checkpoint.
#[derive(Debug, Clone, Default)]
pub struct SoraImport {
    /// `lora_alpha`; `None`: what an OpenDelta configuration beside the file says, else 16.
    pub alpha: Option<f64>,
    /// Gates at most this far from zero count as zero. 0 is what the original code leaves.
    pub eps: f32,
    /// A file with the head's tensors, such as a dump of the whole model; nothing else is taken from it.
    pub head: Option<PathBuf>,
    /// What the adapter is for; `None`: sequence classification where there is a classifier.
    pub task: Option<TaskType>,
}

impl Adapter {
    /// Imports a SoRA or OpenDelta LoRA checkpoint: a directory, or the weight file itself.
    ///
    /// # Errors
    /// A checkpoint that wants to run code, tensors that are missing, of wrong shapes, not finite, or no part of an
    /// adapter; an import that leaves no rank.
    pub fn import_sora(from: &Path, options: &SoraImport) -> Result<(Adapter, ImportReport)> {
        let path = weight_file(from)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        let bytes = bounded::read(&path, bounded::MAX_WEIGHTS)?;
        let file = Checkpoint::parse(&bytes, &path)?;
        let side = Side::read(dir)?;
        let alpha = options.alpha.or(side.alpha).unwrap_or(DEFAULT_ALPHA);
        if !alpha.is_finite() || options.eps.is_nan() || options.eps < 0.0 {
            let why = format!(
                "alpha {alpha}, eps {}: expected finite, not below 0",
                options.eps
            );
            return Err(Error::format(&path, why));
        }
        let (modules, mut saved) = layout(&file, &path)?;
        let mut factors = BTreeMap::new();
        let mut report = ImportReport {
            alpha,
            modules: Vec::new(),
            head: Vec::new(),
        };
        let mut gates = BTreeMap::new();
        for (module, names) in &modules {
            let gated = Gated::read(module, names, &file, &path)?;
            if side.rank.is_some_and(|r| r != gated.gate.len()) {
                let why = format!(
                    "{module} has rank {}, and lora_r is another",
                    gated.gate.len()
                );
                return Err(Error::config(&dir.join("config.json"), "lora_r", why));
            }
            let kept = gated.live(options.eps);
            let scale = (alpha / gated.gate.len() as f64) as f32;
            let folded = gate::fold(&gated.a, &gated.b, &gated.gate, &kept, scale);
            if let Some(folded) = folded {
                let [a, b] = names.factors();
                folded.refuse_overflow(a, b, &path)?;
                factors.insert(module.clone(), folded);
            }
            let values: Vec<f32> = kept.iter().map(|&j| gated.gate[j]).collect();
            gates.insert(module.clone(), values);
            let rank_max = gated.gate.len();
            report.modules.push(ImportedModule {
                module: module.clone(),
                rank_max,
                kept,
            });
        }
        if factors.is_empty() {
            return Err(Error::format(
                &path,
                "every gate is zero: nothing is left to import",
            ));
        }
        if let Some(head) = &options.head {
            saved = read_head(head)?;
        }
        report.head = saved.keys().cloned().collect();
        let classifies = saved
            .keys()
            .any(|p| !p.split('.').any(|part| part == "pooler"));
        let task = TaskType::SequenceClassification;
        let adapter = Adapter {
            path: from.to_owned(),
            targets: Targets::exactly(factors.keys().cloned()),
            provenance: provenance(&report, &gates),
            factors,
            saved,
            labels: side.labels.names.filter(|_| classifies),
            problem: side.labels.problem.filter(|_| classifies),
            task_type: options.task.or(classifies.then_some(task)),
            base: side.base,
            base_fingerprint: None,
            bytes: bytes.len() as u64,
        };
        Ok((adapter, report))
    }
}

/// The weight file of `from`.
fn weight_file(from: &Path) -> Result<PathBuf> {
    if from.is_file() {
        return Ok(from.to_owned());
    }
    checkpoint::first_of(from, &CANDIDATES)
}

/// What `config.json` beside the checkpoint may say: the backbone's, or an OpenDelta delta's.
#[derive(Debug, Default)]
struct Side {
    alpha: Option<f64>,
    rank: Option<usize>,
    base: Option<String>,
    labels: labels::Labels,
}

impl Side {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        if !bounded::is_there(&path)? {
            return Ok(Self::default());
        }
        let bytes = bounded::read(&path, bounded::MAX_CONFIG)?;
        let fields = Fields::parse(&bytes, &path)?;
        let number = |key: &str| {
            fields
                .get(key)
                .map(|_| fields.number_or(key, 0.0))
                .transpose()
        };
        let rank = fields
            .get("lora_r")
            .map(|_| fields.count_or("lora_r", 1, MAX_RANK));
        Ok(Self {
            alpha: number("lora_alpha")?,
            rank: rank.transpose()?,
            base: fields
                .string("_name_or_path")?
                .filter(|s| !s.is_empty())
                .map(str::to_owned),
            labels: labels::parse(&bytes, &path)?,
        })
    }
}

/// Tensor names of one module.
#[derive(Debug, Default)]
struct Names {
    a: Option<String>,
    b: Option<String>,
    gate: Option<String>,
}

impl Names {
    /// The names of both factors, which `layout` found.
    fn factors(&self) -> [&str; 2] {
        [&self.a, &self.b].map(|name| name.as_deref().expect("`layout` found both factors"))
    }
}

/// Every tensor's place: factors by module, and the head's tensors; what has no place is refused with all its names.
fn layout(
    file: &Checkpoint<'_>,
    path: &Path,
) -> Result<(BTreeMap<String, Names>, BTreeMap<String, SavedTensor>)> {
    let mut modules: BTreeMap<String, Names> = BTreeMap::new();
    let mut saved = BTreeMap::new();
    let mut unused = Vec::new();
    for name in file.names() {
        // Distributed training puts a prefix before every name.
        let bare = name.strip_prefix("module.").unwrap_or(&name);
        if let Some((module, part)) = factor_name(bare) {
            let names = modules.entry(module.to_owned()).or_default();
            let slot = match part {
                "lora_A" => &mut names.a,
                "lora_B" => &mut names.b,
                _ => &mut names.gate,
            };
            if let Some(first) = slot.replace(name.clone()) {
                let why = format!("tensors {first} and {name} are two of one module");
                return Err(Error::format(path, why));
            }
        } else if is_head(bare) {
            saved.insert(bare.to_owned(), file.decode(&name)?);
        } else {
            unused.push(name);
        }
    }
    let mut missing = Vec::new();
    for (module, names) in &modules {
        for (slot, part) in [(&names.a, "lora_A"), (&names.b, "lora_B")] {
            if slot.is_none() {
                missing.push(format!("{module}.lora.{part}"));
            }
        }
    }
    if modules.is_empty() && unused.is_empty() {
        return Err(Error::format(
            path,
            "no tensor is named <module>.lora.lora_A",
        ));
    }
    if !missing.is_empty() || !unused.is_empty() {
        return Err(Error::Tensors {
            path: path.to_owned(),
            missing,
            unused,
        });
    }
    Ok((modules, saved))
}

/// `<module>.lora.lora_A`, or `.lora_1.` where OpenDelta had to number its deltas.
fn factor_name(name: &str) -> Option<(&str, &str)> {
    let (rest, part) = name.rsplit_once('.')?;
    let (module, delta) = rest.rsplit_once('.')?;
    let number = delta.strip_prefix("lora")?;
    let numbered = number
        .strip_prefix('_')
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let known = matches!(part, "lora_A" | "lora_B" | "gate");
    (known && (number.is_empty() || numbered)).then_some((module, part))
}

fn is_head(parameter: &str) -> bool {
    let owner = parameter.rsplit_once('.').map_or("", |(owner, _)| owner);
    owner.split('.').any(|part| HEADS.contains(&part))
}

/// The head's tensors of another file.
fn read_head(path: &Path) -> Result<BTreeMap<String, SavedTensor>> {
    let bytes = bounded::read(path, bounded::MAX_WEIGHTS)?;
    let file = Checkpoint::parse(&bytes, path)?;
    let mut saved = BTreeMap::new();
    for name in file.names() {
        let bare = name.strip_prefix("module.").unwrap_or(&name);
        if is_head(bare) && factor_name(bare).is_none() {
            saved.insert(bare.to_owned(), file.decode(&name)?);
        }
    }
    if saved.is_empty() {
        let why = format!(
            "expected tensors of a head, under one of {}",
            HEADS.join(", ")
        );
        return Err(Error::format(path, why));
    }
    Ok(saved)
}

/// One module as it was trained.
#[derive(Debug)]
struct Gated {
    a: Matrix,
    b: Matrix,
    gate: Vec<f32>,
}

impl Gated {
    fn read(module: &str, names: &Names, file: &Checkpoint<'_>, path: &Path) -> Result<Self> {
        let [a_name, b_name] = names.factors();
        let (a, b) = (file.decode(a_name)?, file.decode(b_name)?);
        let wrong = |name: &str, expected: String, found: &[usize]| Error::Shape {
            path: path.to_owned(),
            name: name.to_owned(),
            expected,
            found: found.to_vec(),
        };
        let &[rank, width] = a.shape.as_slice() else {
            return Err(wrong(a_name, "[rank, in]".into(), &a.shape));
        };
        if rank > MAX_RANK {
            return Err(wrong(
                a_name,
                format!("a rank of at most {MAX_RANK}"),
                &a.shape,
            ));
        }
        let &[height, b_rank] = b.shape.as_slice() else {
            return Err(wrong(b_name, format!("[out, {rank}]"), &b.shape));
        };
        if b_rank != rank {
            return Err(wrong(
                b_name,
                format!("[out, {rank}], lora_A of {module} being {:?}", a.shape),
                &b.shape,
            ));
        }
        let gate = match &names.gate {
            None => vec![1.0; rank],
            Some(name) => {
                let gate = file.decode(name)?;
                if gate.shape != [1, rank] && gate.shape != [rank] {
                    return Err(wrong(name, format!("[1, {rank}] or [{rank}]"), &gate.shape));
                }
                gate.data
            }
        };
        Ok(Self {
            a: Matrix::from_vec(a.data, rank, width),
            b: Matrix::from_vec(b.data, height, rank),
            gate,
        })
    }

    /// Ranks that add something: an open gate between a row and a column that are not zero.
    fn live(&self, eps: f32) -> Vec<usize> {
        let mut live = gate::live(&self.gate, eps);
        live.retain(|&j| {
            self.a.row(j).iter().any(|v| *v != 0.0)
                && (0..self.b.rows()).any(|o| self.b.row(o)[j] != 0.0)
        });
        live
    }
}

/// What was trained and what was kept of it, for whoever asks later.
fn provenance(
    report: &ImportReport,
    gates: &BTreeMap<String, Vec<f32>>,
) -> BTreeMap<String, String> {
    let kept: BTreeMap<&str, &[usize]> = report
        .modules
        .iter()
        .map(|m| (m.module.as_str(), m.kept.as_slice()))
        .collect();
    let rank_max: BTreeSet<usize> = report.modules.iter().map(|m| m.rank_max).collect();
    let ranks: Vec<String> = rank_max.iter().map(usize::to_string).collect();
    let text = |value: serde_json::Result<String>| value.expect("names and finite numbers");
    BTreeMap::from([
        ("sorank.sora.alpha".to_owned(), report.alpha.to_string()),
        ("sorank.sora.r_max".to_owned(), ranks.join(",")),
        (
            "sorank.sora.kept".to_owned(),
            text(serde_json::to_string(&kept)),
        ),
        (
            "sorank.sora.gates".to_owned(),
            text(serde_json::to_string(gates)),
        ),
    ])
}

#[cfg(test)]
mod tests;
