//! What the content after an update consists of: a head of the old bytes, a payload over or behind it, zeros in
//! between and after. Pure.

use std::ops::Range;

use types::chunk::Update;

use super::super::{Change, UpdateRequest};
use crate::{
    checksums::Hashed,
    chunk_meta::Head,
    error::EngineError,
    group::{BLOCK_BYTES, SizeClass},
};

/// The content of a new version.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) exists: bool,
    pub(super) length: u32,
    /// Bytes at the start that are the old ones, where no payload covers them.
    pub(super) kept: u32,
    /// Where the payload lies. Never empty.
    pub(super) payload: Option<Range<u32>>,
    /// The payload with the checksums of its blocks, when they are known.
    pub(super) hashed: Option<Hashed>,
}

impl Shape {
    /// Checks the request against the committed version and the chunk's size.
    pub(super) fn of(base: Option<&Head>, request: &UpdateRequest) -> Result<Self, EngineError> {
        let base = base.filter(|base| base.exists());
        let old = base.map_or(0, |base| base.length);
        let plain = |length: u32| Self {
            exists: true,
            length,
            kept: old.min(length),
            payload: None,
            hashed: None,
        };
        let shape = match request.change {
            Change::Update(Update::Write { length: 0, .. }) => plain(old),
            Change::Update(Update::Write { offset, length }) => {
                let end = end_of(request, u64::from(offset) + u64::from(length))?;
                Self {
                    payload: Some(offset..end),
                    ..plain(old.max(end))
                }
            }
            Change::Update(Update::Extend { length }) => plain(old.max(length)),
            // A chunk that is not there stays so: there is nothing to cut.
            Change::Update(Update::Truncate { length }) => Self {
                exists: base.is_some(),
                ..plain(old.min(length))
            },
            Change::Update(Update::Remove) => Self {
                exists: false,
                ..plain(0)
            },
            Change::Replace { length } => Self {
                kept: 0,
                payload: (length > 0).then_some(0..length),
                ..plain(length)
            },
        };
        end_of(request, u64::from(shape.length))?;
        shape.check_payload(request)?;
        Ok(shape)
    }

    /// The payload, when it is known to be just these blocks, whole, and hashed.
    pub(super) fn hashed_at(&self, blocks: &Range<u32>) -> Option<&Hashed> {
        let bytes = blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES;
        let hashed = self.hashed.as_ref();
        hashed.filter(|_| self.payload.as_ref() == Some(&bytes))
    }

    /// Whether a block keeps some of the old bytes.
    pub(super) fn keeps_part_of(&self, block: u32) -> bool {
        let start = block * BLOCK_BYTES;
        let end = self.kept.min(start.saturating_add(BLOCK_BYTES));
        let covered = self
            .payload
            .as_ref()
            .is_some_and(|payload| payload.start <= start && end <= payload.end);
        start < end && !covered
    }

    fn check_payload(&self, request: &UpdateRequest) -> Result<(), EngineError> {
        let expected = self.payload.as_ref().map_or(0, |range| range.len());
        let given = request.payload.as_ref().map_or(0, |payload| payload.len());
        if given == expected {
            Ok(())
        } else {
            Err(EngineError::InvalidRequest {
                chunk: request.key.chunk,
                reason: "the payload has another length than the update says",
            })
        }
    }
}

/// `end`, if a chunk may reach that far.
fn end_of(request: &UpdateRequest, end: u64) -> Result<u32, EngineError> {
    let fits = u32::try_from(end)
        .ok()
        .filter(|&end| end <= request.chunk_size && SizeClass::holding(end).is_some());
    fits.ok_or(EngineError::OutOfRange {
        chunk: request.key.chunk,
        end,
        chunk_size: request.chunk_size,
    })
}
