//! Which rows run together: a pure function of lengths and tasks.
//!
//! Oldest first, at most a budget of tokens a batch; inside a batch, rows of one task stand together so that
//! they form one group. There is no padding, so lengths need not be alike.

/// A row as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its tokens.
    pub tokens: usize,
    /// Which task it is for; equal numbers are one task.
    pub task: usize,
}

/// Batches of row numbers: every row once, each batch within `max_tokens` unless one row alone is above it.
pub fn plan(items: &[Item], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for (row, item) in items.iter().enumerate() {
        match batches.last_mut() {
            Some(batch) if tokens + item.tokens <= max_tokens => {
                batch.push(row);
                tokens += item.tokens;
            }
            _ => {
                batches.push(vec![row]);
                tokens = item.tokens;
            }
        }
    }
    for batch in &mut batches {
        // Stable: tasks in order of first appearance, rows of one task in order of arrival.
        let mut first_seen = std::collections::HashMap::new();
        for &row in &*batch {
            first_seen.entry(items[row].task).or_insert(row);
        }
        batch.sort_by_key(|&row| first_seen[&items[row].task]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_runs_once_within_budget(
            rows in proptest::collection::vec((1usize..200, 0usize..5), 0..60),
            budget in 1usize..400,
        ) {
            let items: Vec<Item> = rows.iter().map(|&(tokens, task)| Item { tokens, task }).collect();
            let batches = plan(&items, budget);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..items.len()).collect::<Vec<_>>());
            let mut newest_before = None;
            for batch in &batches {
                let tokens: usize = batch.iter().map(|&r| items[r].tokens).sum();
                prop_assert!(tokens <= budget || batch.len() == 1);
                let mut changes: Vec<usize> = batch.iter().map(|&r| items[r].task).collect();
                changes.dedup();
                let groups = changes.len();
                changes.sort_unstable();
                changes.dedup();
                prop_assert_eq!(groups, changes.len(), "a task stands in one place of a batch");
                prop_assert!(newest_before.is_none_or(|n| batch.iter().all(|&r| r > n)), "oldest first");
                newest_before = batch.iter().copied().max();
            }
        }
    }
}
