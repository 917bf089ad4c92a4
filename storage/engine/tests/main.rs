//! The engine through its public interface: against a plain map, through crashes, faults and full disks.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "tests make patterns of bytes, and their helpers fail where they stand"
)]

mod append;
mod crash;
mod faults;
mod kill;
mod lifecycle;
mod model;
mod space;
mod support;
