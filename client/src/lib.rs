//! How a process reaches the cluster: the manager, the namespace and the chunks.
//!
//! Layers, top down: `Client` (all of it, one session), `MetaClient` (names and attributes), `StorageClient`
//! (bytes: striping, replicas, exactly-once), `RoutingCache` (the map), `MgmtdClient` (the leader), `retry`.
//!
//! Invariant: a server that is dead, restarting or moved is a pause here and not an error, until the deadline of
//! the operation (protocol F3). What may be retried is decided by `StatusCode::retry`, in `retry` only.
#![warn(missing_docs)]

pub mod client;
pub mod cluster_config;
pub mod meta;
pub mod mgmtd;
pub mod routing_cache;
pub mod storage;

mod metrics;
mod retry;
mod stripe;

pub use crate::{
    client::{Client, ClientOptions},
    cluster_config::ClusterConfig,
    meta::MetaClient,
    mgmtd::MgmtdClient,
    routing_cache::RoutingCache,
    storage::{
        RangeRead, RangeWritten, ReadRange, Reads, ReplicaChoice, StorageClient, StorageOptions,
        WriteRange, Writes,
    },
};
