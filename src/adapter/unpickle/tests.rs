//! Pickles: those of torch, those that would run code, and damaged ones.

use super::*;

/// A pickle of protocol 2 from pieces of its program.
fn pickle(parts: &[&[u8]]) -> Vec<u8> {
    [&[0x80, 2][..], &parts.concat(), b"."].concat()
}

fn text(s: &str) -> Vec<u8> {
    [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()
}

/// `_rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())`
fn tensor(offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    [
        &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
        b"(",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x06tQ",
        offset,
        shape,
        strides,
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

fn dict_of(name: &str, value: &[u8]) -> Vec<u8> {
    pickle(&[b"}q\x00(", &text(name), value, b"u"])
}

#[test]
fn a_state_dict_is_described() {
    let t = tensor(b"K\x01", b"K\x02K\x02\x86", b"K\x02K\x01\x86");
    let found = state_dict(&dict_of("w", &t)).unwrap();
    let want = Strided {
        storage: "0".into(),
        kind: "Float",
        elements: 6,
        offset: 1,
        shape: vec![2, 2],
        strides: vec![2, 1],
    };
    assert_eq!(found["w"], want);
    // The same as an OrderedDict of parameters, with attributes, through the memo.
    let parameter = [
        b"ctorch._utils\n_rebuild_parameter\n",
        &t[..],
        b"\x88ccollections\nOrderedDict\n)R\x87R",
    ]
    .concat();
    let ordered = pickle(&[
        b"ccollections\nOrderedDict\nq\x01)Rq\x02",
        &text("w"),
        b"q\x03",
        &parameter,
        b"s",
        b"}",
        &text("_metadata"),
        b"h\x01)Rsb",
    ]);
    assert_eq!(state_dict(&ordered).unwrap()["w"], want);
}

#[test]
fn every_other_name_is_refused_by_name() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("__builtin__", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("collections", "defaultdict"),
        ("torch", "QInt8Storage"),
        ("torch.cuda", "FloatStorage"),
        ("torch._utils", "_rebuild_tensor"),
        ("torch", "Storage"),
    ] {
        let by_line = pickle(&[
            format!("c{module}\n{name}\n").as_bytes(),
            &text("id"),
            b"\x85R",
        ]);
        let by_stack = pickle(&[&text(module), &text(name), b"\x93", b")R"]);
        for program in [by_line, by_stack] {
            let message = state_dict(&program).unwrap_err();
            assert!(message.contains(&format!("{module}.{name}")), "{message}");
        }
    }
}

#[test]
fn instructions_that_build_objects_are_unknown() {
    for code in [
        b"i".as_slice(),
        b"o",
        b"\x81",
        b"\x92",
        b"\x82\x01",
        b"P",
        b"S'x'\n",
        b"\x97",
        b"0",
        b"2",
        b"\x8b",
    ] {
        let message = state_dict(&pickle(&[b"(", code])).unwrap_err();
        assert!(message.contains("instruction"), "{message}");
    }
}

#[test]
fn programs_that_make_no_sense_are_errors() {
    let t = tensor(b"K\x00", b"K\x06\x85", b"K\x01\x85");
    let odd =
        |offset: &[u8], shape: &[u8], strides: &[u8]| dict_of("w", &tensor(offset, shape, strides));
    for (why, program) in [
        ("not a dictionary", pickle(&[b"N"])),
        ("takes more", pickle(&[b"a"])),
        ("takes more", pickle(&[b"N(\x85"])),
        ("takes more", pickle(&[])),
        ("mark it did not set", pickle(&[b"}u"])),
        ("key without a value", pickle(&[b"}(N", b"u"])),
        ("not text", pickle(&[b"}NNs"])),
        ("never kept", pickle(&[b"h\x07"])),
        ("is not a tensor", dict_of("epoch", b"K\x03")),
        (
            "stands twice",
            pickle(&[b"}(", &text("w"), &t, &text("w"), &t, b"u"]),
        ),
        ("not a function", pickle(&[b"N)R"])),
        ("without arguments", pickle(&[b"NNR"])),
        (
            "too many",
            pickle(&[b"ccollections\nOrderedDict\n(NNNNNNNNNtR"]),
        ),
        (
            "arguments of another kind",
            pickle(&[b"ccollections\nOrderedDict\nN\x85R"]),
        ),
        ("what is not a dictionary", pickle(&[b"]NNs"])),
        ("what is not a list", pickle(&[b"}Na"])),
        ("state of what", pickle(&[b"]}b"])),
        ("not a storage", pickle(&[b")Q"])),
        ("whole numbers", odd(b"K\x00", b"N\x85", b"K\x01\x85")),
        (
            "whole numbers",
            odd(b"J\xff\xff\xff\xff", b"K\x06\x85", b"K\x01\x85"),
        ),
        ("strides", odd(b"K\x00", b"K\x06\x85", b")")),
        (
            "strides",
            odd(
                b"K\x00",
                b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t",
                b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t",
            ),
        ),
        ("number of 9 bytes", pickle(&[b"\x8a\x09", &[1; 9]])),
        ("not UTF-8", pickle(&[b"X\x01\0\0\0\xff"])),
        ("a text of", pickle(&[b"X\xff\xff\xff\x7f"])),
        ("cut short", pickle(&[b"cos"])),
    ] {
        let message = state_dict(&program).unwrap_err();
        assert!(message.contains(why), "{why}: {message}");
    }
    assert!(
        state_dict(&vec![b'N'; MAX_PICKLE + 1])
            .unwrap_err()
            .contains("bytes")
    );
}

#[test]
fn no_prefix_of_a_program_and_no_byte_of_it_panics() {
    let program = dict_of(
        "w",
        &tensor(b"\x8a\x02\x01\x00", b"K\x02K\x02\x86", b"K\x02K\x01\x86"),
    );
    state_dict(&program).unwrap();
    for cut in 0..program.len() {
        assert!(state_dict(&program[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..program.len() {
        for value in 0..=255 {
            let mut changed = program.clone();
            changed[at] = value;
            let _ = state_dict(&changed);
        }
    }
}

#[test]
fn nesting_and_repetition_cost_what_they_weigh() {
    // A million tuples in each other, and dictionaries that hold themselves: arenas neither recurse nor leak.
    let deep = pickle(&[b")", &vec![0x85; 1_000_000]]);
    assert!(state_dict(&deep).is_err());
    let cycle = pickle(&[b"}q\x00", &text("me"), b"h\x00s"]);
    assert!(state_dict(&cycle).unwrap_err().contains("is not a tensor"));
    // One long tuple, called with again and again.
    let long = [b"(", &vec![b'N'; 100_000][..], b"tq\x00"].concat();
    let calls = b"ccollections\nOrderedDict\nh\x00R".repeat(10_000);
    assert!(
        state_dict(&pickle(&[&long, &calls]))
            .unwrap_err()
            .contains("too many")
    );
}
