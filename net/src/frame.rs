//! The bytes of a frame: a header of 64 bytes, a body, a bulk table, payload (`docs/format/wire.md` draws them).
//!
//! Every number is little-endian. The header carries a checksum of itself and one of body and table; payload is
//! covered end to end by the checksum its message carries, so it is not hashed a second time here.
//!
//! Invariant: `Header::decode` accepts only what `encode` makes, and nothing is allocated from a header before
//! `Header::check` has held it against the limits.

use bytes::Bytes;
use common::buf::{RegisteredBuf, SharedBuf};
use crc32c::{crc32c, crc32c_append};

use crate::{buf::RemoteBuf, config::NetConfig};

/// Bytes of a header.
pub(crate) const HEADER_LENGTH: usize = 64;
const MAGIC: [u8; 4] = *b"PNST";
const HEADER_VERSION: u8 = 1;

/// Protocol versions this release speaks. The highest one both sides know is used (protocol T4).
pub(crate) const VERSION_MIN: u16 = 1;
/// See `VERSION_MIN`.
pub(crate) const VERSION_MAX: u16 = 1;

/// Set on a Reply whose body is a `Status`.
pub(crate) const FLAG_FAILED: u16 = 1;

/// The longest reason in a Goodbye.
pub(crate) const GOODBYE_BYTES_MAX: usize = 256;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// First frame of both sides: versions and limits.
    Hello = 1,
    /// Client to server: body, bulk table, the sources' bytes.
    Request = 2,
    /// Server to client: the result.
    Reply = 3,
    /// Server to client: bytes for a destination of a request.
    Push = 4,
    /// No new requests on this connection; the body says why.
    Goodbye = 5,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [
            Self::Hello,
            Self::Request,
            Self::Reply,
            Self::Push,
            Self::Goodbye,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// Bytes that are no frame, or one beyond the limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("not a frame: it starts with {found:02x?}")]
    Magic { found: [u8; 4] },
    #[error("header version {found}, this release reads {HEADER_VERSION}")]
    HeaderVersion { found: u8 },
    #[error("the header does not match its checksum")]
    HeaderChecksum,
    #[error("the body does not match its checksum")]
    BodyChecksum,
    #[error("unknown frame kind {found}")]
    Kind { found: u8 },
    #[error("{what} of {found}, at most {max} are allowed")]
    TooLarge {
        what: &'static str,
        found: u64,
        max: u64,
    },
    #[error("{what}")]
    Inconsistent { what: &'static str },
}

/// The header of a frame. Fields that a kind does not use are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u16,
    /// Unique on its connection; never used again.
    pub(crate) request_id: u64,
    pub(crate) service: u16,
    pub(crate) method: u16,
    pub(crate) method_version: u16,
    pub(crate) source_count: u16,
    pub(crate) destination_count: u16,
    /// Push: which destination.
    pub(crate) bulk_index: u16,
    pub(crate) body_length: u32,
    pub(crate) payload_length: u64,
    /// Request: time left when it was sent.
    pub(crate) deadline_ms: u32,
    /// Push: where in the destination.
    pub(crate) bulk_offset: u64,
    /// Of body and bulk table.
    pub(crate) body_checksum: u32,
}

