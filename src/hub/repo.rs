//! What a repository is called: `owner/name`, with `@revision` for another than the default branch.
//!
//! Looks at the text alone: whether there is such a repository is the hub's to say, and whether a directory of that name
//! stands nearer is asked by the caller before.

use std::{fmt, path::Path};

/// The branch taken where none is named.
const DEFAULT_REVISION: &str = "main";

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    id: String,
    revision: String,
}

impl Repository {
    /// `owner/name` or `owner/name@revision`; `None` for what is not shaped like one (a path with other than two parts, or
    /// that begins with a dot).
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, revision),
            None => (text, DEFAULT_REVISION),
        };
        let (owner, name) = id.split_once('/')?;
        let repository = Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
        };
        (is_name(owner) && is_name(name) && is_revision(revision)).then_some(repository)
    }

    /// The same repository at another revision; `None` for what cannot be the name of one.
    pub fn at(self, revision: &str) -> Option<Self> {
        is_revision(revision).then(|| Self {
            revision: revision.to_owned(),
            ..self
        })
    }

    /// `owner/name`
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A branch, a tag, a pull request's `refs/pr/N`, or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The revision as one segment of a URL.
    pub(super) fn revision_in_url(&self) -> String {
        in_url(&self.revision).replace('/', "%2F")
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.revision)
    }
}

/// A path as part of a URL: everything but unreserved characters and `/` in percent.
pub(super) fn in_url(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Whether `path`, which comes from outside, stays inside the directory that it is joined to.
pub(super) fn is_inside(path: &str) -> bool {
    let plain = |c: std::path::Component| matches!(c, std::path::Component::Normal(_));
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && !path.starts_with('/')
        && path.split('/').all(|part| !part.is_empty())
        && Path::new(path).components().all(plain)
        && !path.split('/').any(|part| part == "." || part == "..")
}

/// The hub's rule for owners and names, which also makes them harmless as parts of paths and URLs.
fn is_name(part: &str) -> bool {
    const LONGEST: usize = 96;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=LONGEST).contains(&part.len())
        && part.chars().all(plain)
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("..")
        && !part.contains("--") // stands for the slash in the cache's directory names
}

fn is_revision(text: &str) -> bool {
    is_inside(text) && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_told_from_a_path() {
        let parsed = |text| Repository::parse(text).map(|r| r.to_string());
        let same = ["a/b@main", "Org-1/bert_base.v2@refs/pr/3", "a/b@v1.0"];
        for text in same {
            assert_eq!(parsed(text).as_deref(), Some(text));
        }
        assert_eq!(parsed("a/b").as_deref(), Some("a/b@main"));
        let paths = [
            "a", "./a/b", "../a", "a/b/c", "/a/b", "a/", "/b", "~/b", "a\\b", "a/b@", "a/b@../x",
            "a/b c", "a/b@x y", ".a/b", "a/..", "a--b/c", "", "a@b/c",
        ];
        for text in paths {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_revision_is_one_segment_of_a_url() {
        let url = |text: &str| Repository::parse(text).map(|r| r.revision_in_url());
        assert_eq!(url("a/b@refs/pr/3").as_deref(), Some("refs%2Fpr%2F3"));
        assert_eq!(url("a/b@50%?x=1").as_deref(), Some("50%25%3Fx%3D1"));
    }

    #[test]
    fn names_from_outside_stay_inside() {
        for name in ["config.json", "1_Pooling/config.json"] {
            assert!(is_inside(name), "{name}");
        }
        for name in [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "c:x",
        ] {
            assert!(!is_inside(name), "{name}");
        }
    }
}
