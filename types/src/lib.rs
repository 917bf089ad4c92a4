//! The vocabulary of Penstock: plain data, no I/O, no async, no clock.
//!
//! Every wire message and every record on disk is made of these. Encodings are versioned (`codec`) and
//! pinned by golden-byte tests.

#![warn(missing_docs, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub mod chain;
pub mod checksum;
pub mod chunk;
pub mod codec;
pub mod dentry;
pub mod id;
pub mod inode;
pub mod layout;
pub mod node;
pub mod routing;
pub mod routing_delta;
pub mod rpc;
pub mod session;
pub mod status;
pub mod target;
pub mod user;
pub mod version;
