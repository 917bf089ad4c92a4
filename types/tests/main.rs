//! The encodings of the vocabulary, pinned byte by byte.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod golden;
mod random_bytes;
