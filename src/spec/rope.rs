//! Rotary positions in a configuration: transformers 5 says them in `rope_parameters`, transformers 4 in keys of
//! their own. Two kinds are supported: plain ones, and GTE's fixed scaling of frequencies (NTK), which is in its older
//! code's `rope_scaling` alone. No frequencies that depend on a text's length.

use serde_json::{Map, Value};

use super::config::Config;
use crate::Result;

const KEY: &str = "rope_parameters";

/// The largest base taken.
const LARGEST: f64 = 1e9;

/// The base of the frequencies from `rope_parameters` (of one kind of layer, where they are listed by kind).
pub(super) fn theta(config: &Config<'_>, kind: Option<&str>) -> Result<Option<f32>> {
    let Some(all) = config.get(KEY) else {
        return Ok(None);
    };
    let object = |v: &Value| v.as_object().cloned();
    let wrong = || config.error(KEY, "expected an object");
    let mut parameters: Map<String, Value> = object(all).ok_or_else(wrong)?;
    if let Some(kind) = kind {
        match parameters.get(kind) {
            Some(Value::Null) => return Ok(None),
            Some(of_kind) => parameters = object(of_kind).ok_or_else(wrong)?,
            // All kinds alike, or this kind by default.
            None if !parameters.contains_key("rope_theta") => return Ok(None),
            None => {}
        }
    }
    let mut theta = None;
    for (key, value) in &parameters {
        let number = value.as_f64().filter(|&t| t > 0.0 && t <= LARGEST);
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("rope_theta", _) if number.is_some() => theta = number,
            ("rope_type" | "type", Value::String(kind)) if kind == "default" => {}
            ("partial_rotary_factor", _) if number == Some(1.0) => {}
            _ => {
                let why = format!("{key} {value} is not supported; plain rotary positions are");
                return Err(config.error(KEY, why));
            }
        }
    }
    Ok(theta.map(|t| t as f32))
}

/// The factor of a fixed NTK scaling, 1 where `rope_scaling` is not there: with heads of width D the older code of GTE
/// multiplies the base by it and divides the frequencies by its D/2-th root, for every text.
pub(super) fn ntk(config: &Config<'_>) -> Result<f64> {
    const KEY: &str = "rope_scaling";
    let Some(value) = config.get(KEY) else {
        return Ok(1.0);
    };
    let refuse = || {
        let why =
            format!("{value} is not supported; {{\"type\": \"ntk\", \"factor\": above 1}} is");
        config.error(KEY, why)
    };
    let scaling = value.as_object().ok_or_else(refuse)?;
    let (mut factor, mut kind) = (None, None);
    for (key, value) in scaling {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("factor", _) => factor = value.as_f64().filter(|&f| f > 1.0 && f <= LARGEST),
            ("type" | "rope_type", Value::String(of)) => kind = Some(of.as_str()),
            _ => return Err(refuse()),
        }
    }
    match (kind, factor) {
        (Some("ntk"), Some(factor)) => Ok(factor),
        _ => Err(refuse()),
    }
}

/// A base from a key of its own.
pub(super) fn theta_at(config: &Config<'_>, key: &'static str, default: f64) -> Result<f32> {
    config.positive(key, default, LARGEST)
}
