//! Reading an adapter's files from an object store.

#[cfg(test)]
mod tests;

use std::path::Path;

use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as Key};

use crate::{
    Error,
    adapter::AdapterFiles,
    server::failure::{Failure, Kind, of_adapter},
};

/// The files below `url`; messages call them by `shown`. Called off the async threads.
pub(in crate::server) fn read(url: &str, shown: &Path, max: u64) -> Result<AdapterFiles, Failure> {
    let parsed = url::Url::parse(url)
        .map_err(|_| Failure::new(Kind::PathForbidden, "not the URL of a store"))?;
    let (store, below) =
        object_store::parse_url_opts(&parsed, std::env::vars()).map_err(|e| failed(&e))?;
    read_from(&*store, &below, shown, max)
}

/// The files below the key `below` of `store`.
fn read_from(
    store: &dyn ObjectStore,
    below: &Key,
    shown: &Path,
    max: u64,
) -> Result<AdapterFiles, Failure> {
    let mut objects = Objects {
        store,
        read: Vec::new(),
    };
    let mut refused = None;
    let files = AdapterFiles::read_with(shown, |name, most| {
        let first = objects.read.is_empty();
        let got = objects.get(&below.clone().join(name), name, most.min(max));
        let got = match got {
            Ok(None) if first => {
                let why = "there is no adapter at this place";
                Err(Failure::new(Kind::AdapterNotFound, why))
            }
            got => got,
        };
        got.map_err(|failure| {
            refused = Some(failure);
            Error::EmptyInput // replaced below by what was refused
        })
    });
    let files = files.map_err(|error| refused.unwrap_or_else(|| of_adapter(&error)))?;
    objects.unchanged()?;
    Ok(files)
}

/// Objects that are read one after the other and must be of one moment.
struct Objects<'a> {
    store: &'a dyn ObjectStore,
    /// What they were, or that there was none.
    read: Vec<(Key, Option<ObjectMeta>)>,
}

impl Objects<'_> {
    fn get(&mut self, key: &Key, name: &str, max: u64) -> Result<Option<Vec<u8>>, Failure> {
        let too_large = || {
            let why = format!("{name} has more than {max} bytes");
            Failure::new(Kind::FileTooLarge, why)
        };
        tokio::runtime::Handle::current().block_on(async {
            let object = match self.store.get(key).await {
                Err(object_store::Error::NotFound { .. }) => {
                    self.read.push((key.clone(), None));
                    return Ok(None);
                }
                other => other.map_err(|e| failed(&e))?,
            };
            if object.meta.size > max {
                return Err(too_large());
            }
            self.read.push((key.clone(), Some(object.meta.clone())));
            let bytes = object.bytes().await.map_err(|e| failed(&e))?;
            Ok(Some(bytes.to_vec()))
        })
    }

    /// Whether all of them are still what they were: two halves of different adapters are none.
    fn unchanged(&self) -> Result<(), Failure> {
        tokio::runtime::Handle::current().block_on(async {
            for (key, was) in &self.read {
                let now = match self.store.head(key).await {
                    Err(object_store::Error::NotFound { .. }) => None,
                    other => Some(other.map_err(|e| failed(&e))?),
                };
                if now != *was {
                    let why = "the adapter was replaced while it was read; load it again";
                    return Err(Failure::new(Kind::FileChanged, why));
                }
            }
            Ok(())
        })
    }
}

/// The store's own message may hold keys and paths: it goes to the log.
fn failed(error: &object_store::Error) -> Failure {
    tracing::warn!("object store: {error}");
    Failure::new(
        Kind::InvalidAdapter,
        "the object store did not give the adapter",
    )
}
