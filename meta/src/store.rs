//! What stands in the key-value store: one file per kind of key, each with its encoding and decoding.
//!
//! The table of keys is `docs/format/kv.md`. Inode ids in keys are little-endian, which spreads neighbours
//! over the key space (protocol K1). Invariant: only the files below build keys of the namespace.

pub mod counters;
pub mod dentry;
pub mod directory_times;
pub mod garbage;
pub mod idempotency;
pub mod inode;
pub mod session;
pub mod unreported;

use std::fmt::Write as _;

use types::{
    codec::{self, Versioned},
    id::InodeId,
};

use crate::error::MetaError;

/// The key of something that belongs to one inode.
fn inode_key(prefix: [u8; 4], inode: InodeId) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&prefix);
    key[4..].copy_from_slice(&inode.0.to_le_bytes());
    key
}

/// Takes the prefix and the inode off a key.
fn split_inode_key(prefix: [u8; 4], key: &[u8]) -> Option<(InodeId, &[u8])> {
    let (inode, rest) = key.strip_prefix(&prefix)?.split_first_chunk()?;
    Some((InodeId(u64::from_le_bytes(*inode)), rest))
}

fn decode<T: Versioned>(key: &[u8], value: &[u8]) -> Result<T, MetaError> {
    codec::decode(value).map_err(|source| MetaError::Corrupt {
        key: printable(key),
        source,
    })
}

/// A key for people: printable ASCII as it is, everything else as `\xNN`.
fn printable(key: &[u8]) -> String {
    key.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_graphic() {
            text.push(char::from(*byte));
        } else {
            write!(text, "\\x{byte:02x}").expect("writing to a String");
        }
        text
    })
}

/// The error for a key that is not of its kind.
fn bad_key(key: &[u8]) -> MetaError {
    MetaError::Corrupt {
        key: printable(key),
        source: codec::DecodeError::Truncated { length: key.len() },
    }
}
