//! F1 over entities, as seqeval computes it in its default mode: an entity counts when its kind and both its ends are right.
//!
//! Tags are read leniently: `I-` without an entity of its kind before it begins one. So BIO and IOB1 are read alike, and a
//! model's tags need not be well-formed.

use std::collections::{BTreeMap, BTreeSet};

/// Kind, first word, last word.
type Entity<'a> = (&'a str, usize, usize);

/// The entities that a sentence's tags say.
fn entities<'a>(tags: &[&'a str]) -> BTreeSet<Entity<'a>> {
    let mut out = BTreeSet::new();
    let mut open: Option<(&str, usize)> = None;
    for (i, &tag) in tags.iter().chain([&"O"]).enumerate() {
        let (how, kind) = tag.split_once('-').unwrap_or((tag, "_"));
        let outside = how == "O";
        let goes_on = open.is_some_and(|(k, _)| !outside && how != "B" && k == kind);
        if !goes_on {
            if let Some((kind, first)) = open.take() {
                out.insert((kind, first, i - 1));
            }
            open = (!outside).then_some((kind, i));
        }
    }
    out
}

/// Entities that are right, that were said, and that there are.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    right: u64,
    said: u64,
    there: u64,
}

impl Counts {
    fn f1(self) -> f64 {
        super::ratio(2 * self.right, self.said + self.there)
    }
}

/// What is counted, sentence by sentence.
#[derive(Debug, Default)]
pub(super) struct Tally<'a> {
    kinds: BTreeMap<&'a str, Counts>,
}

impl<'a> Tally<'a> {
    /// One sentence's tags as a model said them and as they are.
    pub(super) fn add(&mut self, said: &[&'a str], there: &[&'a str]) {
        let (said, there) = (entities(said), entities(there));
        for entity in &said {
            let counts = self.kinds.entry(entity.0).or_default();
            counts.said += 1;
            counts.right += u64::from(there.contains(entity));
        }
        for entity in &there {
            self.kinds.entry(entity.0).or_default().there += 1;
        }
    }

    /// `f1`, `precision` and `recall` over all entities, and `macro_f1`, the mean F1 of their kinds.
    pub(super) fn scores(&self) -> [(&'static str, f64); 4] {
        let mut all = Counts::default();
        for counts in self.kinds.values() {
            all.right += counts.right;
            all.said += counts.said;
            all.there += counts.there;
        }
        let sum: f64 = self.kinds.values().map(|c| c.f1()).sum();
        [
            ("f1", all.f1()),
            ("precision", super::ratio(all.right, all.said)),
            ("recall", super::ratio(all.right, all.there)),
            ("macro_f1", sum / self.kinds.len().max(1) as f64),
        ]
    }
}
