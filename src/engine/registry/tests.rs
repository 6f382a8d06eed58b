//! Names, generations and limits, over the built-in adapters.

use std::sync::Arc;

use super::*;
use crate::{
    embedded,
    engine::Engine,
    model::{LoadOptions, Model},
    text::Tokenizer,
};

fn engine() -> Engine {
    let source = embedded::base();
    let tokenizer = Tokenizer::load(&|name| source.read(name), &source.path("")).unwrap();
    let model = Model::load(source, &LoadOptions::default()).unwrap();
    Engine::new(model, tokenizer, 256).unwrap()
}

/// The built-in adapters: sentiment, question and intent, none of which has a name yet.
fn residents(engine: &Engine) -> [Arc<Resident>; 3] {
    let all = embedded::adapters();
    ["sentiment", "question", "intent"].map(|wanted| {
        let (name, files) = all.iter().find(|(name, _)| *name == wanted).unwrap();
        engine.prepare(files, std::path::Path::new(name)).unwrap()
    })
}

fn replace() -> Publish<'static> {
    Publish {
        replace: true,
        ..Publish::default()
    }
}

fn names(registry: &Registry) -> Vec<String> {
    registry.list().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_snapshot_takes_back_a_replacement_an_eviction_and_a_new_name() {
    let engine = engine();
    let (registry, [a, b, c]) = (engine.registry(), residents(&engine));
    registry.limit(Limits {
        adapters: 2,
        ..Limits::default()
    });
    registry.publish("x", a.clone(), replace()).unwrap();
    registry.publish("y", b, replace()).unwrap();
    let before = registry.snapshot();
    registry.publish("x", c.clone(), replace()).unwrap();
    let gone = registry.publish("z", c.clone(), replace()).unwrap().evicted;
    assert_eq!((gone.len(), gone[0].name.as_str()), (1, "y"));
    registry.restore(before);
    assert_eq!(names(registry), ["x", "y"]);
    assert!(Arc::ptr_eq(&registry.current("x").unwrap(), &a));
    let held = registry.generations();
    let retired = held
        .iter()
        .find(|g| g.generation == c.generation())
        .unwrap();
    assert!(retired.retired, "its lease is this test's");
}

#[test]
fn the_one_before_is_remembered_once_and_never_the_current_one() {
    let engine = engine();
    let (registry, [a, b, _]) = (engine.registry(), residents(&engine));
    registry.publish("x", a.clone(), replace()).unwrap();
    registry.remember_previous("x", a.clone(), None).unwrap();
    let nothing = registry.roll_back("x", None).unwrap_err();
    assert_eq!(nothing, Refused::NothingBefore("x".to_owned()));
    registry.remember_previous("x", b.clone(), None).unwrap();
    let rolled = registry.roll_back("x", Some(a.generation())).unwrap();
    assert_eq!(rolled.replaced.as_deref(), Some(a.generation()));
    assert!(Arc::ptr_eq(&registry.current("x").unwrap(), &b));
    registry.roll_back("x", None).unwrap();
    assert!(
        Arc::ptr_eq(&registry.current("x").unwrap(), &a),
        "and forth"
    );
    let nobody = registry.remember_previous("nobody", b, None).unwrap_err();
    assert_eq!(nobody, Refused::NotFound("nobody".to_owned()));
}

#[test]
fn bytes_are_freed_by_earlier_generations_before_any_name_goes() {
    let engine = engine();
    let (registry, [a, b, c]) = (engine.registry(), residents(&engine));
    let all = a.bytes() + b.bytes() + c.bytes();
    registry.publish("x", a.clone(), replace()).unwrap();
    registry.publish("x", b.clone(), replace()).unwrap();
    assert_eq!(registry.resident_bytes(), a.bytes() + b.bytes());
    registry.limit(Limits {
        bytes: all - 1,
        ..Limits::default()
    });
    let changed = registry.publish("y", c.clone(), replace()).unwrap();
    assert!(changed.evicted.is_empty());
    assert_eq!(registry.resident_bytes(), b.bytes() + c.bytes());
    registry.pin("x", true).unwrap();
    registry.limit(Limits {
        bytes: b.bytes() + c.bytes() - 1,
        ..Limits::default()
    });
    let full = registry.publish("y", c.clone(), replace()).unwrap_err();
    assert!(matches!(full, Refused::TooManyBytes { .. }), "{full}");
    assert_eq!(
        names(registry),
        ["x", "y"],
        "a refused change changes nothing"
    );
}

#[test]
fn the_longest_unused_goes_first_and_a_pinned_one_never() {
    let engine = engine();
    let (registry, [a, b, c]) = (engine.registry(), residents(&engine));
    for (name, resident) in [("x", &a), ("y", &b), ("z", &c)] {
        registry.publish(name, resident.clone(), replace()).unwrap();
    }
    registry.get(Some("x")).unwrap();
    registry.pin("y", true).unwrap(); // used longest ago, but for the pin
    registry.limit(Limits {
        adapters: 3,
        ..Limits::default()
    });
    let evicted = registry.publish("w", a.clone(), replace()).unwrap().evicted;
    assert_eq!(evicted[0].name, "z");
    registry.limit(Limits {
        adapters: 1,
        ..Limits::default()
    });
    let evicted = registry.pin("w", true).unwrap_err();
    assert_eq!(evicted, Refused::TooManyAdapters { most: 1 });
    assert_eq!((names(registry).len(), registry.evictions()), (3, 1));
}

#[test]
fn a_share_of_a_hundred_is_exact_whatever_it_is() {
    let engine = engine();
    let (registry, [a, b, _]) = (engine.registry(), residents(&engine));
    registry.publish("x", a, replace()).unwrap();
    for percent in [1, 33, 50, 99] {
        let trial = Publish::default();
        registry
            .canary("x", Some(b.clone()), percent, trial)
            .unwrap();
        let got = (0..100).map(|_| registry.get(Some("x")).unwrap());
        let tried = got.filter(|r| Arc::ptr_eq(r, &b)).count();
        assert_eq!(tried, usize::from(percent));
    }
}
