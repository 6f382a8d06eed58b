//! The packed file: built, found, damaged, merged into, restored, forked, raced for.

use std::{
    cell::{Cell, RefCell},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::*;
use crate::{
    kernel::panel,
    weights::{
        Dtype, Source,
        writer::{self, Content, Output},
    },
};

/// Widths that end panels and pages unevenly.
const SHAPES: [(usize, usize); 4] = [(20, 30), (64, 64), (16, 100), (48, 33)];

fn value(slot: usize, i: usize) -> f32 {
    ((slot * 7919 + i) as f32).sin()
}

fn slots() -> Vec<(String, PanelShape)> {
    let slot = |(i, &(n, k)): (usize, &(usize, usize))| {
        let shape = PanelShape {
            n,
            k,
            precision: Precision::F32,
            tight: false,
        };
        (format!("layer.{i}"), shape)
    };
    SHAPES.iter().enumerate().map(slot).collect()
}

/// A model directory whose weights are `value(seed + slot, i)`.
fn write_model(dir: &Path, seed: usize) {
    let outputs: Vec<Output> = slots()
        .into_iter()
        .enumerate()
        .map(|(i, (name, s))| Output {
            name,
            shape: vec![s.n, s.k],
            dtype: Dtype::F32,
            content: Content::Values((0..s.n * s.k).map(|j| value(seed + i, j)).collect()),
        })
        .collect();
    writer::write(
        &dir.join("model.safetensors"),
        &outputs,
        &Default::default(),
    )
    .unwrap();
}

struct Model {
    dir: TempDir,
    builds: Cell<usize>,
}

impl Model {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("model")).unwrap();
        write_model(&dir.path().join("model"), 0);
        Self {
            dir,
            builds: Cell::new(0),
        }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn tensors(&self) -> Tensors {
        Tensors::open(&Source::dir(self.dir.path().join("model")).unwrap()).unwrap()
    }

    fn open(&self, options: &PackOptions<'_>) -> Packed {
        let tensors = self.tensors();
        let slots = slots();
        let fill = |i: usize| {
            if i == 0 {
                self.builds.set(self.builds.get() + 1);
            }
            let (name, s) = &slots[i];
            tensors.get(name).unwrap().matrix(s.n, s.k)
        };
        Packed::open_or_build(&tensors, &slots, &fill, options).unwrap()
    }

    fn cached(&self) -> Packed {
        self.open(&PackOptions {
            cache: Cache::Dir(&self.cache()),
            ..PackOptions::default()
        })
    }

    fn cache_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.cache()).unwrap();
        let mut all: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    }
}

fn bytes_of(packed: &Packed) -> Vec<u8> {
    packed.map.to_vec()
}

/// Every slot holds what packing `value(seed + slot, ..)` gives.
fn assert_holds(packed: &Packed, seed: usize) {
    for (i, (name, shape)) in slots().into_iter().enumerate() {
        let w = (0..shape.n * shape.k).map(|j| value(seed + i, j)).collect();
        let mut expected = vec![0; shape.bytes()];
        panel::pack(
            Matrix::from_vec(w, shape.n, shape.k).view(),
            shape,
            &mut expected,
        );
        let at = packed.slot(&name).unwrap();
        assert_eq!(packed.map[packed.at(at)], expected, "{name}");
        assert_eq!(packed.panels(at).shape(), shape);
        assert_eq!(packed.map[packed.at(at)].as_ptr().align_offset(64), 0);
    }
}

#[test]
fn built_once_and_found_again_without_reading_the_source() {
    let model = Model::new();
    let reports = RefCell::new(Vec::new());
    let first = model.open(&PackOptions {
        cache: Cache::Dir(&model.cache()),
        progress: Some(&|done, total| reports.borrow_mut().push((done, total))),
        no_mmap: false,
    });
    assert_holds(&first, 0);
    first.verify().unwrap();
    assert!(first.is_shared_file());
    assert_eq!(first.content_hash(), model.tensors().fingerprint());
    let reports = reports.into_inner();
    assert!(reports.is_sorted() && reports.len() == SHAPES.len() + 1);
    assert_eq!(reports[SHAPES.len()].0, reports[SHAPES.len()].1);

    let again = model.cached();
    assert_eq!(model.builds.get(), 1);
    assert_eq!(bytes_of(&again), bytes_of(&first));
    assert_eq!(again.content_hash(), first.content_hash());
    assert_eq!(model.cache_files(), [again.path().unwrap()]);
}

