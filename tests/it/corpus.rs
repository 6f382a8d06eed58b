//! Past crashes and seeds, replayed through the doors that the fuzz targets open (`corpus/entries.rs`).
//!
//! An input here once broke something, and is named after that; or it is a seed (`fuzz/seeds.py`), so that every door is
//! known to open at all.

mod entries;

use std::{path::Path, time::Instant};

use crate::fixtures::manifest_dir;

/// An input that takes longer, built for tests, has found something that grows without bound.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// Every file of a folder of inputs, in order of names.
fn inputs(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<_> = entries.map(|e| e.expect("readable").path()).collect();
    paths.sort();
    paths
}

#[test]
fn past_crashes_are_answered_or_refused() {
    for (door, open) in entries::DOORS {
        let inputs = inputs(&manifest_dir().join("tests/corpus").join(door));
        assert!(!inputs.is_empty(), "no input for {door}");
        for path in inputs {
            let data = std::fs::read(&path).expect("readable");
            println!("{}", path.display());
            let start = Instant::now();
            open(&data);
            assert!(start.elapsed() < PATIENCE, "{}", path.display());
        }
    }
}

#[test]
fn every_input_has_a_door() {
    for folder in inputs(&manifest_dir().join("tests/corpus")) {
        let name = folder.file_name().unwrap_or_default();
        let known = entries::DOORS.iter().any(|(door, _)| *door == name);
        assert!(known || name == "small", "{}", folder.display());
    }
}
