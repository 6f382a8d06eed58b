//! Downloads that do not go through: what is kept, what is refused, and that nothing half-written bears a final name.

use std::time::{Duration, Instant};

use super::{
    BASE_COMMIT, files,
    mock::{Faults, sha256},
    tiny, world,
};

/// Of the large file of `owner/tiny`.
fn weights() -> Vec<u8> {
    std::fs::read(tiny("base/model.safetensors")).expect("there")
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_stood() {
    let world = world();
    world.mock.fail(Faults {
        cuts: 6,
        cut_after: weights().len() / 8,
        ..Faults::default()
    });
    world.prints(&["pull", "owner/tiny"]);
    let snapshot = world.snapshot("owner/tiny", BASE_COMMIT);
    assert_eq!(files(&snapshot), files(&tiny("base")));
    let asked = world
        .mock
        .asked()
        .into_iter()
        .filter(|asked| asked.at_store);
    let ranges: Vec<_> = asked.filter_map(|asked| asked.range).collect();
    assert!(ranges.len() >= 6, "{ranges:?}");
    let eighth = format!("bytes={}-", weights().len() / 8);
    assert!(ranges.contains(&eighth), "{ranges:?}");
}

#[test]
fn a_store_without_ranges_that_always_breaks_is_given_up() {
    let world = world();
    world.mock.fail(Faults {
        cuts: u32::MAX,
        cut_after: 1000,
        no_ranges: true,
        ..Faults::default()
    });
    let why = world.fails(&["pull", "owner/tiny"]);
    let size = weights().len();
    for part in [
        "owner/tiny@main: model.safetensors",
        &format!("1000 of {size} bytes have arrived"),
        "run it again",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(!why.contains("s3cret"), "a signature is shown: {why}");
    let kept = world.blobs("owner/tiny");
    assert!(!kept.contains(&sha256(&weights())), "{kept:?}");
    world.mock.fail(Faults::default());
    world.prints(&["pull", "owner/tiny"]);
    assert!(world.blobs("owner/tiny").contains(&sha256(&weights())));
}

#[test]
fn a_killed_download_is_completed_by_the_next_run() {
    let world = world();
    world.mock.fail(Faults {
        slow: Some(weights().len() / 100),
        ..Faults::default()
    });
    let blob = world
        .folder("owner/tiny")
        .join("blobs")
        .join(sha256(&weights()));
    let incomplete = blob.with_extension("incomplete");
    let mut child = world
        .command(&["pull", "owner/tiny"])
        .spawn()
        .expect("it starts");
    let arrived = || std::fs::metadata(&incomplete).map_or(0, |meta| meta.len());
    let start = Instant::now();
    while arrived() == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing arrives");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("it runs"); // SIGKILL
    child.wait().expect("it ended");
    let arrived = arrived();
    assert!(arrived < weights().len() as u64 && !blob.exists());
    assert!(!world.folder("owner/tiny").join("refs/main").exists());

    world.mock.asked();
    world.mock.fail(Faults::default());
    let printed = world.prints(&["pull", "owner/tiny"]);
    let snapshot = world.snapshot("owner/tiny", BASE_COMMIT);
    assert_eq!(printed, format!("{}\n", snapshot.display()));
    assert_eq!(files(&snapshot), files(&tiny("base")));
    let asked = world.mock.asked().into_iter().find(|asked| asked.at_store);
    let range = asked.and_then(|asked| asked.range);
    assert_eq!(range, Some(format!("bytes={arrived}-")));
    assert!(blob.exists() && !incomplete.exists());
}

#[test]
fn what_is_not_what_the_hub_says_is_refused_and_not_kept() {
    let world = world();
    let size = weights().len();
    let refused = |faults: Faults, parts: &[&str]| {
        world.mock.fail(faults);
        let why = world.fails(&["pull", "owner/tiny"]);
        for part in [&["owner/tiny@main: model.safetensors"], parts].concat() {
            assert!(why.contains(part), "{part}: {why}");
        }
        let kept = world.blobs("owner/tiny");
        assert!(!kept.contains(&sha256(&weights())), "{kept:?}");
        let snapshot = world.snapshot("owner/tiny", BASE_COMMIT);
        assert!(!snapshot.join("model.safetensors").exists());
    };
    let flips = Faults {
        flips: u32::MAX,
        ..Faults::default()
    };
    let expected = format!("of {size} bytes, expected {}", sha256(&weights()));
    refused(flips, &["SHA-256", &expected, "nothing of it was kept"]);
    let longer = Faults {
        longer: true,
        ..Faults::default()
    };
    refused(longer, &["longer than the hub says"]);
    world.mock.fail(Faults::default());
    world.prints(&["pull", "owner/tiny"]);
}

#[test]
fn what_an_earlier_download_left_damaged_is_downloaded_anew() {
    let world = world();
    let blobs = world.folder("owner/tiny").join("blobs");
    std::fs::create_dir_all(&blobs).expect("created");
    let incomplete = blobs.join(format!("{}.incomplete", sha256(&weights())));
    for left in [
        vec![0; 1000],
        vec![7; weights().len()],
        vec![7; weights().len() + 1],
    ] {
        std::fs::write(&incomplete, &left).expect("written");
        world.prints(&["pull", "owner/tiny"]);
        let snapshot = world.snapshot("owner/tiny", BASE_COMMIT);
        assert_eq!(files(&snapshot), files(&tiny("base")));
        let _ = std::fs::remove_file(snapshot.join("model.safetensors"));
        std::fs::remove_file(blobs.join(sha256(&weights()))).expect("it was whole");
    }
}

#[test]
fn two_processes_at_once_download_a_file_once() {
    let world = world();
    world.mock.fail(Faults {
        slow: Some(weights().len() / 20),
        ..Faults::default()
    });
    let start = || {
        world
            .command(&["pull", "owner/tiny"])
            .spawn()
            .expect("it starts")
    };
    let both = [start(), start()];
    for mut child in both {
        assert!(child.wait().expect("it ends").success());
    }
    let asked = world.mock.asked().into_iter();
    let mut paths: Vec<String> = asked.filter(|a| a.at_store).map(|a| a.path).collect();
    paths.sort();
    let large = ["model.safetensors", "tokenizer.json"];
    let large = large.map(|name| format!("/owner/tiny/{name}?signature=s3cret"));
    assert_eq!(paths, large);
    assert_eq!(
        files(&world.snapshot("owner/tiny", BASE_COMMIT)),
        files(&tiny("base"))
    );
}
