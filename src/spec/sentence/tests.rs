//! sentence-transformers settings, good and refused.
