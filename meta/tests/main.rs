//! The namespace on the store in memory, with chunks in memory: one behaviour per file.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod check;
mod concurrency;
mod conflicts;
mod flaky;
mod garbage;
mod hostile;
mod idempotency;
mod model;
mod names;
mod permissions;
mod rename;
mod server;
mod sessions;
mod support;
mod truncate;
