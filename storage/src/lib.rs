//! A storage node: targets on disks, each the seat of one replica in one chain (protocol sections 6 to 8).
//!
//! Layers, top down: `server` (starts everything), `service` (what a node is asked), the drivers `write`,
//! `follow`, `change`, `pass_on`, `read`, `file_chunks`, `resync`, `repair`, `scrub` (ask a decision, then do the I/O), `replica` (the
//! decisions, pure), `node`, `target`, `disk` (what is there), `heartbeat` and `lease` (whether it may act).
//!
//! Invariant: a driver acts for one chunk only while it holds that chunk's turn (`chunk_turns`), and
//! answers only while the node's lease is valid and the peer knows the same version of the chain.

pub mod config;
pub mod disk_check;
pub mod server;

mod change;
mod chunk_turns;
mod disk;
mod file_chunks;
mod follow;
mod heartbeat;
mod lease;
mod metrics;
mod node;
mod pass_on;
mod read;
mod repair;
mod replica;
mod resync;
mod room;
mod scrub;
mod service;
mod target;
mod write;

#[cfg(test)]
mod tests;

pub use crate::{
    config::StorageConfig,
    server::{OpenedDisk, RunningStorage, ServeError, serve, serve_on},
};