#[test]
fn a_changed_source_is_packed_anew_and_the_old_file_swept() {
    let model = Model::new();
    let old = model.cached();
    write_model(&model.dir.path().join("model"), 5); // another inode, size as before
    let new = model.cached();
    assert_holds(&old, 0);
    assert_holds(&new, 5);
    assert_ne!(old.content_hash(), new.content_hash());
    assert_eq!(model.cache_files(), [new.path().unwrap()]);
    // Changed in place: the same inode, another time.
    let path = model.dir.path().join("model/model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    io::Write::write_all(&mut &file, &bytes).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    model.cached();
    assert_eq!(model.builds.get(), 3);
    assert_eq!(model.cache_files().len(), 1);
}

#[test]
fn files_of_other_models_and_other_files_are_left_alone() {
    let (model, other) = (Model::new(), Model::new());
    other.open(&PackOptions {
        cache: Cache::Dir(&model.cache()),
        ..PackOptions::default()
    });
    std::fs::write(model.cache().join("notes.txt"), "mine").unwrap();
    std::fs::write(model.cache().join("foreign.safetensors"), "not packed").unwrap();
    std::fs::write(model.cache().join("dead.building"), "half").unwrap();
    model.cached();
    let names: Vec<_> = model.cache_files();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(!model.cache().join("dead.building").exists());
}

#[test]
fn a_broken_file_is_built_anew() {
    let model = Model::new();
    let path = model.cached().path().unwrap().to_owned();
    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[300] ^= 1;
    let broken: [&[u8]; 5] = [
        &[],
        &good[..100],
        &good[..good.len() - 4096],
        &flipped,
        b"garbage!",
    ];
    for (i, bytes) in broken.into_iter().enumerate() {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let packed = model.cached();
        assert_holds(&packed, 0);
        assert_eq!(model.builds.get(), i + 2);
        assert_eq!(std::fs::read(&path).unwrap(), good);
    }
    // A directory in its place cannot be replaced: memory serves.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let packed = model.cached();
    assert_holds(&packed, 0);
    assert!(!packed.is_shared_file());
}

#[test]
fn without_a_usable_cache_memory_serves() {
    let model = Model::new();
    let in_the_way = model.dir.path().join("file");
    std::fs::write(&in_the_way, "x").unwrap();
    let options = |cache, no_mmap| PackOptions {
        cache,
        progress: None,
        no_mmap,
    };
    for options in [
        options(Cache::None, false),
        options(Cache::Dir(&in_the_way.join("below")), false),
        options(Cache::Dir(&model.cache()), true),
    ] {
        let mut packed = model.open(&options);
        assert!(!packed.is_shared_file() && packed.path().is_none());
        assert_holds(&packed, 0);
        packed.verify().unwrap();
        packed.panels_mut(1).fill(3);
        let fork = packed.fork().unwrap();
        assert_holds(&fork, 0);
        packed.restore().unwrap();
        assert_holds(&packed, 0);
    }
    assert!(!model.cache().exists());
}

#[test]
fn an_embedded_base_is_packed_into_memory() {
    let model = Model::new();
    let bytes = std::fs::read(model.dir.path().join("model/model.safetensors")).unwrap();
    let files = vec![("model.safetensors", &*bytes.leak())].leak();
    let tensors = Tensors::open(&Source::Embedded(files)).unwrap();
    let slots = slots();
    let fill = |i: usize| {
        tensors
            .get(&slots[i].0)
            .unwrap()
            .matrix(slots[i].1.n, slots[i].1.k)
    };
    let options = PackOptions {
        cache: Cache::Dir(&model.cache()),
        ..PackOptions::default()
    };
    let packed = Packed::open_or_build(&tensors, &slots, &fill, &options).unwrap();
    assert_holds(&packed, 0);
    assert!(!packed.is_shared_file() && !model.cache().exists());
}

#[test]
fn merges_come_back_bit_for_bit_however_often() {
    let model = Model::new();
    let mut packed = model.cached();
    let original = bytes_of(&packed);
    let on_disk = std::fs::read(packed.path().unwrap()).unwrap();
    for cycle in 0..100u8 {
        for slot in 0..packed.slots() {
            packed
                .panels_mut(slot)
                .iter_mut()
                .for_each(|b| *b = b.wrapping_add(cycle + 1));
        }
        assert_ne!(bytes_of(&packed), original);
        packed.restore().unwrap();
        assert_eq!(bytes_of(&packed), original, "cycle {cycle}");
    }
    assert_eq!(std::fs::read(packed.path().unwrap()).unwrap(), on_disk);
    packed.verify().unwrap();
}

#[test]
fn restoring_some_slots_leaves_the_others_merged() {
    let model = Model::new();
    let mut packed = model.cached();
    let original = bytes_of(&packed);
    for slot in 0..packed.slots() {
        packed.panels_mut(slot).fill(0xab);
    }
    packed.restore_slots(&[1, 3]).unwrap();
    for slot in 0..packed.slots() {
        let at = packed.at(slot);
        if [1, 3].contains(&slot) {
            assert_eq!(packed.map[at.clone()], original[at]);
        } else {
            assert!(packed.map[at].iter().all(|&b| b == 0xab), "slot {slot}");
        }
    }
    // Ranges that end inside pages, as on a machine with larger pages than slots are aligned to.
    for range in [100..200, 4000..4200, 5000..20_000, 4096..8192] {
        packed.restore().unwrap();
        packed.map.fill(0xcd);
        packed.restore_bytes(range.clone()).unwrap();
        for (i, &b) in packed.map.iter().enumerate() {
            let expected = if range.contains(&i) {
                original[i]
            } else {
                0xcd
            };
            assert_eq!(b, expected, "byte {i} of {range:?}");
        }
    }
}

#[test]
fn a_fork_does_not_see_the_merge() {
    let model = Model::new();
    let mut packed = model.cached();
    packed.panels_mut(2).fill(1);
    let mut fork = packed.fork().unwrap();
    assert_holds(&fork, 0);
    fork.panels_mut(0).fill(2);
    packed.restore().unwrap();
    assert_holds(&packed, 0);
    assert_eq!(fork.map[fork.at(0)][0], 2);
    drop(packed);
    fork.restore().unwrap();
    assert_holds(&fork, 0);
}

#[test]
fn weights_that_cannot_be_had_are_an_error_and_leave_nothing() {
    let model = Model::new();
    let fill = |i: usize| match i {
        0 => Ok(Matrix::zeros(20, 30)),
        _ => Err(Error::EmptyInput),
    };
    let options = PackOptions {
        cache: Cache::Dir(&model.cache()),
        ..PackOptions::default()
    };
    let failed = Packed::open_or_build(&model.tensors(), &slots(), &fill, &options);
    assert!(matches!(failed, Err(Error::EmptyInput)));
    assert!(model.cache_files().is_empty());
}

// -- more than one process: this test binary runs itself --

const CHILD: &str = "SORANK_TEST_PACK_IN";

/// Not a test of its own: what the children of the tests below do.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let slow = std::env::var_os("SORANK_TEST_SLOW").is_some();
    let tensors = Tensors::open(&Source::dir(dir.join("model")).unwrap()).unwrap();
    let slots = slots();
    let fill = |i: usize| {
        std::fs::write(dir.join(format!("filling-{}-{i}", std::process::id())), "").unwrap();
        let nap = if slow && i == 2 { 60_000 } else { 30 };
        std::thread::sleep(std::time::Duration::from_millis(nap));
        tensors
            .get(&slots[i].0)
            .unwrap()
            .matrix(slots[i].1.n, slots[i].1.k)
    };
    let options = PackOptions {
        cache: Cache::Dir(&dir.join("cache")),
        ..PackOptions::default()
    };
    let packed = Packed::open_or_build(&tensors, &slots, &fill, &options).unwrap();
    assert_holds(&packed, 0);
    assert!(packed.is_shared_file());
}

