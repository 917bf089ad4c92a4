//! The chunk engine: keeps the chunks of one disk, safely through crashes and loss of power.
//!
//! Chunks lie in slots of preallocated group files; what is known of a chunk stands in one record. Committed bytes
//! are never overwritten. An update writes its data elsewhere, makes them durable, and then one record.
//! Invariant: the engine stores a chain version but knows no chain, peer or socket.

#![warn(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "tests make patterns of bytes"
    )
)]

mod allocator;
mod blocks;
mod channels;
pub mod check;
mod checkpoint;
mod checksums;
mod chunk_meta;
mod committer;
mod compact;
mod config;
pub mod device;
mod engine;
mod error;
mod fold;
mod group;
mod health;
mod log;
pub mod meta_store;
mod open;
mod recovery;
mod slots;
mod sums_cache;

pub use checksums::Hashed;
pub use common::buf::{BufPool, RegisteredBuf, SharedBuf};
pub use config::{DeviceKind, EngineConfig, SyncPolicy};
pub use engine::{
    Change, CheckReport, ChunkKey, Engine, ReadOut, ReadVersion, ScrubBudget, ScrubDamage,
    Scrubbed, Space, UpdateRequest, Updated,
};
pub use error::{EngineError, OpenError};
pub use group::{BLOCK_BYTES, GroupId, Position, SizeClass, SlotIndex};
