//! The form of a packed file, whole and damaged.

use std::io::Cursor;

use super::*;

fn shape(n: usize, k: usize) -> PanelShape {
    PanelShape {
        n,
        k,
        precision: Precision::F32,
        tight: false,
    }
}

fn plan() -> Plan {
    Plan::new(&[
        ("a".to_owned(), shape(20, 7)),
        ("b".to_owned(), shape(16, 64)),
    ])
}

fn origin() -> Origin {
    Origin {
        content: "c0ffee".to_owned(),
        directory: "/models/\"x\"".to_owned(),
        files: None,
    }
}

fn weight(plan: &Plan, slot: usize) -> Matrix {
    let PanelShape { n, k, .. } = plan.shape(slot);
    let value = |i: usize| (i as f32 + slot as f32 * 0.5).sin();
    Matrix::from_vec((0..n * k).map(value).collect(), n, k)
}

fn built(plan: &Plan) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    build(&mut out, plan, &origin(), &|i| Ok(weight(plan, i)), None).unwrap();
    out.into_inner()
}

#[test]
fn a_packed_file_is_a_safetensors_file_with_aligned_slots() {
    let plan = plan();
    let bytes = built(&plan);
    let path = Path::new("x");
    let header = header::read(&bytes, path).unwrap();
    let names: Vec<&str> = header.entries.iter().map(|e| &*e.name).collect();
    assert_eq!(names, ["a", "b"]);
    for entry in &header.entries {
        assert!(entry.range.start.is_multiple_of(ALIGN));
    }
    let checked = check(&bytes, path).unwrap();
    assert_eq!(checked.origin, origin());
    checked.serves(&plan, path).unwrap();
    verify(&bytes, &plan, path).unwrap();
    for slot in 0..plan.len() {
        let mut expected = vec![0; plan.shape(slot).bytes()];
        panel::pack(weight(&plan, slot).view(), plan.shape(slot), &mut expected);
        let range = plan.range(slot);
        assert_eq!(bytes[checked.data..][range], expected);
    }
    assert_eq!(bytes.len(), checked.data + plan.data_len());
}

#[test]
fn no_changed_byte_goes_unseen() {
    let plan = plan();
    let good = built(&plan);
    let path = Path::new("x");
    let data = check(&good, path).unwrap().data;
    for at in (0..data).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(check(&bad, path).is_err(), "header byte {at}");
    }
    for at in (data..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x80;
        assert!(check(&bad, path).is_ok(), "the data is not read at start");
        let error = verify(&bad, &plan, path).unwrap_err().to_string();
        let name = if at - data < ALIGN {
            "weight a"
        } else {
            "weight b"
        };
        assert!(error.contains(name), "{error}");
    }
    for len in (0..good.len()).step_by(61) {
        assert!(check(&good[..len], path).is_err(), "cut to {len}");
    }
    assert!(check(&[&good[..], &[0]].concat(), path).is_err());
    assert!(check(&[], path).is_err());
}

#[test]
fn a_file_serves_its_own_plan_alone() {
    let path = Path::new("x");
    let checked = check(&built(&plan()), path).unwrap();
    let others = [
        vec![("a", shape(20, 7))],
        vec![("b", shape(20, 7)), ("a", shape(16, 64))],
        vec![("a", shape(20, 7)), ("b", shape(64, 16))],
        vec![("a", shape(19, 7)), ("b", shape(16, 64))],
    ];
    for other in others {
        let named: Vec<_> = other.into_iter().map(|(n, s)| (n.to_owned(), s)).collect();
        assert!(
            checked.serves(&Plan::new(&named), path).is_err(),
            "{named:?}"
        );
    }
}

#[test]
fn a_full_disk_is_a_failure_to_write_and_bad_weights_are_another() {
    /// Takes so many bytes.
    struct Small(usize);
    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Seek for Small {
        fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
            Ok(0)
        }
    }
    let plan = plan();
    let fill = |i| Ok(weight(&plan, i));
    for room in [0, 5000, 9000] {
        let failed = build(&mut Small(room), &plan, &origin(), &fill, None);
        assert!(matches!(failed, Err(Failure::Write(_))), "{room}");
    }
    let failed = build(
        &mut Small(1 << 20),
        &plan,
        &origin(),
        &|_| Err(Error::EmptyInput),
        None,
    );
    assert!(matches!(failed, Err(Failure::Weights(Error::EmptyInput))));
}

#[test]
#[should_panic(expected = "slot names differ")]
fn a_name_cannot_stand_twice() {
    Plan::new(&[("a".to_owned(), shape(1, 1)), ("a".to_owned(), shape(2, 1))]);
}
