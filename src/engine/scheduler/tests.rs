//! Properties of batches over random rows.

use proptest::prelude::*;

use super::*;

/// Tokens of a batch, and those of its texts, each once.
fn tokens(items: &[Item], batch: &[usize]) -> (usize, usize) {
    let mut seen = HashSet::new();
    let of_rows = batch.iter().map(|&r| items[r].tokens).sum();
    let first = batch.iter().filter(|&&r| seen.insert(items[r].text));
    (of_rows, first.map(|&r| items[r].tokens).sum())
}

proptest! {
    #[test]
    fn every_row_runs_once_within_budget(
        rows in proptest::collection::vec((1usize..200, 0usize..5), 0..60),
        budget in 1usize..400,
    ) {
        let items: Vec<Item> = rows.iter().enumerate().map(|(text, &(tokens, task))| Item { tokens, task, text }).collect();
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
        lengths in proptest::collection::vec(1usize..200, 30),
        rows in proptest::collection::vec((0usize..30, 0usize..5), 1..60),
        budget in 1usize..400,
        more in 0usize..200,
    ) {
        let items: Vec<Item> = rows.iter().map(|&(text, task)| Item { tokens: lengths[text], task, text }).collect();
        let budget = Budget { texts: budget, rows: budget + more };
        let batch = next(&items, budget);
        let (of_rows, of_texts) = tokens(&items, &batch);
        prop_assert!(batch.contains(&0), "the oldest row is in");
        prop_assert!(batch.len() == 1 || of_rows <= budget.rows);
        let one_text = batch.iter().all(|&r| items[r].text == items[0].text);
        prop_assert!(one_text || of_texts <= budget.texts);
        let fits = |row: usize| {
            let new = batch.iter().all(|&r| items[r].text != items[row].text);
            of_rows + items[row].tokens <= budget.rows
                && !(new && of_texts + items[row].tokens > budget.texts)
        };
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
            prop_assert!(!fits(next), "what fits is taken");
            // Nobody got a further row while this task, whose next row would have fitted in its place, had less.
            for other in 0..5 {
                let last = of(other).rfind(|r| batch.contains(r) && *r != 0);
                let Some(last) = last.filter(|_| other != task) else { continue };
                let before = granted(other) - items[last].tokens;
                // In the place of a new text, which is what `next` may be too.
                let alone = batch.iter().all(|&r| r == last || items[r].text != items[last].text);
                let fitted = alone && items[next].tokens <= items[last].tokens;
                prop_assert!(!(fitted && before > granted(task)), "{other} had more than {task}");
            }
        }
    }
}

fn budget(tokens: usize) -> Budget {
    Budget {
        texts: tokens,
        rows: tokens,
    }
}

#[test]
fn a_flood_of_one_adapter_leaves_the_others_their_place() {
    let item = |text, task| Item {
        tokens: 10,
        task,
        text,
    };
    let mut waiting: Vec<Item> = (0..1000).map(|text| item(text, 1)).collect();
    waiting.extend([item(1000, 2), item(1001, 3)]);
    let batch = next(&waiting, budget(100));
    assert!(batch.contains(&1000) && batch.contains(&1001), "{batch:?}");
    assert_eq!(batch.len(), 10);
}

#[test]
fn a_text_for_many_adapters_stays_in_one_batch() {
    let item = |text, task| Item {
        tokens: 100,
        task,
        text,
    };
    let mut waiting: Vec<Item> = (0..8).map(|task| item(0, task)).collect();
    waiting.push(item(1, 9));
    let texts = Budget::of(900, 2, 128, 2048);
    assert_eq!((texts.texts, texts.rows), (225, 2048));
    let small = Budget {
        texts: 128,
        ..texts
    };
    assert_eq!(next(&waiting, small), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_long_queue_makes_large_batches_and_a_short_one_small() {
    let texts = |waiting| Budget::of(waiting, 2, 128, 2048).texts;
    assert_eq!([10, 800, 80_000].map(texts), [128, 200, 2048]);
    assert_eq!(Budget::of(10, 0, 128, 64).texts, 64, "never above the most");
}
