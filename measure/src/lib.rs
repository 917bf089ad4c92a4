//! What benchmarks of this project have in common: a load, fio beside it on the same disk, what the kernel says of
//! processes, and the table of figures. Used by `penstock bench` and by the benchmark of the engine.
//!
//! Machines are noisy, so both sides take turns in several rounds, and what counts is the median of the ratios. A
//! figure never fails a run; it stands beside its goal.
#![warn(missing_docs)]
#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::error::Error;

pub mod fio;
pub mod latency;
pub mod load;
pub mod process;
pub mod scratch;
pub mod table;

/// What went wrong, for the person who called.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The bytes of a chunk, and of the large requests.
pub const LARGE_BYTES: u32 = 1 << 20;
/// The bytes of the small requests.
pub const SMALL_BYTES: u32 = 4096;