impl Header {
    /// A header with nothing but a kind.
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            flags: 0,
            request_id: 0,
            service: 0,
            method: 0,
            method_version: 0,
            source_count: 0,
            destination_count: 0,
            bulk_index: 0,
            body_length: 0,
            payload_length: 0,
            deadline_ms: 0,
            bulk_offset: 0,
            body_checksum: 0,
        }
    }

    /// The header's bytes.
    pub(crate) fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = HEADER_VERSION;
        bytes[5] = self.kind as u8;
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.request_id.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.service.to_le_bytes());
        bytes[18..20].copy_from_slice(&self.method.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.method_version.to_le_bytes());
        bytes[22..24].copy_from_slice(&self.source_count.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.destination_count.to_le_bytes());
        bytes[26..28].copy_from_slice(&self.bulk_index.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.body_length.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.payload_length.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.deadline_ms.to_le_bytes());
        // 44..48 is reserved and zero.
        bytes[48..56].copy_from_slice(&self.bulk_offset.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.body_checksum.to_le_bytes());
        let checksum = crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// When the bytes are anything else. Bytes that are not ours at all fail by their magic, for a clear reason.
    pub(crate) fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, FrameError> {
        if bytes[..4] != MAGIC {
            let found = take(bytes, 0);
            return Err(FrameError::Magic { found });
        }
        if bytes[4] != HEADER_VERSION {
            return Err(FrameError::HeaderVersion { found: bytes[4] });
        }
        if u32::from_le_bytes(take(bytes, 60)) != crc32c(&bytes[..60]) {
            return Err(FrameError::HeaderChecksum);
        }
        let Some(kind) = Kind::from_number(bytes[5]) else {
            return Err(FrameError::Kind { found: bytes[5] });
        };
        if bytes[44..48] != [0; 4] {
            return Err(FrameError::Inconsistent {
                what: "reserved header bytes are not zero",
            });
        }
        Ok(Self {
            kind,
            flags: u16::from_le_bytes(take(bytes, 6)),
            request_id: u64::from_le_bytes(take(bytes, 8)),
            service: u16::from_le_bytes(take(bytes, 16)),
            method: u16::from_le_bytes(take(bytes, 18)),
            method_version: u16::from_le_bytes(take(bytes, 20)),
            source_count: u16::from_le_bytes(take(bytes, 22)),
            destination_count: u16::from_le_bytes(take(bytes, 24)),
            bulk_index: u16::from_le_bytes(take(bytes, 26)),
            body_length: u32::from_le_bytes(take(bytes, 28)),
            payload_length: u64::from_le_bytes(take(bytes, 32)),
            deadline_ms: u32::from_le_bytes(take(bytes, 40)),
            bulk_offset: u64::from_le_bytes(take(bytes, 48)),
            body_checksum: u32::from_le_bytes(take(bytes, 56)),
        })
    }

    /// Holds every announced length against the limits.
    ///
    /// # Errors
    /// Names the first one that is beyond.
    pub(crate) fn check(&self, limits: &NetConfig) -> Result<(), FrameError> {
        let body_max = match self.kind {
            Kind::Hello => u64::from(HELLO_LENGTH),
            Kind::Goodbye => GOODBYE_BYTES_MAX as u64,
            Kind::Push => 0,
            Kind::Request | Kind::Reply => u64::from(limits.body_bytes_max),
        };
        let (payload_max, buffers_max) = match self.kind {
            Kind::Request => (limits.payload_bytes_max, limits.buffers_max),
            Kind::Push => (limits.payload_bytes_max, 0),
            Kind::Hello | Kind::Reply | Kind::Goodbye => (0, 0),
        };
        let buffers = u64::from(self.source_count) + u64::from(self.destination_count);
        at_most("a body", u64::from(self.body_length), body_max)?;
        at_most("a bulk table", buffers, u64::from(buffers_max))?;
        at_most("a payload", self.payload_length, u64::from(payload_max))
    }

    /// Bytes of body and bulk table together.
    pub(crate) fn body_and_table_length(&self) -> usize {
        let buffers = usize::from(self.source_count) + usize::from(self.destination_count);
        self.body_length as usize + buffers * RemoteBuf::ENCODED_LENGTH
    }
}

fn at_most(what: &'static str, found: u64, max: u64) -> Result<(), FrameError> {
    if found > max {
        return Err(FrameError::TooLarge { what, found, max });
    }
    Ok(())
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&bytes[at..at + N]);
    taken
}

/// The buffers a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BulkTable {
    pub(crate) sources: Vec<RemoteBuf>,
    pub(crate) destinations: Vec<RemoteBuf>,
}

