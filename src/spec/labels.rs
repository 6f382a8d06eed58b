//! What a configuration says of the checkpoint's own head: which kind it is, its labels, what its outputs mean.

use super::{OwnHead, Problem, config::Config};
use crate::Result;

/// The most labels taken.
const MOST: usize = 1 << 20;

/// The head that `architectures` names.
pub(super) fn own_head(config: &Config<'_>) -> Result<Option<OwnHead>> {
    let Some(classes) = config.get("architectures") else {
        return Ok(None);
    };
    let classes = classes.as_array().map(Vec::as_slice).unwrap_or_default();
    let class = match classes {
        [] => return Ok(None),
        [class] => class.as_str(),
        _ => None,
    };
    let class =
        class.ok_or_else(|| config.error("architectures", "expected the name of one class"))?;
    Ok(if class.ends_with("ForSequenceClassification") {
        Some(OwnHead::Sequence)
    } else if class.ends_with("ForTokenClassification") {
        Some(OwnHead::Token)
    } else {
        None
    })
}

/// Labels by index. Where a head has no names for them, transformers' own: `LABEL_0`, ...
pub(super) fn labels(config: &Config<'_>, head: Option<OwnHead>) -> Result<Vec<String>> {
    const KEY: &str = "id2label";
    let Some(map) = config.get(KEY) else {
        let count = if head.is_some() {
            config.number("num_labels", Some(2), 1, MOST)?
        } else {
            0
        };
        return Ok((0..count).map(|i| format!("LABEL_{i}")).collect());
    };
    let Some(map) = map.as_object() else {
        return Err(config.error(KEY, "expected an object from index to label"));
    };
    let mut labels = vec![None; map.len()];
    for (index, label) in map {
        // The index as transformers writes it: "01" would be the same index as "1", twice.
        let at = index
            .parse::<usize>()
            .ok()
            .filter(|i| i.to_string() == *index);
        let Some(slot) = at.and_then(|i| labels.get_mut(i)) else {
            let why = format!(
                "expected the indices 0 to {}, found {index:?}",
                map.len().saturating_sub(1)
            );
            return Err(config.error(KEY, why));
        };
        let label = match label {
            serde_json::Value::String(s) => s.clone(),
            serde_json::Value::Number(n) => n.to_string(),
            other => {
                return Err(
                    config.error(KEY, format!("expected a label at {index}, found {other}"))
                );
            }
        };
        *slot = Some(label);
    }
    // As many different indices below the length as there are entries: every one is there.
    let labels: Vec<String> = labels.into_iter().flatten().collect();
    if head.is_some() {
        let mut sorted: Vec<&String> = labels.iter().collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|w| w[0] == w[1]) {
            return Err(config.error(KEY, format!("two indices have the label {:?}", pair[0])));
        }
    }
    Ok(labels)
}

/// `problem_type`.
pub(super) fn problem(config: &Config<'_>) -> Result<Option<Problem>> {
    let choices = [
        ("regression", Some(Problem::Regression)),
        (
            "single_label_classification",
            Some(Problem::SingleLabelClassification),
        ),
        (
            "multi_label_classification",
            Some(Problem::MultiLabelClassification),
        ),
    ];
    config.choice("problem_type", None, &choices)
}
