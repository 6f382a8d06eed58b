//! The packed batch: rows of different lengths and tasks, end to end, without padding.
//!
//! `ids`, `types` and `positions` have one entry a token; sequence `s` is the rows
//! `offsets[s] .. offsets[s + 1]` of every activation matrix. Sequences of one task stand together, so
//! a group is a range of rows. Knows nothing of text: ids come from the tokenizer, tasks are numbers.

use std::ops::Range;

/// One tokenised sequence, as the encoder needs it.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Token ids, special tokens included; at least one.
    pub ids: &'a [u32],
    /// Token types, one each (0 where the model has none).
    pub types: &'a [u32],
    /// The task it is for: an index into the tasks given to `Model::forward`.
    pub task: usize,
}

/// Consecutive sequences of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Index into the tasks given to `Model::forward`.
    pub task: usize,
    /// Its sequences.
    pub sequences: Range<usize>,
    /// Its rows, that is tokens.
    pub rows: Range<usize>,
}

/// A packed batch.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    ids: Vec<u32>,       // [T]
    types: Vec<u32>,     // [T]
    offsets: Vec<usize>, // [S + 1]
    groups: Vec<Group>,
}

impl Batch {
    /// Packs `sequences` in the order given. Sequences of one task should stand together: each change of
    /// task from one sequence to the next starts a group, and groups cost a call each.
    ///
    /// # Panics
    /// When a sequence has no token, or not one type a token.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = Sequence<'a>>) -> Self {
        let mut batch = Batch {
            offsets: vec![0],
            ..Batch::default()
        };
        for sequence in sequences {
            assert!(
                !sequence.ids.is_empty(),
                "admission refuses empty sequences"
            );
            assert_eq!(sequence.ids.len(), sequence.types.len(), "one type a token");
            let (s, start) = (batch.sequences(), batch.tokens());
            batch.ids.extend_from_slice(sequence.ids);
            batch.types.extend_from_slice(sequence.types);
            let end = batch.tokens();
            batch.offsets.push(end);
            match batch.groups.last_mut() {
                Some(group) if group.task == sequence.task => {
                    group.sequences.end = s + 1;
                    group.rows.end = end;
                }
                _ => batch.groups.push(Group {
                    task: sequence.task,
                    sequences: s..s + 1,
                    rows: start..end,
                }),
            }
        }
        batch
    }

    /// T: tokens, all of them real.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// S: sequences.
    pub fn sequences(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Token ids, `[T]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Token types, `[T]`.
    pub fn types(&self) -> &[u32] {
        &self.types
    }

    /// Rows of sequence `s`.
    pub fn rows(&self, s: usize) -> Range<usize> {
        self.offsets[s]..self.offsets[s + 1]
    }

    /// The groups, in row order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The task of sequence `s`.
    pub fn task_of(&self, s: usize) -> usize {
        self.groups[self.groups.partition_point(|g| g.sequences.end <= s)].task
    }

    /// Up to `parts` batches of consecutive whole sequences, as even in tokens as the order allows, for threads that
    /// then need not meet. Concatenated, their sequences are this batch's.
    pub fn split(&self, parts: usize) -> Vec<Batch> {
        let mut out = Vec::with_capacity(parts);
        let mut s = 0;
        for part in 0..parts {
            let goal = (self.tokens() * (part + 1)).div_ceil(parts);
            let mut end = s;
            while end < self.sequences() {
                let rows = self.rows(end);
                // A sequence goes to the part in which its middle lies.
                if part + 1 < parts && rows.start + rows.len() / 2 >= goal {
                    break;
                }
                end += 1;
            }
            if end > s {
                out.push(self.slice(s..end));
            }
            s = end;
        }
        out
    }

    /// The sequences in `range` as a batch of their own.
    pub fn slice(&self, range: Range<usize>) -> Batch {
        Batch::pack(range.map(|s| self.sequence(s)))
    }

    /// Sequence `s`, as it was packed.
    pub fn sequence(&self, s: usize) -> Sequence<'_> {
        Sequence {
            ids: &self.ids[self.rows(s)],
            types: &self.types[self.rows(s)],
            task: self.task_of(s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths_and_tasks: &[(usize, usize)]) -> Batch {
        let ids: Vec<u32> = (0..64).collect();
        let types = [0; 64];
        Batch::pack(lengths_and_tasks.iter().map(|&(n, task)| Sequence {
            ids: &ids[..n],
            types: &types[..n],
            task,
        }))
    }

    #[test]
    fn neighbours_of_one_task_share_a_group() {
        let b = batch(&[(3, 1), (2, 1), (4, 0), (1, 2)]);
        let rows: Vec<_> = b
            .groups()
            .iter()
            .map(|g| (g.task, g.rows.clone()))
            .collect();
        assert_eq!(rows, [(1, 0..5), (0, 5..9), (2, 9..10)]);
        assert_eq!(
            (b.tokens(), b.sequences(), b.task_of(1), b.task_of(3)),
            (10, 4, 1, 2)
        );
    }

    #[test]
    fn splitting_loses_and_reorders_nothing() {
        let b = batch(&[(3, 1), (20, 1), (4, 0), (1, 2), (9, 2), (9, 2)]);
        for parts in 1..8 {
            let split = b.split(parts);
            assert!(split.len() <= parts && split.iter().all(|p| p.sequences() > 0));
            let ids: Vec<u32> = split.iter().flat_map(|p| p.ids().to_vec()).collect();
            assert_eq!(ids, b.ids());
            let tasks: Vec<usize> = split
                .iter()
                .flat_map(|p| (0..p.sequences()).map(|s| p.task_of(s)))
                .collect();
            assert_eq!(tasks, [1, 1, 0, 2, 2, 2]);
        }
    }
}
