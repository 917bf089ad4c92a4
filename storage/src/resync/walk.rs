//! How far the walk through the chunks of a syncing target came, and when it may go on there (protocol S4).
//!
//! Everything before the cursor is equal, and stays so, because whoever changes a chunk at the predecessor also
//! passes the change on (W9). That is true under one version of the chain, and under the next one if the same target is
//! syncing in both. If any version was missed the predecessor may have changed chunks alone, or the target may have lost
//! its disk in between: then the walk begins anew. It only compares what is equal already, so beginning anew is cheap.

use std::collections::BTreeSet;

use types::{
    chunk::ChunkId,
    id::TargetId,
    status::{Status, StatusCode},
    version::ChainVersion,
};

use crate::target::driver::FIRST_CHUNK;

/// Chunks that are passed over at most. With more the walk waits where it is: such a disk is not one to fill others from.
const LEFT_MAX: usize = 1000;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) successor: TargetId,
    pub(super) version: ChainVersion,
    pub(super) cursor: ChunkId,
    /// The successor was told that it holds everything.
    pub(super) finished: bool,
    /// Chunks before the cursor that are not equal: they could not be read or sent.
    pub(super) left: BTreeSet<ChunkId>,
}

impl Walk {
    /// The walk for `successor` at `version`: the old one when nothing was missed, else a new one.
    pub(super) fn resume(old: Option<Walk>, successor: TargetId, version: ChainVersion) -> Self {
        match old {
            Some(old)
                if old.successor == successor
                    && (old.version == version || old.version.is_followed_by(version)) =>
            {
                let finished = old.finished && old.version == version;
                Self {
                    version,
                    finished,
                    ..old
                }
            }
            _ => Self {
                successor,
                version,
                cursor: FIRST_CHUNK,
                finished: false,
                left: BTreeSet::new(),
            },
        }
    }

    /// Whether it has just begun.
    pub(super) fn is_new(&self) -> bool {
        self.cursor == FIRST_CHUNK && !self.finished
    }

    /// Passes over chunks until the end.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn leave(&mut self, chunks: &[(ChunkId, Status)]) -> Result<(), Status> {
        if self.left.len() + chunks.len() > LEFT_MAX
            && let Some((chunk, status)) = chunks.first()
        {
            let message = format!(
                "more than {LEFT_MAX} chunks cannot be sent; the last is chunk {chunk}: {}",
                status.message
            );
            return Err(Status::new(status.code, message));
        }
        self.left.extend(chunks.iter().map(|(chunk, _)| *chunk));
        Ok(())
    }
}

/// Whether a failure is about one chunk, so that others may still be sent. A chunk that is busy or slow is tried
/// again at the end as well; a successor that answers nobody is found out by `reach`.
pub(super) fn is_about_one_chunk(code: StatusCode) -> bool {
    matches!(
        code,
        StatusCode::ChunkCorrupt | StatusCode::DeadlineExceeded
    )
}

#[cfg(test)]
mod tests {
    use types::id::InodeId;

    use super::*;

    const SYNCING: TargetId = TargetId(3);

    fn chunk(index: u32) -> ChunkId {
        let inode = InodeId(1);
        ChunkId { inode, index }
    }

    fn far() -> Walk {
        let mut walk = Walk::resume(None, SYNCING, ChainVersion(7));
        assert!(walk.is_new());
        walk.cursor = chunk(5000);
        walk.finished = true;
        walk.left.insert(chunk(3));
        walk
    }

    #[test]
    fn the_next_version_with_the_same_target_goes_on_at_the_cursor() {
        for version in [7, 8] {
            let walk = Walk::resume(Some(far()), SYNCING, ChainVersion(version));
            assert_eq!((walk.cursor, walk.version.0), (chunk(5000), version));
            assert_eq!(walk.left, [chunk(3)].into());
            // It was told under one version; under the next one it has to be told again.
            assert_eq!(walk.finished, version == 7);
        }
    }

    #[test]
    fn after_a_missed_version_or_for_another_target_everything_is_compared() {
        for (target, version) in [(SYNCING, 9), (SYNCING, 6), (TargetId(4), 8)] {
            let walk = Walk::resume(Some(far()), target, ChainVersion(version));
            assert!(walk.is_new() && walk.left.is_empty() && !walk.finished);
        }
    }

    #[test]
    fn not_more_than_a_number_of_chunks_is_passed_over() {
        let mut walk = Walk::resume(None, SYNCING, ChainVersion(1));
        let status = Status::new(StatusCode::ChunkCorrupt, "rotten");
        for index in 0..LEFT_MAX as u32 {
            walk.leave(&[(chunk(index), status.clone())]).unwrap();
        }
        let refused = walk.leave(&[(chunk(9999), status)]).unwrap_err();
        assert!(refused.message.contains("rotten"), "{refused}");
        assert_eq!(walk.left.len(), LEFT_MAX);
    }
}
