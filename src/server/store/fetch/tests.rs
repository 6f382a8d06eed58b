//! Reading from a store in memory.

use object_store::memory::InMemory;

use super::*;

const CONFIG: &str = "adapter_config.json";

/// The built-in adapter "intent" below `a/`, and what runs the store.
fn store() -> (InMemory, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let store = InMemory::new();
    let files = crate::embedded::adapters()
        .into_iter()
        .find(|(name, _)| *name == "intent")
        .unwrap()
        .1;
    for (name, bytes) in [
        (CONFIG, &files.config),
        ("adapter_model.safetensors", &files.weights),
        ("labels.json", files.labels.as_ref().unwrap()),
    ] {
        put(&store, &runtime, &format!("a/{name}"), bytes);
    }
    (store, runtime)
}

fn put(store: &InMemory, runtime: &tokio::runtime::Runtime, key: &str, bytes: &[u8]) {
    let bytes = bytes.to_vec();
    runtime
        .block_on(store.put(&Key::from(key), bytes.into()))
        .unwrap();
}

fn kind(got: Result<AdapterFiles, Failure>) -> Kind {
    got.map(|_| ()).unwrap_err().kind
}

#[test]
fn files_come_whole_and_the_same_files_are_one_generation() {
    let (store, runtime) = store();
    let _in = runtime.enter();
    let read = |max| read_from(&store, &Key::from("a"), Path::new("x"), max);
    let files = read(1 << 20).unwrap();
    let mut all = crate::embedded::adapters().into_iter();
    let built_in = all.find(|(name, _)| *name == "intent").unwrap().1;
    assert_eq!(files.generation(), built_in.generation());
    assert_eq!(kind(read(1000)), Kind::FileTooLarge);
    let none = read_from(&store, &Key::from("b"), Path::new("x"), 1 << 20);
    assert_eq!(kind(none), Kind::AdapterNotFound);
    let key = Key::from("a/adapter_model.safetensors");
    runtime.block_on(store.delete(&key)).unwrap();
    assert_eq!(kind(read(1 << 20)), Kind::InvalidAdapter);
}

#[test]
fn objects_that_were_replaced_while_others_were_read_are_no_adapter() {
    let (store, runtime) = store();
    let _in = runtime.enter();
    let mut objects = Objects {
        store: &store,
        read: Vec::new(),
    };
    let config = Key::from("a/adapter_config.json");
    let selftest = Key::from("a/selftest.json");
    objects.get(&config, CONFIG, 1 << 20).unwrap().unwrap();
    assert!(objects.get(&selftest, "", 9).unwrap().is_none());
    objects.unchanged().unwrap();
    put(&store, &runtime, selftest.as_ref(), b"{}");
    assert_eq!(objects.unchanged().unwrap_err().kind, Kind::FileChanged);
    runtime.block_on(store.delete(&selftest)).unwrap();
    objects.unchanged().unwrap();
    put(&store, &runtime, config.as_ref(), b"{}");
    assert_eq!(objects.unchanged().unwrap_err().kind, Kind::FileChanged);
}
