//! The stores under the conformance suite, and the embedded one under what only a disk can do.

mod conformance;
mod crash;
mod directory;
mod durability;
