//! An [`Adapter`] as a *baked* PEFT directory, which every version of PEFT loads at the scale it was meant to have.
//!
//! Baked: the scale is folded into B, and every module's alpha equals its rank, so that `alpha / r` is 1 whoever
//! reads it, with the patterns (PEFT) or without them (`r = lora_alpha = max R`). Modules without a rank are
//! neither in the file nor in `target_modules`, which lists full paths; a rank of 0 is an error to PEFT.
//!
//! Bytes are a function of the adapter and the type alone: keys sorted, tensors in name order, f32 unless told otherwise. The directory is made under
//! a temporary name beside its place, read back and compared, synced, and renamed, so that a reader sees all of it
//! or nothing. An existing directory is not written over: what is in it may be mapped or half the user's own.

mod stored;

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use serde_json::{Map, Value, json};

pub use self::stored::Stored;
use super::{
    Adapter, BASE_FINGERPRINT, Factors, SavedTensor, TaskType, labels,
    peft::{CONFIG, PREFIX, WEIGHTS},
    tensors,
};
use crate::{Error, Result, mat::Matrix};

impl Factors {
    /// The same product with the scale folded into B.
    pub fn baked(&self) -> Factors {
        if self.scale == 1.0 {
            return self.clone();
        }
        let b = self.b.as_slice().iter().map(|v| v * self.scale).collect();
        Factors {
            a: self.a.clone(),
            b: Matrix::from_vec(b, self.b.rows(), self.b.cols()),
            scale: 1.0,
        }
    }
}

impl Adapter {
    /// The same adapter with every scale folded into B and modules of rank 0 left out: what [`Adapter::write`] stores.
    pub fn baked(&self) -> Adapter {
        let live = self.factors.iter().filter(|(_, f)| f.rank() > 0);
        Adapter {
            factors: live
                .map(|(module, f)| (module.clone(), f.baked()))
                .collect(),
            ..self.clone()
        }
    }

    /// Writes the adapter to `dir`, which must not exist or be empty, as PEFT files with the scale folded into B, and
    /// `labels.json` where there are labels.
    ///
    /// A classifier's adapter that carries no head is written without its `task_type`, because PEFT would look
    /// for the head and fail.
    ///
    /// # Errors
    /// An adapter without a rank, a value that is not finite, a place that is taken, and what the file system says.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.write_as(dir, Stored::F32)
    }

    /// [`Adapter::write`] with every number rounded to `stored`, the head's too.
    ///
    /// # Errors
    /// As there, and a number that the type cannot hold.
    pub fn write_as(&self, dir: &Path, stored: Stored) -> Result<()> {
        let baked = stored.of(&self.baked());
        let config = config_bytes(&baked, dir)?;
        let weights = weight_bytes(&baked, stored, dir)?;
        let labels = labels::to_json(baked.labels.as_deref(), baked.problem).map(|v| pretty(&v));
        verify(&baked, &config, &weights, labels.as_deref(), dir)?;

        let mut files = vec![(CONFIG, config), (WEIGHTS, weights)];
        files.extend(labels.map(|bytes| (labels::LABELS, bytes)));
        place(dir, &files)
    }
}

/// What was made must read back as what was meant, before it takes its name.
fn verify(
    baked: &Adapter,
    config: &[u8],
    weights: &[u8],
    labels: Option<&[u8]>,
    dir: &Path,
) -> Result<()> {
    let back = Adapter::from_bytes(config, weights, labels, dir)?;
    let same = back.factors == baked.factors
        && back.saved == baked.saved
        && back.labels == baked.labels
        && back.base_fingerprint == baked.base_fingerprint;
    match same {
        true => Ok(()),
        false => Err(Error::format(
            dir,
            "the adapter cannot be told in PEFT's files",
        )),
    }
}

fn config_bytes(adapter: &Adapter, dir: &Path) -> Result<Vec<u8>> {
    let Some(largest) = adapter.factors.values().map(Factors::rank).max() else {
        let why = "every rank is pruned away; an adapter that changes nothing is not written";
        return Err(Error::format(dir, why));
    };
    let ranks: Map<String, Value> = adapter
        .factors
        .iter()
        .map(|(module, f)| (module.clone(), f.rank().into()))
        .collect();
    let modules: Vec<&String> = adapter.factors.keys().collect();
    let saved = saved_modules(adapter, dir)?;
    let head = saved
        .iter()
        .any(|m| m.ends_with("classifier") || m.ends_with("score"));
    let task = adapter
        .task_type
        .filter(|t| *t == TaskType::FeatureExtraction || head);
    // Keys in alphabetical order, as PEFT writes them.
    let config = json!({
        "alpha_pattern": ranks,
        "base_model_name_or_path": adapter.base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "peft_type": "LORA",
        "r": largest,
        "rank_pattern": ranks,
        "revision": null,
        "target_modules": modules,
        "task_type": task,
        "use_dora": false,
        "use_rslora": false,
    });
    Ok(pretty(&config))
}

