//! Token labels to entities: which tokens are one word, which words are one entity.
//!
//! The rules are those of the token classification pipeline of `transformers`, its heuristics included, because answers
//! are compared with it: a tokenizer whose vocabulary marks continuations (`##ing`) continues a word where a token is
//! longer than the text it stands for; with any other, where no space stands before or at its first character. An
//! unknown token is a word of its own. Adjacent labels of one kind are one entity until a `B-` begins another; a label
//! that is neither `B-` nor `I-` counts as `I-`. So BIO and IOB1 are read by one rule.
//!
//! Offsets are Unicode scalar values of the text as given. A token classifier answers one text, not a pair.

#[cfg(test)]
mod tests;

use crate::{
    mat::{MatMut, Matrix},
    text::{Encoded, Tokenizer},
};

/// The label of what is no entity.
const OUTSIDE: &str = "O";

/// How token labels become entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aggregation {
    /// They do not: each token that has a label is given by itself, with its full label.
    None,
    /// Adjacent tokens of one kind.
    #[default]
    Simple,
    /// As `Simple`, over words; a word has the label of its first token.
    First,
    /// As `Simple`, over words; a word has the best label of its tokens' mean scores.
    Average,
    /// As `Simple`, over words; a word has the label of its surest token.
    Max,
}

/// Something found in a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// Its kind (`PER`); without aggregation the token's label (`B-PER`).
    pub label: String,
    /// Probability of the label; of several tokens or words, the mean.
    pub score: f32,
    /// Its tokens, decoded; `start..end` says where to find the text itself.
    pub word: String,
    /// First character.
    pub start: usize,
    /// One past the last character.
    pub end: usize,
}

/// A token of the text, as grouping needs it: read at admission, when the text is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The token as the vocabulary spells it; the text itself where the vocabulary lacks it.
    word: String,
    /// First character.
    start: usize,
    /// One past the last character.
    end: usize,
    /// Whether it continues the word of the token before it.
    continues: bool,
    /// Its row of the sequence.
    row: usize,
}

/// The pieces of `text`, whose tokens are `encoded`; special tokens are none.
pub(super) fn pieces(tokenizer: &Tokenizer, text: &str, encoded: &Encoded) -> Vec<Piece> {
    let text: Vec<char> = text.chars().collect();
    let marked = tokenizer.marks_continuations();
    let unknown = tokenizer.specials().unk;
    let piece = |row: usize| {
        let (start, end) = encoded.offsets[row];
        let (from, to) = (start.min(text.len()), end.min(text.len()));
        let spelled = &text[from..to.max(from)];
        let token = tokenizer.id_to_token(encoded.ids[row]).unwrap_or_default();
        let is_unknown = unknown == Some(encoded.ids[row]);
        let longer = || token.chars().count() != spelled.len();
        let no_space = || {
            start > 0 && !text[from.saturating_sub(1)..(start + 1).min(text.len())].contains(&' ')
        };
        let continues = !is_unknown && if marked { longer() } else { no_space() };
        Piece {
            continues,
            word: if is_unknown {
                spelled.iter().collect()
            } else {
                token
            },
            start,
            end,
            row,
        }
    };
    (0..encoded.len())
        .filter(|&row| !encoded.special[row])
        .map(piece)
        .collect()
}

/// A token or a word with its label.
struct Tagged<'a> {
    label: &'a str,
    score: f32,
    word: String,
    start: usize,
    end: usize,
}

/// The entities of a text: `logits [T x labels]` of its tokens, which `pieces` names by row.
pub(super) fn entities(
    tokenizer: &Tokenizer,
    pieces: &[Piece],
    mut logits: Matrix,
    labels: &[String],
    how: Aggregation,
) -> Vec<Entity> {
    softmax(logits.view_mut());
    let scores = logits;
    let tagged: Vec<Tagged<'_>> = match how {
        Aggregation::None | Aggregation::Simple => pieces
            .iter()
            .map(|piece| {
                let (label, score) = best(scores.row(piece.row));
                Tagged {
                    label: &labels[label],
                    score,
                    word: piece.word.clone(),
                    start: piece.start,
                    end: piece.end,
                }
            })
            .collect(),
        // A word begins at every piece that continues none; the text's first piece begins one whatever it is.
        _ => pieces
            .chunk_by(|_, next| next.continues)
            .map(|word| {
                let (label, score) = of_word(word, &scores, how);
                Tagged {
                    label: &labels[label],
                    score,
                    word: join(tokenizer, word.iter().map(|p| &p.word)),
                    start: word[0].start,
                    end: word[word.len() - 1].end,
                }
            })
            .collect(),
    };
    let found: Vec<Entity> = match how {
        Aggregation::None => tagged
            .into_iter()
            .map(|t| Entity {
                label: t.label.to_owned(),
                score: t.score,
                word: t.word,
                start: t.start,
                end: t.end,
            })
            .collect(),
        _ => tagged
            .chunk_by(|last, next| same_entity(last.label, next.label))
            .map(|group| Entity {
                label: kind(group[0].label).to_owned(),
                score: group.iter().map(|t| t.score).sum::<f32>() / group.len() as f32,
                word: join(tokenizer, group.iter().map(|t| &t.word)),
                start: group[0].start,
                end: group[group.len() - 1].end,
            })
            .collect(),
    };
    found.into_iter().filter(|e| e.label != OUTSIDE).collect()
}

/// Label and score of a word of several pieces.
fn of_word(word: &[Piece], scores: &Matrix, how: Aggregation) -> (usize, f32) {
    let of = |piece: &Piece| best(scores.row(piece.row));
    match how {
        Aggregation::Max => {
            let surest = |a: (usize, f32), b: (usize, f32)| if b.1 > a.1 { b } else { a };
            word[1..].iter().map(of).fold(of(&word[0]), surest)
        }
        Aggregation::Average => {
            let mut mean = scores.row(word[0].row).to_vec();
            for piece in &word[1..] {
                for (m, s) in mean.iter_mut().zip(scores.row(piece.row)) {
                    *m += s;
                }
            }
            mean.iter_mut().for_each(|m| *m /= word.len() as f32);
            best(&mean)
        }
        Aggregation::None | Aggregation::Simple | Aggregation::First => of(&word[0]),
    }
}

/// The highest score and where it is; the first of equals.
fn best(scores: &[f32]) -> (usize, f32) {
    let first = (0, scores[0]);
    let better = |best: (usize, f32), (i, &s)| if s > best.1 { (i, s) } else { best };
    scores.iter().enumerate().fold(first, better)
}

/// Whether `next` goes on with the entity of `last`.
fn same_entity(last: &str, next: &str) -> bool {
    let tag = |label: &'_ str| {
        let stripped = label
            .strip_prefix("B-")
            .or_else(|| label.strip_prefix("I-"));
        stripped.unwrap_or(label).to_owned()
    };
    !next.starts_with("B-") && tag(last) == tag(next)
}

/// `PER` of `B-PER`: what follows the first hyphen.
fn kind(label: &str) -> &str {
    label.split_once('-').map_or(label, |(_, kind)| kind)
}

fn join<'a>(tokenizer: &Tokenizer, words: impl Iterator<Item = &'a String>) -> String {
    tokenizer.join(&words.cloned().collect::<Vec<_>>())
}

fn softmax(logits: MatMut<'_>) {
    crate::kernel::softmax::softmax(logits);
}
