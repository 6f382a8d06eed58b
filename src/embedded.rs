//! The model that is built into the binary: a tiny base and its adapters, so that everything can be tried
//! without a download. Made by `models/tiny/make.py`; real work wants a real base.

use std::path::Path;

use crate::{adapter::Adapter, error::Result, weights::Source};

/// The tiny base.
pub fn base() -> Source {
    Source::Embedded(&[
        (
            "config.json",
            include_bytes!("../models/tiny/base/config.json"),
        ),
        (
            "tokenizer.json",
            include_bytes!("../models/tiny/base/tokenizer.json"),
        ),
        (
            "model.safetensors",
            include_bytes!("../models/tiny/base/model.safetensors"),
        ),
    ])
}

/// Its adapters, by name.
pub fn adapters() -> Vec<(&'static str, Result<Adapter>)> {
    macro_rules! adapter {
        ($name:literal) => {
            (
                $name,
                Adapter::from_bytes(
                    include_bytes!(concat!(
                        "../models/tiny/adapters/",
                        $name,
                        "/adapter_config.json"
                    )),
                    include_bytes!(concat!(
                        "../models/tiny/adapters/",
                        $name,
                        "/adapter_model.safetensors"
                    )),
                    Some(include_bytes!(concat!(
                        "../models/tiny/adapters/",
                        $name,
                        "/labels.json"
                    ))),
                    Path::new(concat!("built-in/", $name)),
                ),
            )
        };
    }
    vec![adapter!("sentiment"), adapter!("topic")]
}
