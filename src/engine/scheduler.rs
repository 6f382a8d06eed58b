//! Which rows run together: pure functions of lengths and tasks.
//!
//! Oldest first, at most a budget of tokens a batch; inside a batch, rows of one task stand together so that
//! they form one group. There is no padding, so lengths need not be alike. [`plan`] cuts a known set of rows into
//! batches; [`next`] picks one batch from rows that wait, where a task that sends more than its share must not keep
//! the others waiting. All rows of a batch are answered when its last one is, so at light load a small batch is the
//! faster one, and the work that waits says how large it should be ([`Budget::of`]).

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
};

/// A row as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its tokens.
    pub tokens: usize,
    /// Which task it is for; equal numbers are one task.
    pub task: usize,
    /// Which text it is of; equal numbers are one text, whose lower layers are computed once in a batch.
    pub text: usize,
}

/// How many tokens a batch may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Of different texts.
    pub texts: usize,
    /// In all, with further rows of its texts.
    pub rows: usize,
}

impl Budget {
    /// For `waiting` tokens that `workers` take from: each takes half of its share, so that newcomers and the other workers
    /// find something left, but at least `least`, below which kernels are slower a token, and at most `most`.
    pub fn of(waiting: usize, workers: usize, least: usize, most: usize) -> Self {
        let share = waiting / (2 * workers.max(1));
        Self {
            texts: share.max(least).min(most),
            rows: most,
        }
    }
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

/// The next batch of `waiting`, which stand in order of arrival: row numbers, within `budget` unless the oldest row
/// alone is above it. Further rows of a text that is in the batch count against the whole budget only: together they
/// cost less than apart.
///
/// The oldest row is always in it, so nobody waits for ever. Then each place goes to the oldest row of the task that has
/// the fewest tokens in the batch so far (max-min fair, as deficit round robin is over time): a task with few rows has
/// them all run at once, whatever queue another has. A task whose next row does not fit is done for this batch: its rows
/// never overtake each other.
pub fn next(waiting: &[Item], budget: Budget) -> Vec<usize> {
    let Some(oldest) = waiting.first() else {
        return Vec::new();
    };
    let mut batch = vec![0];
    let mut texts = HashSet::from([oldest.text]);
    let (mut of_texts, mut of_rows) = (oldest.tokens, oldest.tokens);
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
        let new = !texts.contains(&waiting[row].text);
        if of_rows + more > budget.rows || new && of_texts + more > budget.texts {
            continue;
        }
        batch.push(row);
        texts.insert(waiting[row].text);
        of_rows += more;
        of_texts += if new { more } else { 0 };
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
mod tests;
