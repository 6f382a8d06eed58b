//! Arguments that name labelled rows, for training and for scoring.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    model::{Level, Model},
    spec::Problem,
    text::{Limit, Tokenizer, Truncate},
    train::{
        Example, Target,
        data::{Columns, Layout, PRESETS, Preset, Row, Split, preset, read, tags::to_tokens},
    },
};

/// Which columns of a file mean what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(super) struct ColumnArgs {
    /// A task whose files are known: cola, sst2, mrpc, stsb, qqp, mnli, mnli-mm, qnli, rte, wnli (GLUE), trec, sick, banking77,
    /// clinc150, conll2003
    #[arg(long, value_name = "NAME")]
    pub(super) task: Option<String>,
    /// Column (or key) of the text
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
    /// A row may have any number of labels (lists in JSON lines or Parquet)
    #[arg(long)]
    pub(super) multi_label: bool,
    /// Each word has a label: .conll files, or lists of words and of labels in JSON lines or Parquet
    #[arg(long, conflicts_with_all = ["multi_label", "regression"])]
    pub(super) tags: bool,
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
        let unknown = || {
            let known: Vec<&str> = PRESETS.iter().map(|p| p.name).collect();
            format!("--task {task:?}: known are {}", known.join(", "))
        };
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

    /// One label a text, or one a word.
    pub(super) fn level(&self) -> Result<Level, Failure> {
        Ok(match self.preset()? {
            Some(preset) => preset.level,
            None if self.tags => Level::Token,
            None => Level::Sequence,
        })
    }

    /// The rows of `given`, or of the preset's file for `split` in `dir`.
    pub(super) fn rows(
        &self,
        given: Option<&PathBuf>,
        dir: Option<&Path>,
        split: Split,
        flag: &str,
    ) -> Result<(PathBuf, Vec<Row>), Failure> {
        let preset = self.preset()?;
        let (path, layout) = match (given, &preset, dir) {
            (Some(path), Some(preset), _) => (path.clone(), preset.layout(split)),
            (Some(path), None, _) => (path.clone(), Layout::of(path)?),
            (None, Some(preset), Some(dir)) => preset.file(dir, split).ok_or_else(|| {
                let name = preset.name;
                Failure::Usage(format!("--task {name} has no labelled test file"))
            })?,
            _ => {
                let why = format!("{flag} FILE is missing (or --task with --data-dir)");
                return Err(Failure::Usage(why));
            }
        };
        let columns = preset.map_or_else(
            || Columns {
                text: self.text.clone(),
                pair: self.text_pair.clone(),
                label: self.label.clone(),
                tags: self.tags,
            },
            |preset| preset.columns(),
        );
        let rows = read(&path, layout, &columns)?;
        Ok((path, rows))
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

/// Rows as tokens; labels of words become labels of tokens.
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
            let target = match target {
                Target::Tokens(words) => Target::Tokens(to_tokens(&row.text, &encoded, &words)),
                whole => whole,
            };
            Ok(Example {
                ids: encoded.ids,
                types: encoded.types.iter().map(|&t| t.min(most)).collect(),
                target,
            })
        })
        .collect()
}
