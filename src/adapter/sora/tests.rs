//! Imported SoRA and OpenDelta checkpoints: what they become, and damaged ones.

use serde_json::Value;

use super::*;
use crate::adapter::{archive::tests::zip, fixture, torch_file::TorchFile};

/// f32 products of at most four terms near 1, compared with f64.
const TOLERANCE: f64 = 1e-6;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/sora")
}

fn import(name: &str, options: &SoraImport) -> Result<(Adapter, ImportReport)> {
    Adapter::import_sora(&fixtures().join(name), options)
}

/// Largest difference between the adapter's products and those the script wrote down.
fn check_products(adapter: &Adapter, tolerance: f64) {
    let expected = std::fs::read(fixtures().join("expected.json")).unwrap();
    let expected: BTreeMap<String, Value> = serde_json::from_slice(&expected).unwrap();
    assert_eq!(expected.len(), 12);
    for (module, want) in &expected {
        let Some(f) = adapter.factors.get(module) else {
            assert_eq!(want["rank"], 0, "{module}");
            continue;
        };
        assert_eq!(
            (want["rank"].as_u64(), f.scale),
            (Some(f.rank() as u64), 1.0),
            "{module}"
        );
        let delta: Vec<f64> = serde_json::from_value(want["delta"].clone()).unwrap();
        let size = delta.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for (at, want) in delta.iter().enumerate() {
            let (o, i) = (at / f.a.cols(), at % f.a.cols());
            let dot = |r| f64::from(f.b.row(o)[r]) * f64::from(f.a.row(r)[i]);
            let found = (0..f.rank()).map(dot).sum::<f64>();
            assert!(
                (found - want).abs() <= tolerance * size,
                "{module} [{o}, {i}]: {found}, not {want}"
            );
        }
    }
}

