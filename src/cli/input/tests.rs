//! Each form of input, read and refused.

use std::io::{Cursor, Read};

use proptest::{collection::vec, prelude::*};

use super::*;

fn rows(ending: &str, source: impl Into<Vec<u8>>) -> Result<Rows> {
    Rows::read(
        format!("in.{ending}"),
        ending,
        Box::new(Cursor::new(source.into())),
    )
}

/// Every row of a source, as `line text|pair|adapters` or `! message`.
fn told(ending: &str, source: impl Into<Vec<u8>>) -> Vec<String> {
    match rows(ending, source) {
        Ok(rows) => rows.map(tell).collect(),
        Err(error) => vec![format!("! {error}")],
    }
}

fn tell(row: Result<Row>) -> String {
    match row {
        Err(error) => format!("! {error}"),
        Ok(row) => {
            let pair = row
                .text_pair
                .map_or(String::new(), |pair| format!("|{pair}"));
            let adapters = match row.adapters {
                RowAdapter::NotGiven => String::new(),
                other => format!(" {other:?}"),
            };
            format!("{} {:?}{adapters}", row.line, row.text + &pair)
        }
    }
}

#[test]
fn text_is_a_line_a_row_empty_ones_too() {
    assert_eq!(
        told("txt", "one\n\ntwo \r\nthree"),
        [r#"1 "one""#, r#"2 """#, r#"3 "two ""#, r#"4 "three""#]
    );
    assert_eq!(told("txt", "a\n"), [r#"1 "a""#]);
    assert_eq!(told("txt", ""), [""; 0]);
    assert_eq!(
        told("txt", "\u{feff}bom\n\u{feff}not"),
        ["1 \"bom\"", "2 \"\\u{feff}not\""]
    );
    assert_eq!(
        told("txt", "a\rb\u{2028}c\u{85}d\n"),
        ["1 \"a\\rb\\u{2028}c\\u{85}d\""]
    );
}

#[test]
fn json_lines() {
    let source = concat!(
        "{\"text\": \"a\"}\n",
        "\n",
        "  {\"text_pair\": \"q\", \"text\": \"p\\n\", \"adapter\": \"x\"}\r\n",
        "{\"text\":\"\",\"adapter\":null,\"text_pair\":null}\n",
        "{\"text\":\"m\",\"adapters\":[\"x\",null]}",
    );
    assert_eq!(
        told("jsonl", source),
        [
            r#"1 "a""#,
            r#"3 "p\n|q" One(Some("x"))"#,
            r#"4 "" One(None)"#,
            r#"5 "m" Many([Some("x"), None])"#,
        ]
    );
}

#[test]
fn a_bad_json_row_says_what_is_wrong_and_the_next_follows() {
    for (json, expected) in [
        (
            r#"{"txt": "a"}"#,
            r#"unknown key "txt"; known: text, text_pair, adapter, adapters"#,
        ),
        (
            r#"{"text": "a", "label": 1}"#,
            r#"unknown key "label"; known: text, text_pair, adapter, adapters"#,
        ),
        (r#"{}"#, r#""text" is missing"#),
        (
            r#"{"text": 3}"#,
            r#""text": expected a string, found a number"#,
        ),
        (
            r#"{"text": null}"#,
            r#""text": expected a string, found null"#,
        ),
        (
            r#"{"text": "a", "text_pair": ["b"]}"#,
            r#""text_pair": expected a string, found a list"#,
        ),
        (
            r#"{"text": "a", "adapter": ["b"]}"#,
            r#""adapter": expected a name, or null for the base, found a list"#,
        ),
        (
            r#"{"text": "a", "adapter": ""}"#,
            r#""adapter": an empty name; null is the base"#,
        ),
        (
            r#"{"text": "a", "adapters": "b"}"#,
            r#""adapters": expected a list of names, found a string"#,
        ),
        (
            r#"{"text": "a", "adapters": [{}]}"#,
            r#""adapters": expected a name, or null for the base, found an object"#,
        ),
        (
            r#"{"text": "a", "adapters": []}"#,
            r#""adapters" is empty: nobody would answer"#,
        ),
        (
            r#"{"text": "a", "adapter": null, "adapters": ["b"]}"#,
            r#"both "adapter" and "adapters" are given; which is meant?"#,
        ),
        (
            r#"{"text": "a", "text": "b"}"#,
            r#"key "text" comes twice at column 26"#,
        ),
        (r#"{"text": "a"} x"#, "trailing characters at column 15"),
        (
            r#"{"text": "a""#,
            "EOF while parsing an object at column 12",
        ),
        (r#"["a"]"#, "invalid type: sequence, expected an object"),
        (
            r#""a""#,
            r#"invalid type: string "a", expected an object at column 3"#,
        ),
        (
            r#"{"text": "\ud800"}"#,
            "unexpected end of hex escape at column 17",
        ),
    ] {
        let lines = format!("{{\"text\": \"fine\"}}\n{json}\n{{\"text\": \"fine\"}}\n");
        let expected = format!("! in.jsonl:2: {expected}");
        assert_eq!(
            told("jsonl", lines),
            [r#"1 "fine""#, &expected, r#"3 "fine""#]
        );
    }
    let deep = format!("{{\"text\": {}", "[".repeat(1_000_000));
    let found = told("jsonl", deep);
    assert!(found[0].contains("recursion limit exceeded"), "{found:?}");
}

#[test]
fn csv_by_rfc_4180() {
    let source = concat!(
        "adapter,text,text_pair\r\n",
        ",plain,\r\n",
        "x,\"with, comma\",\"say \"\"hi\"\"\"\r\n",
        "\r\n",
        "y,\"two\r\nlines\",\" padded \"\r\n",
        ",5\" pipe,'q'\n",
        ",\"\",last",
    );
    assert_eq!(
        told("csv", source),
        [
            r#"2 "plain""#,
            r#"3 "with, comma|say \"hi\"" One(Some("x"))"#,
            r#"5 "two\nlines| padded " One(Some("y"))"#,
            r#"7 "5\" pipe|'q'""#,
            r#"8 "|last""#,
        ]
    );
    assert_eq!(told("csv", "\u{feff}text\nx\n"), [r#"2 "x""#]);
}

proptest! {
    /// What is quoted by the rule reads back as it was, whatever it holds; a line's end inside is one LF.
    #[test]
    fn quoted_fields_read_back(fields in vec(("[a,\"\r\n \té]{0,8}", "[a,\"\r\n \té]{0,8}"), 0..8)) {
        let quote = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
        let mut source = String::from("text,text_pair\r\n");
        for (text, pair) in &fields {
            source.push_str(&format!("{},{}\r\n", quote(text), quote(pair)));
        }
        let rows = rows("csv", source).expect("the header is good");
        let found: Vec<_> = rows.map(|row| row.expect("the row is good")).collect();
        let lf = |s: &str| s.replace("\r\n", "\n");
        let expected = fields.iter().map(|(text, pair)| (lf(text), Some(lf(pair)).filter(|p| !p.is_empty())));
        prop_assert_eq!(
            found.into_iter().map(|row| (row.text, row.text_pair)).collect::<Vec<_>>(),
            expected.collect::<Vec<_>>()
        );
    }

    /// Any bytes in any form: rows and errors, each line of its own number, and an end.
    #[test]
    fn any_bytes_end(bytes in vec(prop_oneof![Just(b'\n'), Just(b'"'), Just(b'{'), Just(b','), any::<u8>()], 0..200)) {
        for ending in ["txt", "jsonl", "csv", "tsv"] {
            let source = [b"text,adapter\n".as_slice(), &bytes].concat();
            let lines = source.split(|&b| b == b'\n').count();
            if let Ok(rows) = rows(ending, source) {
                prop_assert!(rows.count() <= lines);
            }
        }
    }
}

#[test]
fn tsv_knows_no_quotes() {
    let source = "text\ttext_pair\n\"a\t\"b\"\n\nit's 5\"\t\n";
    assert_eq!(told("tsv", source), [r#"2 "\"a|\"b\"""#, r#"4 "it's 5\"""#]);
}

#[test]
fn columns_beside_those_that_are_read_are_carried_along() {
    assert_eq!(
        told("csv", "id,text,label\n7,a,1\n8,b,0\n"),
        [r#"2 "a""#, r#"3 "b""#]
    );
}

#[test]
fn a_bad_table_is_refused_by_line_and_column() {
    for (ending, source, expected) in [
        (
            "csv",
            "",
            "! in.csv:1: no header; expected columns of text, text_pair, adapter",
        ),
        (
            "csv",
            "hello world\n",
            "! in.csv:1: no column is named \"text\"",
        ),
        (
            "csv",
            "text_pair\na",
            "! in.csv:1: no column is named \"text\"",
        ),
        (
            "tsv",
            "text\ttext\n",
            "! in.tsv:1: column \"text\" comes twice",
        ),
    ] {
        assert_eq!(told(ending, source), [expected]);
    }
    assert_eq!(
        told("csv", "text,adapter\na\nb,c,d\n\"e\"f,g\nh,i\n\"j,\nk\n"),
        [
            "! in.csv:2: expected 2 columns, found 1",
            "! in.csv:3: expected 2 columns, found 3",
            "! in.csv:4: column 1: text after the closing quote",
            r#"5 "h" One(Some("i"))"#,
            "! in.csv:6: a quote is opened and never closed",
        ]
    );
}

#[test]
fn invalid_utf8_is_an_error_with_its_line() {
    assert_eq!(
        told("txt", b"ok\nbad \xff\nok".to_vec()),
        [
            r#"1 "ok""#,
            "! in.txt:2: not UTF-8: byte 0xff at column 5",
            r#"3 "ok""#
        ]
    );
    assert_eq!(
        told("jsonl", b"{\"text\": \"\xe9\"}\n{\"text\": \"b\"}".to_vec()),
        [
            "! in.jsonl:1: not UTF-8: byte 0xe9 at column 11",
            r#"2 "b""#
        ]
    );
    let utf16 = "text\n".encode_utf16().flat_map(u16::to_le_bytes);
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(utf16).collect();
    assert_eq!(
        told("csv", utf16),
        ["! in.csv:1: the file is UTF-16; UTF-8 is expected"]
    );
}

/// A reader of `n` bytes that never stand in memory together.
fn many(byte: u8, n: usize) -> impl Read + Send {
    std::io::repeat(byte).take(n as u64)
}

#[test]
fn an_endless_line_is_not_kept() {
    let reader = Cursor::new("a\n")
        .chain(many(b'x', 5 * LINE_MAX))
        .chain(Cursor::new("\nb\n"));
    let rows = Rows::read("in.txt".into(), "txt", Box::new(BufReader::new(reader))).unwrap();
    let told: Vec<_> = rows.map(tell).collect();
    assert_eq!(
        told,
        [
            r#"1 "a""#,
            "! in.txt:2: the line is longer than 16 MB",
            r#"3 "b""#
        ]
    );

    let line = format!("{}\n", "x".repeat(1023));
    let lines = Cursor::new(line.repeat(20 << 10));
    let reader = Cursor::new("text\n\"").chain(lines);
    let rows = Rows::read("in.csv".into(), "csv", Box::new(BufReader::new(reader))).unwrap();
    let told: Vec<_> = rows.map(tell).collect();
    assert_eq!(told, ["! in.csv:2: the record is longer than 16 MB"]);
}

#[test]
fn a_failed_read_ends_the_rows() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is gone"))
        }
    }
    let reader = BufReader::new(Cursor::new("a\nb").chain(Broken));
    let rows = Rows::read("in.txt".into(), "txt", Box::new(reader)).unwrap();
    let told: Vec<_> = rows.map(tell).collect();
    assert_eq!(told, [r#"1 "a""#, "! in.txt: the disk is gone"]);
}

#[test]
fn stdin_is_json_when_its_first_line_begins_with_a_brace() {
    let sniff = |source: &str| -> Vec<String> {
        let source = Cursor::new(source.to_owned().into_bytes());
        Rows::sniff("-".into(), Box::new(source))
            .unwrap()
            .map(tell)
            .collect()
    };
    assert_eq!(sniff("{\"text\": \"a\"}\n"), [r#"1 "a""#]);
    assert_eq!(sniff("\u{feff}{\"text\": \"a\"}\n"), [r#"1 "a""#]);
    assert_eq!(
        sniff("a\n{\"text\": \"b\"}\n"),
        [r#"1 "a""#, r#"2 "{\"text\": \"b\"}""#]
    );
    assert_eq!(
        sniff("{not json\n"),
        ["! -:1: key must be a string at column 2"]
    );
    assert_eq!(sniff(""), [""; 0]);
}

#[test]
fn arguments_are_texts() {
    let rows = Rows::from_arguments(vec!["a".into(), "{\"text\": 1}".into()]);
    let error = rows.error_at(2, "too long").to_string();
    let told: Vec<_> = rows.map(tell).collect();
    assert_eq!(told, [r#"1 "a""#, r#"2 "{\"text\": 1}""#]);
    assert_eq!(error, "argument:2: too long");
}

#[test]
fn files_are_known_by_their_ending() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.JSONL");
    std::fs::write(&path, "{\"text\": \"a\"}\n").unwrap();
    assert_eq!(Rows::open(&path).unwrap().count(), 1);
    let error = Rows::open(&directory.path().join("x.json"))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with(
            "x.json: expected a file that ends in .txt, .jsonl, .csv or .tsv, or - for stdin"
        ),
        "{error}"
    );
    let error = Rows::open(&directory.path().join("none.txt")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
}
