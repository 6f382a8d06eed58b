//! The types that an adapter's numbers are stored in, and what rounding to one makes of them.

use half::{bf16, f16};

use crate::{
    adapter::{Adapter, Factors, SavedTensor},
    mat::Matrix,
};

/// How numbers are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stored {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 11 bits; above 65504 there is nothing.
    F16,
    /// Rounded to 8 bits.
    Bf16,
}

impl Stored {
    /// Its name in a safetensors file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Stored::F32 => "F32",
            Stored::F16 => "F16",
            Stored::Bf16 => "BF16",
        }
    }

    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            Stored::F32 => 4,
            Stored::F16 | Stored::Bf16 => 2,
        }
    }

    /// What a reader gets back.
    fn rounded(self, x: f32) -> f32 {
        match self {
            Stored::F32 => x,
            Stored::F16 => f16::from_f32(x).to_f32(),
            Stored::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    /// Little-endian bytes of `values`.
    pub(super) fn write(self, values: &[f32], to: &mut Vec<u8>) {
        match self {
            Stored::F32 => to.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Stored::F16 => to.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
            Stored::Bf16 => {
                to.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()));
            }
        }
    }

    /// The adapter that a reader gets back; what does not fit becomes infinite.
    pub(super) fn of(self, adapter: &Adapter) -> Adapter {
        let matrix = |m: &Matrix| {
            let values = m.as_slice().iter().map(|&x| self.rounded(x)).collect();
            Matrix::from_vec(values, m.rows(), m.cols())
        };
        let factors = |f: &Factors| Factors {
            a: matrix(&f.a),
            b: matrix(&f.b),
            scale: f.scale,
        };
        let saved = |t: &SavedTensor| SavedTensor {
            shape: t.shape.clone(),
            data: t.data.iter().map(|&x| self.rounded(x)).collect(),
        };
        Adapter {
            factors: (adapter.factors.iter())
                .map(|(module, f)| (module.clone(), factors(f)))
                .collect(),
            saved: (adapter.saved.iter())
                .map(|(name, t)| (name.clone(), saved(t)))
                .collect(),
            ..adapter.clone()
        }
    }
}
