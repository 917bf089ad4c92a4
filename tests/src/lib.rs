//! What the end-to-end tests are made of: a real cluster of real processes, loads, and ways to watch them.
//!
//! Everything here panics with a text that says what happened, because its only users are tests.

pub mod binary;
pub mod cluster;
pub mod prober;
pub mod process;
pub mod run;
pub mod tree;
pub mod wait;
