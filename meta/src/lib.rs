//! Metadata servers: the namespace in a transactional key-value store.
//!
//! Layers, top down: `server` (a process), `service` (requests to transactions), `ops` (one file per
//! operation), `store` (one file per kind of key). Beside them what works outside transactions: `truncate`,
//! `gc`, `prune`. The rules that need no store are pure: `permission`, `length`, `resolve`, `chain_picker`.
//!
//! Invariant: the store alone is the state. A server keeps nothing that another one could miss, but for
//! `truncate`, which says why one server at a time owns the embedded store.

pub mod config;
pub mod error;

pub mod length;
pub mod permission;
pub mod resolve;

pub mod chain_picker;
pub mod inode_ids;
pub mod store;

pub mod chunks;
pub mod cluster;

pub mod ops;
pub mod truncate;

pub mod bootstrap;
pub mod gc;
pub mod prune;
pub mod service;

mod heartbeat;
mod metrics;
mod remote;
pub mod server;

pub use crate::{
    config::{KvKind, MetaConfig},
    error::MetaError,
    server::{RunningMeta, ServeError, serve},
};
