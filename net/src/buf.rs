//! The buffers of a call: sources the server pulls, destinations it pushes into, and how each is named to the peer.

use common::buf::{RegisteredBuf, SharedBuf};

/// The buffers that travel with a call. Bodies name them by their position (`types::rpc::BulkIndex`).
#[derive(Debug, Default)]
pub struct Bulk {
    /// Payload for the server to pull.
    pub sources: Vec<SharedBuf>,
    /// Where the server places bytes. They come back with the reply.
    pub destinations: Vec<RegisteredBuf>,
}

impl Bulk {
    /// A payload for the server.
    pub fn source(payload: SharedBuf) -> Self {
        Self {
            sources: vec![payload],
            destinations: Vec::new(),
        }
    }

    /// Room for the server's bytes.
    pub fn destination(buf: RegisteredBuf) -> Self {
        Self {
            sources: Vec::new(),
            destinations: vec![buf],
        }
    }

    /// Bytes that may travel, both ways together. Chooses the connection of a call.
    pub(crate) fn total_bytes(&self) -> usize {
        let sources = self.sources.iter().map(|buf| buf.len());
        sources
            .chain(self.destinations.iter().map(|buf| buf.len()))
            .fold(0, usize::saturating_add)
    }
}

/// A registered buffer as its owner names it to the peer: an entry of a frame's bulk table, never part of a body.
///
/// On tcp and mem the key is the buffer's position in the call. A transport with remote memory access puts its own
/// key there, and nobody above the transport notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteBuf {
    key: u64,
    length: u32,
}

impl RemoteBuf {
    /// Bytes of one entry in a bulk table.
    pub(crate) const ENCODED_LENGTH: usize = 16;

    pub(crate) fn new(key: u64, length: u32) -> Self {
        Self { key, length }
    }

    /// What the owner's transport finds the buffer by.
    pub fn key(self) -> u64 {
        self.key
    }

    /// Bytes of the buffer.
    pub fn length(self) -> u32 {
        self.length
    }

    pub(crate) fn encode(self) -> [u8; Self::ENCODED_LENGTH] {
        let mut bytes = [0; Self::ENCODED_LENGTH];
        bytes[..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: [u8; Self::ENCODED_LENGTH]) -> Self {
        let [k0, k1, k2, k3, k4, k5, k6, k7, l0, l1, l2, l3, ..] = bytes;
        Self {
            key: u64::from_le_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
        }
    }
}