impl BulkTable {
    /// Splits what stands behind a header into the body and the table, after checking their checksum and that the
    /// sources' lengths add up to the announced payload.
    ///
    /// # Errors
    /// When they do not.
    pub(crate) fn split(header: &Header, mut bytes: Bytes) -> Result<(Bytes, Self), FrameError> {
        if crc32c(&bytes) != header.body_checksum {
            return Err(FrameError::BodyChecksum);
        }
        if bytes.len() != header.body_and_table_length() {
            return Err(FrameError::Inconsistent {
                what: "body and bulk table are not as long as announced",
            });
        }
        let table = bytes.split_off(header.body_length as usize);
        let mut entries = table
            .chunks_exact(RemoteBuf::ENCODED_LENGTH)
            .map(|entry| RemoteBuf::decode(take(entry, 0)));
        let sources: Vec<_> = entries
            .by_ref()
            .take(usize::from(header.source_count))
            .collect();
        let destinations: Vec<_> = entries.collect();
        let total: u64 = sources
            .iter()
            .map(|source| u64::from(source.length()))
            .sum();
        if total != header.payload_length {
            return Err(FrameError::Inconsistent {
                what: "the sources' lengths do not add up to the payload",
            });
        }
        Ok((
            bytes,
            Self {
                sources,
                destinations,
            },
        ))
    }
}

/// A bulk table for buffers that are named by their position; appended to a body.
///
/// # Errors
/// When a buffer is 4 GiB or longer.
pub(crate) fn append_table(
    body: &mut Vec<u8>,
    sources: &[SharedBuf],
    destinations: &[RegisteredBuf],
) -> Result<(), FrameError> {
    let lengths = |buf: usize| {
        u32::try_from(buf).map_err(|_| FrameError::TooLarge {
            what: "a buffer",
            found: buf as u64,
            max: u64::from(u32::MAX),
        })
    };
    body.reserve((sources.len() + destinations.len()) * RemoteBuf::ENCODED_LENGTH);
    for (key, source) in (0..).zip(sources) {
        body.extend(RemoteBuf::new(key, lengths(source.len())?).encode());
    }
    for (key, destination) in (0..).zip(destinations) {
        body.extend(RemoteBuf::new(key, lengths(destination.len())?).encode());
    }
    Ok(())
}

/// The checksum of a body (and table) as the header carries it.
pub(crate) fn body_checksum(body: &[u8]) -> u32 {
    crc32c_append(0, body)
}

/// Bytes of a Hello's body.
pub(crate) const HELLO_LENGTH: u8 = 16;

/// Which traffic a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Lane {
    /// Small frames: several are read at once.
    Calls = 0,
    /// Large payloads: nothing is read ahead, so that no payload byte is copied.
    Bulk = 1,
}

/// What both sides say first. The server answers with the version it chose as both bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version_min: u16,
    pub(crate) version_max: u16,
    pub(crate) lane: Lane,
    /// Requests the sender takes on this connection at a time; a client says 0.
    pub(crate) outstanding_max: u32,
}

impl Hello {
    pub(crate) fn encode(&self) -> [u8; HELLO_LENGTH as usize] {
        let mut bytes = [0; HELLO_LENGTH as usize];
        bytes[0..2].copy_from_slice(&self.version_min.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.version_max.to_le_bytes());
        bytes[4] = self.lane as u8;
        bytes[8..12].copy_from_slice(&self.outstanding_max.to_le_bytes());
        bytes
    }

    /// Reads a Hello. Later releases may use the reserved bytes, so they are not looked at.
    ///
    /// # Errors
    /// When it is too short or its versions make no range.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < usize::from(HELLO_LENGTH) {
            return Err(FrameError::Inconsistent {
                what: "a Hello is too short",
            });
        }
        let hello = Self {
            version_min: u16::from_le_bytes(take(bytes, 0)),
            version_max: u16::from_le_bytes(take(bytes, 2)),
            lane: if bytes[4] == Lane::Bulk as u8 {
                Lane::Bulk
            } else {
                Lane::Calls
            },
            outstanding_max: u32::from_le_bytes(take(bytes, 8)),
        };
        if hello.version_min > hello.version_max {
            return Err(FrameError::Inconsistent {
                what: "the versions of a Hello are not a range",
            });
        }
        Ok(hello)
    }

    /// The highest version both know.
    pub(crate) fn agree(&self) -> Option<u16> {
        let highest = self.version_max.min(VERSION_MAX);
        (highest >= self.version_min.max(VERSION_MIN)).then_some(highest)
    }
}

#[cfg(test)]
mod tests;
