//! Domain-free support: what every role needs and what knows nothing of chunks, inodes or chains.
//!
//! Invariant: only `env` reads a clock, makes randomness or spawns; only `buf` owns aligned memory.

pub mod backoff;
pub mod buf;
pub mod config;
pub mod data_dir;
pub mod env;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod shutdown;
pub mod sync;
pub mod worker;
