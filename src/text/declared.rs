//! What a `tokenizer.json` itself says: the ids of its added tokens, and where the ids of its vocabulary end.
//!
//! Read beside the tokenizer that the `tokenizers` crate makes of the file, without building anything: asking that one for
//! its vocabulary copies every word of it, a tenth of what a start takes.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The parts of a `tokenizer.json` that are read here.
#[derive(Deserialize)]
pub(super) struct Declared {
    #[serde(default)]
    pub(super) added_tokens: Vec<DeclaredToken>,
    #[serde(default)]
    pub(super) model: DeclaredModel,
}

#[derive(Deserialize)]
pub(super) struct DeclaredToken {
    pub(super) id: u32,
    pub(super) content: String,
}

#[derive(Default, Deserialize)]
pub(super) struct DeclaredModel {
    #[serde(default)]
    pub(super) vocab: Vocabulary,
}

/// A vocabulary, as the largest id in it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Vocabulary {
    /// None in an empty one.
    pub(super) largest: Option<u32>,
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("words with their ids, or words in the order of their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut largest = None;
                while let Some((_, id)) = map.next_entry::<IgnoredAny, u32>()? {
                    largest = largest.max(Some(id));
                }
                Ok(Vocabulary { largest })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
                let mut count: u32 = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1; // a list of 2^32 elements does not fit a file that was read
                }
                let largest = count.checked_sub(1);
                Ok(Vocabulary { largest })
            }
        }
        from.deserialize_any(Ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_id_of_either_kind_of_vocabulary_is_found() {
        let largest = |json: &str| {
            let declared: Declared = serde_json::from_str(json).unwrap();
            declared.model.vocab.largest
        };
        let map =
            r#"{"model": {"type": "WordPiece", "vocab": {"a": 7, "b": 2}, "unk_token": "a"}}"#;
        assert_eq!(largest(map), Some(7));
        let list = r#"{"model": {"vocab": [["a", -1.5], ["b", -2.0], ["c", 0]]}}"#;
        assert_eq!(largest(list), Some(2));
        for empty in [
            "{}",
            r#"{"model": {}}"#,
            r#"{"model": {"vocab": {}}}"#,
            r#"{"model": {"vocab": []}}"#,
        ] {
            assert_eq!(largest(empty), None, "{empty}");
        }
        for wrong in [
            r#"{"model": {"vocab": 3}}"#,
            r#"{"model": {"vocab": {"a": -1}}}"#,
        ] {
            assert!(serde_json::from_str::<Declared>(wrong).is_err(), "{wrong}");
        }
    }
}
