//! Where the hub is, where its files are kept and who asks: the environment variables of Python's `huggingface_hub`.
//!
//! `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` (and
//! `TRANSFORMERS_OFFLINE`) mean here what they mean there. Logging in is left to `hf auth login`, which writes the token file.

use std::{fmt, path::PathBuf};

use crate::{Error, Result};

/// The public hub.
const PUBLIC: &str = "https://huggingface.co";

/// How repositories are reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `https://host`, without a slash at its end.
    pub endpoint: String,
    /// The directory of all repositories (`models--owner--name`).
    pub cache: PathBuf,
    /// Who asks, where that is known. Sent to the endpoint alone.
    pub token: Option<String>,
    /// Whether only what is in the cache may be used.
    pub offline: bool,
}

impl fmt::Debug for Settings {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("offline", &self.offline)
            .finish()
    }
}

impl Settings {
    /// From the environment of this process.
    ///
    /// # Errors
    /// When there is no home directory for the cache, the endpoint is no URL, or the token's file cannot be read.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(&|name| std::env::var(name).ok())
    }

    /// From the variables that `var` gives; an empty one counts as not set.
    fn from_vars(var: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| set(name).map(PathBuf::from);
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME");
            let caches = caches.or_else(|| path("HOME").map(|home| home.join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let cache = path("HF_HUB_CACHE").or_else(|| home.as_ref().map(|home| home.join("hub")));
        let cache = cache.ok_or_else(|| {
            let why = "none of HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME is set";
            Error::format("the hub's cache".as_ref(), why)
        })?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.to_owned());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let why = format!("expected http:// or https://, found {endpoint:?}");
            return Err(Error::format("HF_ENDPOINT".as_ref(), why));
        }
        let file = path("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")));
        let token = match (set("HF_TOKEN"), file) {
            (Some(token), _) => Some(token),
            (None, Some(file)) if file.is_file() => {
                Some(std::fs::read_to_string(&file).map_err(Error::io(&file))?)
            }
            _ => None,
        };
        let truth = |name: &str| {
            let value = set(name).unwrap_or_default().trim().to_lowercase();
            ["1", "on", "yes", "true"].contains(&value.as_str())
        };
        Ok(Self {
            endpoint,
            cache,
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            offline: truth("HF_HUB_OFFLINE") || truth("TRANSFORMERS_OFFLINE"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| vars.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
        Settings::from_vars(&find)
    }

    #[test]
    fn the_nearest_variable_places_the_cache() {
        let mut vars = vec![("HOME", "/home/me")];
        let mut expect = |var, cache: &str| {
            vars.push(var);
            assert_eq!(from(&vars).unwrap().cache, PathBuf::from(cache));
        };
        expect(("HF_HOME", " "), "/home/me/.cache/huggingface/hub");
        expect(("XDG_CACHE_HOME", "/c"), "/c/huggingface/hub");
        expect(("HF_HUB_CACHE", "/own"), "/own");
        let home = from(&[("HF_HOME", "/hf"), ("HOME", "/home/me")]).unwrap();
        assert_eq!(home.cache, PathBuf::from("/hf/hub"));
        assert!(from(&[]).is_err());
    }

    #[test]
    fn a_token_comes_from_its_variable_else_from_its_file_and_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let home = ("HF_HOME", dir.path().to_str().unwrap());
        assert_eq!(from(&[home]).unwrap().token.as_deref(), Some("hf_file"));
        let both = from(&[home, ("HF_TOKEN", "hf_variable")]).unwrap();
        assert_eq!(both.token.as_deref(), Some("hf_variable"));
        assert!(!format!("{both:?}").contains("hf_variable"));
        let elsewhere = from(&[home, ("HF_TOKEN_PATH", "/nowhere")]).unwrap();
        assert_eq!(elsewhere.token, None);
    }

    #[test]
    fn offline_and_endpoint_are_read_as_python_reads_them() {
        let home = ("HOME", "/h");
        for (value, offline) in [("1", true), ("TRUE", true), ("0", false), ("", false)] {
            let settings = from(&[home, ("HF_HUB_OFFLINE", value)]).unwrap();
            assert_eq!(settings.offline, offline, "{value:?}");
            assert_eq!(settings.endpoint, PUBLIC);
        }
        let mirror = from(&[home, ("HF_ENDPOINT", "http://mirror:81/hf/")]).unwrap();
        assert_eq!(mirror.endpoint, "http://mirror:81/hf");
        assert!(from(&[home, ("HF_ENDPOINT", "mirror")]).is_err());
    }
}
