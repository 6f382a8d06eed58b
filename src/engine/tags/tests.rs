//! The rules of grouping on labels alone; the pipeline itself is met in `tests/it/tag.rs`.

use super::*;

#[test]
fn a_b_begins_another_entity_and_an_i_goes_on() {
    for (last, next, same) in [
        ("B-PER", "I-PER", true),
        ("I-PER", "I-PER", true),
        ("B-PER", "B-PER", false),
        ("I-PER", "B-PER", false),
        ("I-PER", "I-LOC", false),
        ("O", "O", true),
        ("O", "I-PER", false),
        // A label without a prefix is its own tag and goes on.
        ("PER", "PER", true),
        ("B-PER", "PER", true),
        ("BEGIN", "BEGIN", true),
    ] {
        assert_eq!(same_entity(last, next), same, "{last} {next}");
    }
}

#[test]
fn a_kind_is_what_follows_the_first_hyphen() {
    let pairs = [
        ("B-PER", "PER"),
        ("O", "O"),
        ("I-a-b", "a-b"),
        ("per", "per"),
        ("X-Y", "Y"),
    ];
    for (label, expected) in pairs {
        assert_eq!(kind(label), expected);
    }
}

fn piece(row: usize, continues: bool) -> Piece {
    Piece {
        word: String::new(),
        start: row,
        end: row + 1,
        continues,
        row,
    }
}

#[test]
fn a_word_takes_its_label_from_the_first_the_mean_or_the_surest() {
    let scores = Matrix::from_vec(vec![0.6, 0.4, 0.0, 0.1, 0.2, 0.7, 0.45, 0.55, 0.0], 3, 3);
    let word = [piece(0, false), piece(1, true), piece(2, true)];
    assert_eq!(of_word(&word, &scores, Aggregation::First), (0, 0.6));
    assert_eq!(of_word(&word, &scores, Aggregation::Max), (2, 0.7));
    let (label, score) = of_word(&word, &scores, Aggregation::Average);
    assert_eq!(label, 0);
    assert!((score - 1.15 / 3.0).abs() < 1e-6);
}

#[test]
fn of_equal_scores_the_first_wins() {
    assert_eq!(best(&[0.3, 0.4, 0.4]), (1, 0.4));
}
