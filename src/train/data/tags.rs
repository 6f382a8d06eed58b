//! Words with a label each: CoNLL's columns, and how labels of words become labels of tokens.
//!
//! A file has one word a line with its columns between blanks, the word first and its tag last; an empty line ends a
//! sentence; `-DOCSTART-` lines are skipped. Tags may be IOB1 (`I-` begins an entity, `B-` only where one follows another
//! of its kind, as in CoNLL-2003's own files) or BIO; they are read as BIO either way.
//!
//! A sentence is its words with one blank between them, and a word's tag is that of its first token: the tokens after it
//! and the special ones are neither learnt nor scored. A word that was cut off is not scored.

use super::{At, Row};
use crate::{error::Result, text::Encoded};

/// A text of `words`, none of which holds a blank that would part it.
pub(super) fn sentence(words: &[String]) -> String {
    let whole = |w: &String| w.split_whitespace().collect::<Vec<_>>().join("\u{a0}");
    words.iter().map(whole).collect::<Vec<_>>().join(" ")
}

/// The sentences of CoNLL's columns.
pub(super) fn rows(text: &str, at: At<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let (mut words, mut tags, mut first) = (Vec::new(), Vec::new(), 0);
    let mut end = |words: &mut Vec<String>, tags: &mut Vec<String>, line: usize| {
        if !words.is_empty() {
            rows.push(Row {
                line,
                text: sentence(words),
                pair: None,
                labels: std::mem::take(tags),
            });
            words.clear();
        }
    };
    for (i, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields[..] {
            [] => end(&mut words, &mut tags, first),
            ["-DOCSTART-", ..] => {}
            [word] => {
                let why = format!("expected a word and its tag, found {word:?} alone");
                return Err(at(i + 1, why));
            }
            [word, .., tag] => {
                if words.is_empty() {
                    first = i + 1;
                }
                words.push(word.to_owned());
                tags.push(tag.to_owned());
            }
        }
    }
    end(&mut words, &mut tags, first);
    Ok(rows)
}

/// Tags as BIO: an `I-` that begins an entity becomes a `B-`.
pub(super) fn to_bio(tags: &mut [String]) {
    let mut inside: Option<String> = None; // the kind of the entity before
    for tag in tags {
        let kind = tag.split_once('-').map(|(_, kind)| kind.to_owned());
        if tag.starts_with("I-") && inside != kind {
            tag.replace_range(..1, "B");
        }
        inside = kind;
    }
}

/// Labels of the words of `text` as labels of its tokens.
pub fn to_tokens(text: &str, encoded: &Encoded, words: &[Option<usize>]) -> Vec<Option<usize>> {
    // The word of each character; a blank has none.
    let (mut of, mut word) = (Vec::new(), 0);
    for c in text.chars() {
        let blank = c == ' ';
        of.push((!blank).then_some(word));
        word += usize::from(blank);
    }
    let mut last = None;
    let token = |i: usize| {
        if encoded.special[i] {
            return None;
        }
        // A token may begin with the blank before its word: its last character tells.
        let (_, end) = encoded.offsets[i];
        let word = (*of.get(end.checked_sub(1)?)?)?;
        (last.replace(word) != Some(word)).then(|| words.get(word).copied().flatten())?
    };
    (0..encoded.len()).map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn at(line: usize, why: String) -> Error {
        Error::Row {
            source_name: "x.conll".into(),
            line,
            why,
        }
    }

    #[test]
    fn sentences_end_at_empty_lines_and_at_the_end() {
        let text =
            "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n\nPeter NNP I-NP I-PER";
        let rows = rows(text, &at).unwrap();
        let shown: Vec<_> = rows.iter().map(|r| (r.line, &*r.text)).collect();
        assert_eq!(shown, [(3, "EU rejects"), (7, "Peter")]);
        assert_eq!(rows[0].labels, ["I-ORG", "O"]);
        let error = super::rows("EU I-ORG\nalone\n", &at).unwrap_err();
        assert!(
            error.to_string().starts_with("x.conll:2: expected a word"),
            "{error}"
        );
    }

    #[test]
    fn both_ways_of_tagging_come_to_one() {
        for tags in [
            "I-ORG O I-PER I-PER B-PER I-LOC I-ORG",
            "B-ORG O B-PER I-PER B-PER B-LOC B-ORG",
        ] {
            let mut tags: Vec<String> = tags.split(' ').map(str::to_owned).collect();
            to_bio(&mut tags);
            assert_eq!(tags.join(" "), "B-ORG O B-PER I-PER B-PER B-LOC B-ORG");
        }
    }

    #[test]
    fn a_word_s_label_is_its_first_token_s() {
        let encoded = Encoded {
            ids: vec![0; 7],
            types: vec![0; 7],
            // <s> ab | c, " de" | f, "é" </s>: the second word's first token begins with its blank
            offsets: vec![(0, 0), (0, 2), (2, 3), (3, 6), (6, 7), (8, 9), (0, 0)],
            special: vec![true, false, false, false, false, false, true],
            word_ids: vec![None; 7],
            sequence: vec![None; 7],
        };
        let found = to_tokens("abc def é", &encoded, &[Some(4), None, Some(6)]);
        assert_eq!(found, [None, Some(4), None, None, None, Some(6), None]);
    }
}
