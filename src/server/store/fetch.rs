//! Reading an adapter's files from an object store.

use std::path::Path;

use object_store::{ObjectStore, ObjectStoreExt, path::Path as Key};

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
pub(in crate::server) fn read_from(
    store: &dyn ObjectStore,
    below: &Key,
    shown: &Path,
    max: u64,
) -> Result<AdapterFiles, Failure> {
    let mut refused = None;
    let files = AdapterFiles::read_with(shown, |name, most| {
        let most = most.min(max);
        fetch(store, &below.clone().join(name), name, most).map_err(|failure| {
            refused = Some(failure);
            Error::EmptyInput // replaced below by what was refused
        })
    });
    files.map_err(|error| refused.unwrap_or_else(|| of_adapter(&error)))
}

fn fetch(
    store: &dyn ObjectStore,
    key: &Key,
    name: &str,
    max: u64,
) -> Result<Option<Vec<u8>>, Failure> {
    let too_large = || {
        let why = format!("{name} has more than {max} bytes");
        Failure::new(Kind::FileTooLarge, why)
    };
    tokio::runtime::Handle::current().block_on(async {
        let object = match store.get(key).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            other => other.map_err(|e| failed(&e))?,
        };
        if object.meta.size > max {
            return Err(too_large());
        }
        let bytes = object.bytes().await.map_err(|e| failed(&e))?;
        Ok(Some(bytes.to_vec()))
    })
}

/// The store's own message may hold keys and paths: it goes to the log.
fn failed(error: &object_store::Error) -> Failure {
    tracing::warn!("object store: {error}");
    Failure::new(
        Kind::InvalidAdapter,
        "the object store did not give the adapter",
    )
}
