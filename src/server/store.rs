//! Adapters in object stores (S3, Google Cloud Storage, Azure, `file://`), by the feature `object-store`.
//!
//! A URL must stand below one of the prefixes that the operator allowed. Credentials come from the environment, as the
//! `object_store` crate reads them. The bytes go to memory, never to a directory, within the limits of local files.

#[cfg(feature = "object-store")]
mod fetch;

#[cfg(feature = "object-store")]
pub(super) use fetch::read;

/// Whether `url` stands below one of the allowed prefixes.
pub(super) fn allowed(url: &str, prefixes: &[String]) -> bool {
    let plain = !url.contains(['?', '#', '\\', '%']) && !url.split('/').any(|part| part == "..");
    let below = |prefix: &String| {
        let prefix = prefix.trim_end_matches('/');
        url.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    plain && prefixes.iter().any(below)
}

/// Built without the feature: there are no stores.
#[cfg(not(feature = "object-store"))]
pub(super) fn read(
    _: &str,
    _: &std::path::Path,
    _: u64,
) -> Result<crate::adapter::AdapterFiles, super::failure::Failure> {
    Err(super::failure::Failure::new(
        super::failure::Kind::RuntimeUnavailable,
        "this server was built without object stores (feature object-store)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_below_a_prefix_is_allowed() {
        let prefixes = ["s3://bucket/adapters/".to_owned()];
        assert!(allowed("s3://bucket/adapters/a", &prefixes));
        for url in [
            "s3://bucket/adapters",
            "s3://bucket/adapters-of-others/a",
            "s3://bucket/adapters/../secret",
            "s3://bucket/adapters/%2e%2e/secret",
            "s3://other/adapters/a",
            "file:///etc",
        ] {
            assert!(!allowed(url, &prefixes), "{url}");
        }
    }
}
