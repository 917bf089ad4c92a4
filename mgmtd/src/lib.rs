//! The cluster manager: who is alive, which targets serve, and the map that says so (protocol sections 2 and 3).
//!
//! Replicated state (`cluster`) changes by commands (`command`, `apply`) in the log of a Raft group (`raft`). The leader's
//! memory (`lease`, `client_sessions`) turns heartbeats into decisions (`keeper`) by a pure table (`transition`).
//! Reasons and the table: `docs/design/replication.md`.
//!
//! Invariant: a decision needs a leadership that is certain (`leadership`) and is one log entry; versions never decrease
//! and are never reused.

pub mod config;
pub mod server;
pub mod transition;

mod announce;
mod apply;
mod client_sessions;
mod cluster;
mod command;
mod keeper;
mod leadership;
mod lease;
mod manager;
mod metrics;
mod placement;
mod raft;
mod service;

pub use config::MgmtdConfig;
#[cfg(fuzzing)]
pub use raft::fuzzing;
pub use raft::{RaftStartError, fix_randomness};
pub use server::{RunningMgmtd, ServeError, serve, serve_on};
