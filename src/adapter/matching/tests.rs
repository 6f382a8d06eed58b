//! Target rules, held against what PEFT answers.

use super::{super::expression::MAX_PATTERN, *};

fn expression(p: &str) -> Result<Targets, String> {
    Ok(Targets::new(
        Some(Selector::expression(p)?),
        None,
        Vec::new(),
        None,
    ))
}

fn list(names: &[&str]) -> Selector {
    Selector::list(names.iter().map(|s| s.to_string()).collect())
}

#[test]
fn a_list_matches_whole_components_from_the_end() {
    let t = Targets::new(
        Some(list(&["query", "output.dense"])),
        None,
        Vec::new(),
        None,
    );
    for (path, hit) in [
        ("bert.encoder.layer.0.attention.self.query", true),
        ("query", true),
        ("bert.my_query", false),
        ("bert.query.x", false),
        // The trap: one suffix, two modules of every layer.
        ("bert.encoder.layer.0.output.dense", true),
        ("bert.encoder.layer.0.attention.output.dense", true),
        ("bert.encoder.layer.0.intermediate.dense", false),
    ] {
        assert_eq!(t.matches(path), hit, "{path}");
    }
}

#[test]
fn exclusions_and_saved_modules_win() {
    let t = Targets::new(
        None,
        Some(list(&["layer.0.query"])),
        vec!["classifier".into()],
        None,
    );
    assert!(!t.matches("enc.layer.0.query"));
    assert!(t.matches("enc.layer.1.query"));
    assert!(!t.matches("classifier") && !t.matches("classifier.dense"));
    assert!(t.matches("pre_classifier"));
    assert!(t.is_everything());
}

#[test]
fn a_string_is_a_full_match() {
    let t = expression(r"bert\.encoder\.layer\.(0|1)\..*\.(query|value)").unwrap();
    assert!(t.matches("bert.encoder.layer.1.attention.self.value"));
    assert!(!t.matches("bert.encoder.layer.11.attention.self.value"));
    assert!(!t.matches("x.bert.encoder.layer.1.attention.self.value"));
    // Alternation at the top is one whole, not two halves of an anchor.
    let t = expression("query|value").unwrap();
    assert!(!t.matches("a.query") && t.matches("value"));
}

#[test]
fn layers_are_chosen_for_suffix_hits_only() {
    let layers = |i: &[i64], p: &[&str]| {
        let p: Vec<String> = p.iter().map(|s| s.to_string()).collect();
        Layers::new(i.iter().copied().collect(), &p).unwrap()
    };
    let t = Targets::new(
        Some(list(&["q", "a.layer.5.q"])),
        None,
        Vec::new(),
        Some(layers(&[1], &[])),
    );
    assert!(t.matches("a.layer.1.q") && !t.matches("a.layer.11.q") && !t.matches("a.layer.2.q"));
    assert!(
        t.matches("a.layer.5.q"),
        "an exact path is not asked for its layer"
    );
    assert!(
        !t.matches("layer.1.q"),
        "PEFT's default pattern wants a component before the list's name"
    );
    assert!(t.matches("m.layers.1.experts.0.q") && !t.matches("m.layers.0.experts.1.q"));
    let t = Targets::new(
        Some(list(&["q"])),
        None,
        Vec::new(),
        Some(layers(&[1], &["h", "layer"])),
    );
    assert!(t.matches("layer.1.q") && t.matches("a.h.1.q") && !t.matches("a.blocks.1.q"));
}

#[test]
fn the_first_key_in_file_order_wins() {
    let p = Patterns::new(vec![
        ("layer.1.query".to_owned(), 1),
        ("query".to_owned(), 2),
        ("enc.layer.3.query".to_owned(), 3),
        (r"^enc\.layer\.4\..*".to_owned(), 4),
        (r"layer\.(5|6)\.(key|value)".to_owned(), 5),
    ])
    .unwrap();
    for (path, want) in [
        ("enc.layer.1.query", Some(1)),
        ("enc.layer.11.query", Some(2)),
        ("enc.layer.3.query", Some(2)), // the exact key stands later
        ("enc.layer.4.key", Some(4)),
        ("x.enc.layer.4.key", None), // anchored
        ("enc.layer.6.value", Some(5)),
        ("layer.6.value", Some(5)),
        ("enc.xlayer.6.value", None),
        ("", None),
    ] {
        assert_eq!(p.get(path).map(|(_, v)| *v), want, "{path}");
    }
}

#[test]
fn a_dot_of_a_plain_key_is_any_character_as_in_python() {
    assert!(plain_hit("a.b", "x.a_b"));
    assert!(!plain_hit("a.b", "xa.b"));
    assert!(!plain_hit("longer.than.it", "it"));
}

#[test]
fn what_python_reads_otherwise_is_refused() {
    for (pattern, why) in [
        (r"(?=query).*", "look-around"),
        (r"(?!query).*", "look-around"),
        (r"(?<=a)b", "look-around"),
        (r"(a)\1", "escape"),
        (r"a++b", "repetition of a repetition"),
        (r"a{2}{3}", "repetition of a repetition"),
        (r"[a&&b]", "set operation"),
        (r"[[:alpha:]]", "bracket"),
        (r"\pL", "escape"),
        (r"\<a", "escape"),
        (r"(?x)a b", "group"),
        (r"(?P=n)", "group"),
        (r"a)(b", "unopened group"),
        (r"(a", "unclosed group"),
        (r"a\", "backslash"),
        (r"((a{200}){200}){200}", "size limit"),
    ] {
        let message = expression(pattern).unwrap_err();
        assert!(message.contains(why), "{pattern}: {message}");
    }
    assert!(
        expression(&"a".repeat(MAX_PATTERN + 1))
            .unwrap_err()
            .contains("bytes")
    );
    assert!(expression(&"(".repeat(1000)).is_err());
    for fine in [
        r"[]a-z]+?\.(?:x|y)*",
        r"(?i)QUERY",
        r"(?P<n>a)\.b{1,2}",
        r"[^.\]]+",
        r"a\-b\/c",
    ] {
        expression(fine).unwrap();
    }
}

#[test]
fn many_expressions_are_refused_before_they_cost_anything() {
    let many = (0..MAX_EXPRESSIONS + 1)
        .map(|i| (format!("a{i}*"), i))
        .collect();
    assert!(
        Patterns::new(many)
            .unwrap_err()
            .contains("regular expressions")
    );
    let many = (0..MAX_ENTRIES + 1).map(|i| (format!("a{i}"), i)).collect();
    assert!(Patterns::new(many).unwrap_err().contains("entries"));
}