fn spawn(model: &Model, slow: bool) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "weights::packed::tests::child"])
        .env(CHILD, model.dir.path())
        .stdout(Stdio::null());
    if slow {
        command.env("SORANK_TEST_SLOW", "1");
    }
    command.spawn().unwrap()
}

fn filled(model: &Model, slot: usize) -> usize {
    let entries = std::fs::read_dir(model.dir.path()).unwrap();
    let name = |e: io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let of_slot = |n: &String| n.starts_with("filling-") && n.ends_with(&format!("-{slot}"));
    entries.map(name).filter(of_slot).count()
}

#[test]
fn racing_processes_build_one_file_between_them() {
    let model = Model::new();
    let children: Vec<_> = (0..3).map(|_| spawn(&model, false)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(filled(&model, 0), 1, "one process built, the others waited");
    assert_eq!(model.cache_files().len(), 1);
    assert_holds(&model.cached(), 0);
    assert_eq!(model.builds.get(), 0);
}

#[test]
fn a_killed_builder_leaves_nothing_that_matters() {
    let model = Model::new();
    let mut child = spawn(&model, true);
    while filled(&model, 2) == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the child ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = model.cache_files();
    assert!(
        left.iter().all(|p| p.extension().unwrap() == "building"),
        "{left:?}"
    );
    let packed = model.cached();
    assert_holds(&packed, 0);
    assert_eq!(model.cache_files(), [packed.path().unwrap()]);
}