#[test]
fn the_pruned_products_are_the_gated_ones() {
    let (adapter, report) = import("checkpoint", &SoraImport::default()).unwrap();
    check_products(&adapter, TOLERANCE);
    assert_eq!(
        (report.alpha, report.modules.len(), adapter.factors.len()),
        (16.0, 12, 10)
    );
    let of = |m: &str| {
        report
            .modules
            .iter()
            .find(|i| i.module.ends_with(m))
            .unwrap()
    };
    assert_eq!(
        (
            of("0.attention.self.value_proj").rank_max,
            of("0.attention.self.value_proj").kept.as_slice()
        ),
        (4, &[1, 2][..])
    );
    assert!(
        of("1.attention.output.dense").kept.is_empty(),
        "-0.0 is zero"
    );
    assert!(report.head.is_empty() && adapter.saved.is_empty());
    // The backbone's labels say nothing about an adapter without a head.
    assert_eq!((adapter.task_type, adapter.labels.as_deref()), (None, None));
    assert!(
        !adapter
            .targets
            .matches("deberta.encoder.layer.1.attention.output.dense")
    );
    assert!(adapter.provenance["sorank.sora.kept"].contains(r#"self.value_proj":[1,2]"#));

    let safe = import("same.safetensors", &SoraImport::default()).unwrap();
    assert_eq!((safe.0.factors, safe.1), (adapter.factors, report));
}

#[test]
fn the_head_comes_from_a_dump_of_the_whole_model() {
    let head = Some(fixtures().join("whole_model.bin"));
    let options = SoraImport {
        head,
        ..SoraImport::default()
    };
    let (adapter, report) = import("checkpoint", &options).unwrap();
    assert_eq!(
        report.head,
        [
            "classifier.bias",
            "classifier.weight",
            "pooler.dense.bias",
            "pooler.dense.weight"
        ]
    );
    assert_eq!(adapter.saved["classifier.weight"].shape, [3, 8]);
    assert_eq!(adapter.task_type, Some(TaskType::SequenceClassification));
    assert_eq!(adapter.labels.as_deref().unwrap(), ["no", "maybe", "yes"]);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    adapter.write(&out).unwrap();
    let back = Adapter::read(&out).unwrap();
    assert_eq!(
        (back.factors, back.saved, back.provenance),
        (adapter.factors, adapter.saved, adapter.provenance)
    );

    let nothing = SoraImport {
        head: Some(fixtures().join("same.safetensors")),
        ..options
    };
    assert!(
        import("checkpoint", &nothing)
            .unwrap_err()
            .to_string()
            .contains("expected tensors of a head")
    );
}

#[test]
fn alpha_and_eps_are_what_was_asked_for() {
    let scaled = SoraImport {
        alpha: Some(4.0),
        ..SoraImport::default()
    };
    let (quarter, _) = import("checkpoint", &scaled).unwrap();
    let (whole, _) = import("checkpoint", &SoraImport::default()).unwrap();
    for (module, f) in &whole.factors {
        let times = |m: &Matrix| m.as_slice().iter().map(|v| v * 4.0).collect::<Vec<_>>();
        assert_eq!(times(&quarter.factors[module].b), f.b.as_slice());
    }
    let all = SoraImport {
        eps: 1e9,
        ..SoraImport::default()
    };
    assert!(
        import("checkpoint", &all)
            .unwrap_err()
            .to_string()
            .contains("every gate is zero")
    );
    for (alpha, eps) in [(f64::NAN, 0.0), (16.0, f32::NAN), (16.0, -1.0)] {
        let options = SoraImport {
            alpha: Some(alpha),
            eps,
            ..SoraImport::default()
        };
        assert!(import("checkpoint", &options).is_err());
    }
}

#[test]
fn plain_opendelta_has_gates_of_one_and_a_config_that_is_believed() {
    let (adapter, _) = import("plain", &SoraImport::default()).unwrap();
    assert_eq!(adapter.factors.len(), 12);
    assert!(adapter.factors.values().all(|f| f.rank() == 4));

    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("pytorch_model.bin");
    std::fs::copy(fixtures().join("plain/pytorch_model.bin"), copy).unwrap();
    let config = |text: &str| {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        Adapter::import_sora(dir.path(), &SoraImport::default())
    };
    let (read, report) =
        config(r#"{"lora_alpha":32,"lora_r":4,"_name_or_path":"some/base"}"#).unwrap();
    assert_eq!(
        (report.alpha, read.base.as_deref()),
        (32.0, Some("some/base"))
    );
    assert!(
        config(r#"{"lora_r":8}"#)
            .unwrap_err()
            .to_string()
            .contains("lora_r")
    );
    assert!(
        config(r#"{"lora_alpha":"x"}"#)
            .unwrap_err()
            .to_string()
            .contains("lora_alpha")
    );
}

#[test]
fn what_tries_to_run_code_is_refused_by_name() {
    for (file, why) in [
        ("os_system", "posix.system"),
        ("eval", "eval"),
        ("popen", "commands.Popen"),
        ("getattr", "getattr"),
        ("import", "__import__"),
        ("bare_0", "posix.system"),
        ("bare_2", "posix.system"),
        ("bare_4", "posix.system"),
        ("whole_module", "torch.nn.modules.linear.Linear"),
        ("not_only_tensors", "\"epoch\" is not a tensor"),
        ("old_format", "not a checkpoint of torch 1.6 or newer"),
    ] {
        let message = import(&format!("hostile/{file}.bin"), &SoraImport::default())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains(why) && message.contains(&format!("{file}.bin")),
            "{file}: {message}"
        );
    }
}

#[test]
fn no_cut_of_a_checkpoint_is_an_adapter() {
    let path = Path::new("x.bin");
    let bytes = std::fs::read(fixtures().join("checkpoint/pytorch_model.bin")).unwrap();
    for cut in (0..bytes.len())
        .step_by(7)
        .chain(bytes.len() - 64..bytes.len())
    {
        let file = TorchFile::parse(&bytes[..cut], path);
        assert!(file.is_err(), "cut at {cut}");
    }
    // Changed bytes: an error, or tensors within the file, never a panic.
    for at in (0..bytes.len()).step_by(5) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        if let Ok(file) = TorchFile::parse(&changed, path) {
            let names: Vec<_> = file.names().map(str::to_owned).collect();
            names.iter().for_each(|n| drop(file.decode(n)));
        }
    }
}

/// A safetensors checkpoint of these tensors, without PEFT's prefix.
fn built(
    tensors: &[(&str, &[usize], &[f32])],
) -> (tempfile::TempDir, Result<(Adapter, ImportReport)>) {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, shape, values)| fixture::Tensor {
            name: (*name).to_owned(),
            ..fixture::f32s(name, shape, values)
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("model.safetensors"),
        fixture::file(&tensors),
    )
    .unwrap();
    let imported = Adapter::import_sora(dir.path(), &SoraImport::default());
    (dir, imported)
}

fn gate(
    shape: &'static [usize],
    values: &'static [f32],
) -> (&'static str, &'static [usize], &'static [f32]) {
    ("m.lora.gate", shape, values)
}

#[test]
fn shapes_names_and_values_are_checked() {
    let a = ("m.lora.lora_A", &[2, 2][..], &[1.0, 2.0, 3.0, 4.0][..]);
    let b = ("m.lora.lora_B", &[1, 2][..], &[1.0, 1.0][..]);
    let good = built(&[a, b, gate(&[2], &[-1.0, 0.0])]).1.unwrap().0;
    assert_eq!(
        good.factors["m"].b.as_slice(),
        [-8.0],
        "16 / 2, whatever is left of the rank"
    );
    // A rank without a row of A, or without a column of B, is dead whatever its gate.
    let no_row = ("m.lora.lora_A", &[2, 2][..], &[0.0, -0.0, 3.0, 4.0][..]);
    assert_eq!(built(&[no_row, b]).1.unwrap().1.modules[0].kept, [1]);
    let no_column = ("m.lora.lora_B", &[1, 2][..], &[1.0, 0.0][..]);
    assert_eq!(built(&[a, no_column]).1.unwrap().1.modules[0].kept, [0]);
    // Names of distributed training, and the head where it was saved after all.
    let wrapped = built(&[
        ("module.m.lora_2.lora_A", a.1, a.2),
        ("module.m.lora_2.lora_B", b.1, b.2),
        ("module.classifier.weight", &[1, 1], &[5.0]),
    ]);
    let wrapped = wrapped.1.unwrap().0;
    assert!(wrapped.factors.contains_key("m") && wrapped.saved.contains_key("classifier.weight"));

    let three: &'static [f32] = &[1.0, 1.0, 1.0];
    for (why, tensors) in [
        ("missing: m.lora.lora_B", vec![a]),
        ("missing: m.lora.lora_A", vec![b, gate(&[2], &[1.0, 1.0])]),
        ("[1, 2] or [2]", vec![a, b, gate(&[3], three)]),
        ("[1, 2] or [2]", vec![a, b, gate(&[2, 1], &[1.0, 1.0])]),
        ("[out, 2]", vec![a, ("m.lora.lora_B", &[1, 3], three)]),
        ("[rank, in]", vec![("m.lora.lora_A", &[4], a.2), b]),
        (
            "gate holds NaN at element 1",
            vec![a, b, gate(&[2], &[0.0, f32::NAN])],
        ),
        ("unused: m.weight", vec![a, b, ("m.weight", &[1], &[1.0])]),
        (
            "unused: m.lora_x.lora_A",
            vec![a, b, ("m.lora_x.lora_A", &[1], &[1.0])],
        ),
        (
            "two of one module",
            vec![a, b, ("m.lora_1.lora_A", a.1, a.2)],
        ),
        ("no tensor is named", vec![]),
        (
            "no tensor is named",
            vec![("classifier.weight", &[1], &[1.0])],
        ),
        ("every gate is zero", vec![a, b, gate(&[2], &[0.0, -0.0])]),
    ] {
        let message = built(&tensors).1.unwrap_err().to_string();
        assert!(message.contains(why), "{why}: {message}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    let message = Adapter::import_sora(nowhere.path(), &SoraImport::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("pytorch_model.bin"), "{message}");
}

#[test]
fn views_stay_inside_their_storage() {
    let text = |s: &str| [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    let view = |kind: &str, elements: u8, offset: u8, shape: [u8; 2], strides: [u8; 2]| {
        let pair = |[x, y]: [u8; 2]| [b'K', x, b'K', y, 0x86];
        [
            &b"\x80\x02}"[..],
            &text("w"),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &text("storage"),
            format!("ctorch\n{kind}Storage\n").as_bytes(),
            &text("0"),
            &text("cpu"),
            &[b'K', elements],
            b"tQ",
            &[b'K', offset],
            &pair(shape),
            &pair(strides),
            b"\x89NtRs.",
        ]
        .concat()
    };
    let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let decode = |pickle: &[u8], storage: &[u8], more: &[(&str, &[u8])]| {
        let entries = [&[("r/data.pkl", pickle), ("r/data/0", storage)][..], more].concat();
        let bytes = zip(&entries);
        TorchFile::parse(&bytes, Path::new("x.bin"))?
            .decode("w")
            .map(|t| (t.shape, t.data))
    };
    let good = decode(
        &view("Float", 6, 1, [2, 2], [1, 2]),
        &storage,
        &[("r/byteorder", &b"little"[..])],
    )
    .unwrap();
    assert_eq!(good, (vec![2, 2], vec![1.0, 3.0, 2.0, 4.0]));
    for (why, pickle, storage, more) in [
        (
            "beyond its storage",
            view("Float", 6, 2, [2, 2], [1, 4]),
            &storage[..],
            &[][..],
        ),
        (
            "beyond its storage",
            view("Float", 6, 6, [1, 1], [1, 1]),
            &storage,
            &[],
        ),
        (
            "shape [0, 2]",
            view("Float", 6, 0, [0, 2], [1, 1]),
            &storage,
            &[],
        ),
        (
            "shape [200, 200]",
            view("Float", 6, 0, [200, 200], [0, 0]),
            &storage,
            &[],
        ),
        (
            "24 bytes of storage for 7 elements",
            view("Float", 7, 0, [1, 1], [1, 1]),
            &storage,
            &[],
        ),
        (
            "of type Long",
            view("Long", 3, 0, [1, 1], [1, 1]),
            &storage,
            &[],
        ),
        (
            "big-endian",
            view("Float", 6, 0, [1, 1], [1, 1]),
            &storage,
            &[("r/byteorder", &b"big"[..])],
        ),
        (
            "one data.pkl",
            view("Float", 6, 0, [1, 1], [1, 1]),
            &storage,
            &[("s/data.pkl", &b""[..])],
        ),
    ] {
        let message = decode(&pickle, storage, more).unwrap_err().to_string();
        assert!(message.contains(why), "{why}: {message}");
    }
    let half = decode(&view("Half", 2, 1, [1, 1], [1, 1]), &[0, 0, 0, 0x3c], &[]).unwrap();
    assert_eq!(half.1, [1.0]);
    let message = decode(&view("BFloat16", 1, 0, [1, 1], [1, 1]), &[0xc0, 0x7f], &[]).unwrap_err();
    assert!(message.to_string().contains("tensor w holds NaN"));
}

/// The Rust half of tests/reference/make_sora_checkpoint.py --check.
#[test]
#[ignore = "run by tests/reference/make_sora_checkpoint.py"]
fn imports_a_checkpoint_for_peft() {
    let head = Some(fixtures().join("whole_model.bin"));
    let (adapter, _) = import(
        "checkpoint",
        &SoraImport {
            head,
            ..SoraImport::default()
        },
    )
    .unwrap();
    adapter
        .write(Path::new(&std::env::var("SORANK_SORA_OUT").unwrap()))
        .unwrap();
}
