//! The engine through its public interface: against a plain map, through crashes, faults and full disks.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "tests make patterns of bytes, and their helpers fail where they stand"
)]

/// Prints what was measured, also when the test passes: a count that nobody sees is not known to be large.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::support::say(&format!($($text)*))
    };
}

mod append;
mod channels;
mod check;
mod compaction;
mod crash;
mod failing;
mod faults;
mod flips;
mod folding;
mod hashed;
mod history;
mod kill;
mod lifecycle;
mod model;
mod scrub;
mod space;
mod support;
mod workload;
