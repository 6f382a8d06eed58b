//! Arguments that name labelled rows, for training and for scoring.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    model::Model,
    spec::Problem,
    text::{Limit, Tokenizer, Truncate},
    train::{
        Example, Target,
        data::{Columns, Layout, PRESETS, Preset, Row, preset, read},
    },
};

/// Which columns of a file mean what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct ColumnArgs {
    /// A task whose files are known: cola, mrpc, rte, sst2, stsb, sick, trec
    #[arg(long, value_name = "NAME")]
    pub(super) task: Option<String>,
    /// Column (or JSON key) of the text
    #[arg(long, value_name = "COL", default_value = "text")]
    pub(super) text: String,
    /// Column of the second text of a pair
    #[arg(long, value_name = "COL")]
    pub(super) text_pair: Option<String>,
    /// Column of the label
    #[arg(long, value_name = "COL", default_value = "label")]
    pub(super) label: String,
    /// Labels are numbers to come near to
    #[arg(long, conflicts_with = "multi_label")]
    pub(super) regression: bool,
    /// A row may have any number of labels (JSON lists)
    #[arg(long)]
    pub(super) multi_label: bool,
    /// The most tokens of a row; longer ones lose their end
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) max_tokens: usize,
}

impl ColumnArgs {
    /// The preset that `--task` names.
    pub(super) fn preset(&self) -> Result<Option<Preset>, Failure> {
        let Some(task) = &self.task else {
            return Ok(None);
        };
        let unknown = || format!("--task {task:?}: known are {}", PRESETS.join(", "));
        preset(task)
            .map(Some)
            .ok_or_else(|| Failure::Usage(unknown()))
    }

    /// What outputs mean.
    pub(super) fn problem(&self) -> Result<Problem, Failure> {
        Ok(match self.preset()? {
            Some(preset) => preset.problem,
            None if self.regression => Problem::Regression,
            None if self.multi_label => Problem::MultiLabelClassification,
            None => Problem::SingleLabelClassification,
        })
    }

    /// The rows of a file.
    pub(super) fn rows(&self, path: &Path) -> Result<Vec<Row>, Failure> {
        let (layout, columns) = match self.preset()? {
            Some(preset) => (preset.layout, preset.columns),
            None => (
                Layout::of(path)?,
                Columns {
                    text: self.text.clone(),
                    pair: self.text_pair.clone(),
                    label: self.label.clone(),
                },
            ),
        };
        Ok(read(path, layout, &columns)?)
    }

    /// The most tokens of a row for `model`.
    pub(super) fn limit(&self, model: &Model) -> Limit {
        Limit {
            // A sentence model's own limit is for its sentences; the encoder takes more.
            max: self.max_tokens.min(model.spec().max_tokens),
            truncate: Truncate::Right,
        }
    }
}

/// Rows as tokens.
pub(super) fn examples(
    tokenizer: &Tokenizer,
    model: &Model,
    limit: Limit,
    path: &Path,
    rows: &[Row],
    targets: Vec<Target>,
) -> Result<Vec<Example>, Failure> {
    let texts: Vec<_> = rows
        .iter()
        .map(|r| (r.text.as_str(), r.pair.as_deref()))
        .collect();
    let most = model.spec().embed.types.max(1) as u32 - 1;
    let encoded = tokenizer.encode_batch(&texts, limit, &|_| {});
    let parts = encoded.into_iter().zip(rows).zip(targets);
    parts
        .map(|((encoded, row), target)| {
            let encoded = encoded.map_err(|e| crate::Error::Row {
                source_name: path.display().to_string(),
                line: row.line,
                why: e.to_string(),
            })?;
            Ok(Example {
                ids: encoded.ids,
                types: encoded.types.iter().map(|&t| t.min(most)).collect(),
                target,
            })
        })
        .collect()
}

/// The file given, or a preset's in the data directory.
pub(super) fn file(
    given: Option<&PathBuf>,
    dir: Option<&PathBuf>,
    name: Option<&'static str>,
    flag: &str,
) -> Result<PathBuf, Failure> {
    match (given, dir, name) {
        (Some(path), _, _) => Ok(path.clone()),
        (None, Some(dir), Some(name)) => Ok(dir.join(name)),
        _ => Err(Failure::Usage(format!(
            "{flag} FILE is missing (or --task with --data-dir)"
        ))),
    }
}
