//! Requests and replies between processes, and the bulk data that travels beside them (protocol section 10).
//!
//! Bulk data is one-sided: a caller registers buffers, the server pulls sources and pushes into destinations.
//! What moves the bytes is a transport (`transport`); callers and handlers never see which. Layers, top down:
//! `Endpoint` (typed calls, serving), `rpc` (dispatch, deadlines, panics), `pool` (connections to peers),
//! `transport` (tcp, mem), `frame` (the bytes, drawn in `docs/format/wire.md`).
//!
//! Invariant: `net` knows frames and `Status`, not chunks or inodes; nothing a peer sends can panic it or make it
//! allocate beyond its limits.
#![warn(missing_docs, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub mod config;
pub mod endpoint;

mod buf;
mod frame;
mod metrics;
mod pool;
mod rpc;
mod transport;

pub mod conformance;
pub mod hostile;

pub use async_trait::async_trait;
pub use common::buf::{BufPool, RegisteredBuf, SharedBuf};

pub use crate::{
    buf::{Bulk, RemoteBuf},
    config::NetConfig,
    endpoint::{Endpoint, Reply, ServeError, Server, Transports},
    rpc::{
        router::Router,
        server::{Handler, Incoming},
    },
    transport::mem::{Gone, LinkFaults, MemNetwork},
};
