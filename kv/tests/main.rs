//! The stores under the conformance suite, and the embedded one under what only a disk can do.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod conformance;
mod crash;
mod directory;
mod durability;
mod failure;
mod support;
