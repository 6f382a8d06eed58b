//! Adapter files built in memory for tests: literal JSON, and safetensors put together byte by byte, so that a test
//! can make them wrong in one place. Only compiled for tests.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Adapter, peft::PREFIX};
use crate::Result;

/// One tensor of a file to be.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

/// An f32 tensor whose elements are small, distinct and exact.
pub(super) fn ramp(name: &str, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (i as f32 - 3.0) * 0.25).collect();
    f32s(name, shape, &values)
}

/// An f32 tensor with these elements.
pub(super) fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor {
        name: format!("{PREFIX}{name}"),
        dtype: "F32",
        shape: shape.to_vec(),
        bytes,
    }
}

/// `lora_A` and `lora_B` of a module.
pub(super) fn pair(module: &str, rank: usize, width: usize, height: usize) -> [Tensor; 2] {
    [
        ramp(&format!("{module}.lora_A.weight"), &[rank, width]),
        ramp(&format!("{module}.lora_B.weight"), &[height, rank]),
    ]
}

/// The file of these tensors, in this order.
pub(super) fn file(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for t in tensors {
        let start = data.len();
        data.extend(&t.bytes);
        let entry =
            json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [start, data.len()]});
        header.insert(t.name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A file with this header text, whatever it says.
pub(super) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Reads what a test has built.
pub(super) fn read(config: &Value, tensors: &[Tensor]) -> Result<Adapter> {
    Adapter::from_bytes(
        config.to_string().as_bytes(),
        &file(tensors),
        None,
        Path::new("dir"),
    )
}
