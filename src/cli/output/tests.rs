//! Lines to the letter, and sinks that fail.

use super::*;

fn printed(result: &impl Serialize) -> Result<String> {
    let mut output = Output::new(Vec::new());
    let line = output.line(result);
    assert_eq!(output.flush()?, ControlFlow::Continue(()));
    let text = String::from_utf8(output.sink).unwrap();
    assert_eq!(
        text.is_empty(),
        line.is_err(),
        "a failed line leaves nothing"
    );
    line.map(|_| text)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|s| s.to_string()).collect()
}

#[test]
fn lines_to_the_letter() {
    let embedding = EmbedLine {
        index: 0,
        adapter: None,
        embedding: &[0.1, -1.0, 1.0e-20, -0.0],
    };
    assert_eq!(
        printed(&embedding).unwrap(),
        "{\"index\":0,\"adapter\":null,\"embedding\":[0.1,-1.0,1e-20,-0.0]}\n"
    );
    let labels = names(&["neg", "\"pos\"\n"]);
    let single = ClassifyLine::single_label(3, Some("sst2"), &labels, &[0.25, 0.75], &[-0.5, 0.5]);
    assert_eq!(
        printed(&single).unwrap(),
        "{\"index\":3,\"adapter\":\"sst2\",\"label\":\"\\\"pos\\\"\\n\",\"score\":0.75,\
         \"scores\":{\"neg\":0.25,\"\\\"pos\\\"\\n\":0.75},\"logits\":[-0.5,0.5]}\n"
    );
    let labels = names(&["b", "a", "c"]);
    let multi = ClassifyLine::multi_label(1, None, &labels, &[0.9, 0.5, 0.7], &[2.0, 0.0, 1.0]);
    assert_eq!(
        printed(&multi).unwrap(),
        "{\"index\":1,\"adapter\":null,\"label\":\"b\",\"labels\":[\"b\",\"c\"],\"score\":0.9,\
         \"scores\":{\"b\":0.9,\"a\":0.5,\"c\":0.7},\"logits\":[2.0,0.0,1.0]}\n"
    );
    let regression = ClassifyLine::regression(2, Some("stsb"), &[3.8]);
    assert_eq!(
        printed(&regression).unwrap(),
        "{\"index\":2,\"adapter\":\"stsb\",\"score\":3.8,\"logits\":[3.8]}\n"
    );
    let error = ErrorLine {
        index: 4,
        line: 7,
        error: "too long",
    };
    assert_eq!(
        printed(&error).unwrap(),
        "{\"index\":4,\"line\":7,\"error\":\"too long\"}\n"
    );
}

#[test]
fn of_equal_scores_the_first_label_is_named() {
    let labels = names(&["a", "b"]);
    let line = ClassifyLine::single_label(0, None, &labels, &[0.5, 0.5], &[0.0, 0.0]);
    assert_eq!(line.label, Some("a"));
    let none = ClassifyLine::multi_label(0, None, &labels, &[0.5, 0.1], &[0.0, -1.0]);
    assert_eq!((none.label, none.labels), (Some("a"), Some(vec![])));
}

#[test]
fn every_float_reads_back_as_itself() {
    let mut bits = 0x9e37_79b9_u32;
    let mut values = vec![
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::MIN,
        1.0 / 3.0,
        16_777_217.0,
        1e-45,
    ];
    while values.len() < 20_000 {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        values.extend(Some(f32::from_bits(bits)).filter(|v| v.is_finite()));
    }
    let line = EmbedLine {
        index: 0,
        adapter: None,
        embedding: &values,
    };
    let parsed: serde_json::Value = serde_json::from_str(&printed(&line).unwrap()).unwrap();
    for (value, read) in values.iter().zip(parsed["embedding"].as_array().unwrap()) {
        let read: f32 = read.to_string().parse().unwrap();
        assert_eq!(value.to_bits(), read.to_bits());
    }
}

#[test]
fn what_is_not_finite_is_never_printed() {
    let labels = names(&["a", "b"]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let embedding = EmbedLine {
            index: 0,
            adapter: None,
            embedding: &[0.0, bad],
        };
        let error = printed(&embedding).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("stdout: number 1 of the answer is not finite: {bad}")
        );
        assert!(printed(&ClassifyLine::regression(0, None, &[bad])).is_err());
        assert!(
            printed(&ClassifyLine::single_label(
                0,
                None,
                &labels,
                &[0.1, bad],
                &[0.0, 0.0]
            ))
            .is_err()
        );
        assert!(
            printed(&ClassifyLine::single_label(
                0,
                None,
                &labels,
                &[0.1, 0.9],
                &[0.0, bad]
            ))
            .is_err()
        );
    }
}

/// Takes so many bytes, then fails in its way.
struct Full(usize, ErrorKind);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.checked_sub(bytes.len()) {
            Some(left) => self.0 = left,
            None => return Err(self.1.into()),
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly_and_a_full_disk_does_not() {
    let error = ErrorLine {
        index: 0,
        line: 1,
        error: "x",
    };
    let run = |kind| -> Result<usize> {
        let mut output = Output::new(Full(200_000, kind));
        for i in 0..100_000 {
            if output.line(&error)?.is_break() {
                return Ok(i);
            }
        }
        panic!("the sink takes less than that");
    };
    assert!(run(ErrorKind::BrokenPipe).unwrap() > 4000);
    let full = run(ErrorKind::StorageFull).unwrap_err().to_string();
    assert!(full.starts_with("stdout: "), "{full}");
}
