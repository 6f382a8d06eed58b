//! Panels that were packed a moment ago, in a buffer of 32-bit words that are kept as `f32`.
//!
//! Not here: packing them (`kernel/transient.rs`).

use super::{PanelShape, Panels, Precision};

impl<'a> Panels<'a> {
    /// Views `words` as a packed weight of `f32`, or of pairs of `bf16`.
    ///
    /// # Panics
    /// When `shape` is of `int8` or its size is another.
    pub fn of_words(words: &'a [f32], shape: PanelShape) -> Self {
        assert_ne!(shape.precision, Precision::Int8, "panels of words");
        // SAFETY: the bytes of the slice, for as long as it is borrowed; any byte is a valid `u8`.
        let bytes =
            unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), size_of_val(words)) };
        Panels::new(bytes, shape)
    }
}
