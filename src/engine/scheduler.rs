//! Which rows run together: pure functions of lengths and tasks.
//!
//! Oldest first, at most a budget of tokens a batch; inside a batch, rows of one task stand together so that
//! they form one group. There is no padding, so lengths need not be alike. [`plan`] cuts a known set of rows into
//! batches; [`next`] picks one batch from rows that wait, where a task that sends more than its share must not keep
//! the others waiting.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
};

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
        together(items, batch);
    }
    batches
}

/// The next batch of `waiting`, which stand in order of arrival: row numbers, within `max_tokens` unless the oldest row
/// alone is above it.
///
/// The oldest row is always in it, so nobody waits for ever. Then each place goes to the oldest row of the task that has
/// the fewest tokens in the batch so far (max-min fair, as deficit round robin is over time): a task with few rows has
/// them all run at once, whatever queue another has. A task whose next row does not fit is done for this batch: its rows
/// never overtake each other.
pub fn next(waiting: &[Item], max_tokens: usize) -> Vec<usize> {
    let Some(oldest) = waiting.first() else {
        return Vec::new();
    };
    let mut batch = vec![0];
    let mut tokens = oldest.tokens;
    let mut queues: HashMap<usize, VecDeque<usize>> = HashMap::new();
    for (row, item) in waiting.iter().enumerate().skip(1) {
        queues.entry(item.task).or_default().push_back(row);
    }
    // Fewest tokens first; of equals, the one whose next row is oldest.
    let mut turns: BinaryHeap<Reverse<(usize, usize, usize)>> = BinaryHeap::new();
    for (&task, rows) in &queues {
        let granted = if task == oldest.task {
            oldest.tokens
        } else {
            0
        };
        turns.push(Reverse((granted, rows[0], task)));
    }
    while let Some(Reverse((granted, row, task))) = turns.pop() {
        let more = waiting[row].tokens;
        if tokens + more > max_tokens {
            continue;
        }
        batch.push(row);
        tokens += more;
        let queue = queues
            .get_mut(&task)
            .expect("a turn is of a task with rows");
        queue.pop_front();
        if let Some(&row) = queue.front() {
            turns.push(Reverse((granted + more, row, task)));
        }
    }
    batch.sort_unstable();
    together(waiting, &mut batch);
    batch
}

/// Puts rows of one task together: tasks in order of first appearance, rows of one task in order of arrival.
fn together(items: &[Item], batch: &mut [usize]) {
    let mut first_seen = HashMap::new();
    for &row in &*batch {
        first_seen.entry(items[row].task).or_insert(row);
    }
    batch.sort_by_key(|&row| first_seen[&items[row].task]); // stable
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

        #[test]
        fn the_next_batch_is_fair_and_wastes_nothing(
            rows in proptest::collection::vec((1usize..200, 0usize..5), 1..60),
            budget in 1usize..400,
        ) {
            let items: Vec<Item> = rows.iter().map(|&(tokens, task)| Item { tokens, task }).collect();
            let batch = next(&items, budget);
            let tokens: usize = batch.iter().map(|&r| items[r].tokens).sum();
            prop_assert!(batch.contains(&0), "the oldest row is in");
            prop_assert!(tokens <= budget || batch.len() == 1);
            let mut tasks: Vec<usize> = batch.iter().map(|&r| items[r].task).collect();
            tasks.dedup();
            let groups = tasks.len();
            tasks.sort_unstable();
            tasks.dedup();
            prop_assert_eq!(groups, tasks.len(), "a task stands in one place of a batch");
            let (rows, items, batch) = (&rows, &items, &batch);
            let of = &|task: usize| (0..items.len()).filter(move |&r| rows[r].1 == task);
            let granted = &|task: usize| -> usize {
                of(task).filter(|r| batch.contains(r)).map(|r| items[r].tokens).sum()
            };
            for task in 0..5 {
                let taken: Vec<bool> = of(task).map(|r| batch.contains(&r)).collect();
                prop_assert!(taken.is_sorted_by(|a, b| a >= b), "rows of a task keep their order");
                let Some(next) = of(task).find(|r| !batch.contains(r)) else { continue };
                prop_assert!(tokens + items[next].tokens > budget, "what fits is taken");
                // Nobody got a further row while this task, whose next row would have fitted in its place, had less.
                for other in 0..5 {
                    let last = of(other).rfind(|r| batch.contains(r) && *r != 0);
                    let Some(last) = last.filter(|_| other != task) else { continue };
                    let before = granted(other) - items[last].tokens;
                    let fitted = items[next].tokens <= items[last].tokens;
                    prop_assert!(!(fitted && before > granted(task)), "{other} had more than {task}");
                }
            }
        }
    }

    #[test]
    fn a_flood_of_one_adapter_leaves_the_others_their_place() {
        let flood = (0..1000).map(|_| Item {
            tokens: 10,
            task: 1,
        });
        let mut waiting: Vec<Item> = flood.collect();
        waiting.extend([
            Item {
                tokens: 10,
                task: 2,
            },
            Item {
                tokens: 10,
                task: 3,
            },
        ]);
        let batch = next(&waiting, 100);
        assert!(batch.contains(&1000) && batch.contains(&1001), "{batch:?}");
        assert_eq!(batch.len(), 10);
    }
}
