//! The encodings of the vocabulary, pinned byte by byte.

mod golden;
mod random_bytes;