/// The modules that own the saved tensors, outermost first: a classifier whole, the others by their own path.
fn saved_modules(adapter: &Adapter, dir: &Path) -> Result<Vec<String>> {
    let mut modules = BTreeSet::new();
    for parameter in adapter.saved.keys() {
        let (owner, _) = parameter.rsplit_once('.').ok_or_else(|| {
            Error::format(
                dir,
                format!("saved tensor {parameter}: expected <module>.<parameter>"),
            )
        })?;
        // PEFT wraps these by itself for classifiers, and a wrapper inside a wrapper does not load.
        let whole = ["classifier", "score"]
            .into_iter()
            .find(|m| owner.split('.').next() == Some(m));
        modules.insert(whole.unwrap_or(owner).to_owned());
    }
    let inside = |m: &str| {
        modules.iter().any(|o| {
            m.strip_prefix(o.as_str())
                .is_some_and(|r| r.starts_with('.'))
        })
    };
    Ok(modules.iter().filter(|m| !inside(m)).cloned().collect())
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text =
        serde_json::to_string_pretty(value).expect("keys are strings and numbers are finite");
    text.push('\n');
    text.into_bytes()
}

/// A safetensors file: header length, header (sorted, padded to 8 bytes), elements in name order.
fn weight_bytes(adapter: &Adapter, stored: Stored, dir: &Path) -> Result<Vec<u8>> {
    let mut entries: Vec<(String, Vec<usize>, &[f32])> = Vec::new();
    for (module, f) in &adapter.factors {
        for (part, m) in [("A", &f.a), ("B", &f.b)] {
            let name = format!("{PREFIX}{module}.lora_{part}.weight");
            entries.push((name, vec![m.rows(), m.cols()], m.as_slice()));
        }
    }
    for (parameter, SavedTensor { shape, data }) in &adapter.saved {
        entries.push((format!("{PREFIX}{parameter}"), shape.clone(), data));
    }
    entries.sort_by(|x, y| x.0.cmp(&y.0));

    let mut header = Map::new();
    header.insert("__metadata__".into(), metadata(adapter));
    let mut end = 0;
    for (name, shape, data) in &entries {
        tensors::check_name(name, dir)?;
        tensors::refuse_non_finite(dir, name, data)?;
        let start = end;
        end += stored.size() * data.len();
        let entry = json!({"dtype": stored.name(), "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(
        ' ',
        header.len().next_multiple_of(8) - header.len(),
    ));

    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.as_bytes());
    for (_, _, data) in &entries {
        stored.write(data, &mut bytes);
    }
    Ok(bytes)
}

fn metadata(adapter: &Adapter) -> Value {
    let mut all = adapter.provenance.clone();
    all.insert("format".into(), "pt".into());
    if let Some(fingerprint) = &adapter.base_fingerprint {
        all.insert(BASE_FINGERPRINT.into(), fingerprint.clone());
    }
    all.into_iter()
        .map(|(k, v)| (k, v.into()))
        .collect::<Map<_, _>>()
        .into()
}

/// Puts `files` into a new directory `dir`, all or nothing.
fn place(dir: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let taken = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io(dir)(e)),
    };
    if taken {
        let why = "it exists and is not empty; choose another name or remove it";
        return Err(Error::format(dir, why));
    }
    let parent = match dir.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sorank-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777)); // less the umask, as mkdir does
    }
    let temporary = builder.tempdir_in(parent).map_err(Error::io(parent))?;
    for (name, bytes) in files {
        let path = temporary.path().join(name);
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::new(File::create_new(&path)?);
            out.write_all(bytes)?;
            out.into_inner()?.sync_all()
        };
        write().map_err(Error::io(&path))?;
    }
    sync_directory(temporary.path())?;
    // A rename replaces an empty directory, and fails on one that has been filled meanwhile.
    std::fs::rename(temporary.path(), dir).map_err(Error::io(dir))?;
    let _renamed_away = temporary.keep();
    sync_directory(parent)
}

/// Makes the names in `dir` durable, where the system knows how.
fn sync_directory(dir: &Path) -> Result<()> {
    match cfg!(unix) {
        true => File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(Error::io(dir)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
