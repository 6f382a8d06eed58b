//! What every target does: one door of `tests/it/corpus/entries.rs`, the same code that replays past crashes.
//!
//! libFuzzer's runtime ends the process at any panic, also at those that the tokenizer catches (foreign code is run
//! behind `catch_unwind`). So its hook is taken out: a panic that nobody catches comes back here, and ends the process.

#[path = "../tests/it/corpus/entries.rs"]
mod entries;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, set_hook},
    sync::{Mutex, Once, PoisonError},
};

static LAST: Mutex<String> = Mutex::new(String::new());

/// Runs `data` through the door of this name.
pub fn run(door: &str, data: &[u8]) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        set_hook(Box::new(|panic| {
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
        }));
    });
    let found = entries::DOORS.iter().find(|(name, _)| *name == door);
    let (_, open) = found.expect("every target has a door");
    if catch_unwind(AssertUnwindSafe(|| open(data))).is_err() {
        let said = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{door}: {said}");
        std::process::abort();
    }
}
