//! What the head does with a client's update: is it well formed (W1), and what when it is its turn (W5, W12).
//!
//! **The rule about pending versions.** A pending version that an earlier attempt left behind may already
//! be committed further down the chain. A different update must never take the same version: a follower
//! that has committed that version would answer "already done" and drop it. So the head first settles the
//! old one (sends its content on once more and commits it) and then runs the new one. When that cannot be because a disk is
//! full or the old one's bytes are damaged, a removal takes the version *after* it instead: it does not depend on what was
//! there, and what is still on its way of the old one finds a higher version.

use types::{
    chunk::{ChunkMeta, Update, UpdateTag},
    layout::{CHUNK_SIZE_MAX, CHUNK_SIZE_MIN},
    rpc::storage::UpdateDone,
    status::{Status, StatusCode},
    version::{ChainVersion, ChunkVersion},
};

/// What to do at an update's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing: this is the result.
    Answer(UpdateDone),
    /// Finish the pending version first, then ask again.
    SettleFirst,
    /// Make this version.
    Run(ChunkVersion),
    /// The chunk has used up its versions.
    VersionsExhausted,
}

/// The last version a chunk may have; the one above it cannot be counted.
pub(crate) const VERSION_MAX: u32 = u32::MAX - 2;

/// Whether the update makes sense for a chunk of this size and this payload (W1).
pub(crate) fn check_update(
    update: Update,
    chunk_size: u32,
    payload: Option<usize>,
) -> Result<(), Status> {
    let invalid = |why: String| Err(Status::new(StatusCode::InvalidArgument, why));
    if !chunk_size.is_power_of_two() || !(CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&chunk_size) {
        return invalid(format!("{chunk_size} is not a chunk size"));
    }
    let end = match update {
        Update::Write { offset, length } => {
            if payload != Some(length as usize) {
                return invalid(format!(
                    "a write of {length} bytes with a payload of {payload:?}"
                ));
            }
            u64::from(offset) + u64::from(length)
        }
        Update::Extend { length } | Update::Truncate { length } => u64::from(length),
        Update::Remove => 0,
    };
    if end > u64::from(chunk_size) {
        let why = format!("byte {end} lies beyond the chunk of {chunk_size} bytes");
        return Err(Status::new(StatusCode::OutOfRange, why));
    }
    Ok(())
}

/// The head's decision once the update holds the chunk (W3).
pub(crate) fn at_turn(
    update: Update,
    tag: UpdateTag,
    meta: Option<&ChunkMeta>,
    chain_version: ChainVersion,
) -> Turn {
    let Some(meta) = meta else {
        return match update {
            Update::Truncate { .. } | Update::Remove => Turn::Answer(UpdateDone {
                length: 0,
                commit_version: ChunkVersion(0),
                chain_version,
                checksum: types::checksum::Checksum::default(),
            }),
            Update::Write { .. } | Update::Extend { .. } => Turn::Run(ChunkVersion(1)),
        };
    };
    if meta.tag == Some(tag) {
        return Turn::Answer(done(meta));
    }
    if meta.pending.is_some() {
        return Turn::SettleFirst;
    }
    let nothing_to_do = match update {
        Update::Remove => !meta.exists,
        Update::Truncate { length } => !meta.exists || meta.length <= length,
        Update::Extend { length } => meta.exists && meta.length >= length,
        Update::Write { .. } => false,
    };
    if nothing_to_do {
        Turn::Answer(done(meta))
    } else {
        after(meta.commit_version)
    }
}

/// What an update does when what was pending could not be settled; `None`: it fails, too.
pub(crate) fn unsettled(update: Update, meta: &ChunkMeta, code: StatusCode) -> Option<Turn> {
    let pending = meta.pending.as_ref().filter(|pending| pending.exists)?;
    let never = matches!(code, StatusCode::NoSpace | StatusCode::ChunkCorrupt);
    (update == Update::Remove && never).then(|| after(pending.update_version))
}

fn after(version: ChunkVersion) -> Turn {
    if version.0 >= VERSION_MAX {
        Turn::VersionsExhausted
    } else {
        Turn::Run(version.next())
    }
}

/// The result that the committed version stands for.
pub(crate) fn done(meta: &ChunkMeta) -> UpdateDone {
    UpdateDone {
        length: meta.length,
        commit_version: meta.commit_version,
        chain_version: meta.chain_version,
        checksum: meta.checksum,
    }
}

#[cfg(test)]
mod tests {
    use types::{
        checksum::Checksum,
        chunk::{ChunkId, PendingMeta},
        id::{ChannelId, ChannelSeq, ClientId, InodeId},
    };

    use super::*;

    const CHAIN: ChainVersion = ChainVersion(3);
    const UPDATES: [Update; 4] = [
        Update::Write {
            offset: 0,
            length: 20,
        },
        Update::Extend { length: 20 },
        Update::Truncate { length: 5 },
        Update::Remove,
    ];

    fn tag(seq: u64) -> UpdateTag {
        UpdateTag {
            client: ClientId(1),
            channel: ChannelId(2),
            seq: ChannelSeq(seq),
        }
    }

    fn meta(pending: Option<(u32, bool)>) -> ChunkMeta {
        ChunkMeta {
            id: ChunkId {
                inode: InodeId(1),
                index: 0,
            },
            exists: true,
            length: 10,
            commit_version: ChunkVersion(5),
            chain_version: CHAIN,
            checksum: Checksum(77),
            tag: Some(tag(1)),
            pending: pending.map(|(version, exists)| PendingMeta {
                update_version: ChunkVersion(version),
                exists,
                length: 11,
                chain_version: CHAIN,
                checksum: Checksum(78),
                tag: Some(tag(2)),
            }),
        }
    }

    #[test]
    fn the_next_version_follows_the_commit_version_and_the_floor() {
        for update in UPDATES {
            assert_eq!(
                at_turn(update, tag(3), Some(&meta(None)), CHAIN),
                Turn::Run(ChunkVersion(6))
            );
        }
        let floor = ChunkMeta {
            exists: false,
            length: 0,
            ..meta(None)
        };
        assert_eq!(
            at_turn(UPDATES[0], tag(3), Some(&floor), CHAIN),
            Turn::Run(ChunkVersion(6))
        );
        assert_eq!(
            at_turn(UPDATES[0], tag(3), None, CHAIN),
            Turn::Run(ChunkVersion(1))
        );
    }

    #[test]
    fn a_pending_version_is_settled_before_another_takes_its_number() {
        for pending_exists in [true, false] {
            let meta = meta(Some((6, pending_exists)));
            for update in UPDATES {
                let turn = at_turn(update, tag(3), Some(&meta), CHAIN);
                assert_eq!(turn, Turn::SettleFirst, "{update:?}");
            }
        }
    }

    #[test]
    fn only_a_removal_passes_over_what_cannot_be_settled() {
        for update in UPDATES {
            for code in [StatusCode::NoSpace, StatusCode::ChunkCorrupt] {
                let over = (update == Update::Remove).then_some(Turn::Run(ChunkVersion(7)));
                assert_eq!(unsettled(update, &meta(Some((6, true))), code), over);
                assert_eq!(unsettled(update, &meta(Some((6, false))), code), None);
            }
            let silent = StatusCode::DeadlineExceeded;
            assert_eq!(unsettled(update, &meta(Some((6, true))), silent), None);
        }
    }

    #[test]
    fn a_retry_of_what_is_committed_is_answered_from_the_record() {
        for pending in [None, Some((6, true))] {
            let meta = meta(pending);
            for update in UPDATES {
                assert_eq!(
                    at_turn(update, tag(1), Some(&meta), CHAIN),
                    Turn::Answer(done(&meta))
                );
            }
        }
    }

    #[test]
    fn what_changes_nothing_makes_no_version() {
        let there = meta(None);
        let floor = ChunkMeta {
            exists: false,
            length: 0,
            ..meta(None)
        };
        let idle = [
            (Update::Extend { length: 10 }, &there),
            (Update::Truncate { length: 10 }, &there),
            (Update::Truncate { length: 5 }, &floor),
            (Update::Remove, &floor),
        ];
        for (update, meta) in idle {
            assert_eq!(
                at_turn(update, tag(3), Some(meta), CHAIN),
                Turn::Answer(done(meta))
            );
        }
        for update in [Update::Remove, Update::Truncate { length: 5 }] {
            assert!(matches!(
                at_turn(update, tag(3), None, CHAIN),
                Turn::Answer(_)
            ));
        }
        assert_eq!(
            at_turn(Update::Extend { length: 4 }, tag(3), Some(&floor), CHAIN),
            Turn::Run(ChunkVersion(6))
        );
    }

    #[test]
    fn versions_never_wrap() {
        let old = ChunkMeta {
            commit_version: ChunkVersion(u32::MAX - 1),
            ..meta(None)
        };
        assert_eq!(
            at_turn(UPDATES[0], tag(3), Some(&old), CHAIN),
            Turn::VersionsExhausted
        );
    }

    #[test]
    fn ranges_and_payloads_are_checked() {
        let size = CHUNK_SIZE_MIN;
        let write = |offset, length| Update::Write { offset, length };
        assert!(check_update(write(0, size), size, Some(size as usize)).is_ok());
        assert!(check_update(Update::Remove, size, None).is_ok());
        let code = |update, payload| check_update(update, size, payload).unwrap_err().code;
        assert_eq!(
            code(write(1, size), Some(size as usize)),
            StatusCode::OutOfRange
        );
        assert_eq!(code(write(u32::MAX, 4), Some(4)), StatusCode::OutOfRange);
        assert_eq!(code(write(0, 4), Some(5)), StatusCode::InvalidArgument);
        assert_eq!(code(write(0, 4), None), StatusCode::InvalidArgument);
        assert_eq!(
            code(Update::Extend { length: size + 1 }, None),
            StatusCode::OutOfRange
        );
        for wrong in [0, 1000, size * 3, CHUNK_SIZE_MAX * 2] {
            assert!(check_update(Update::Remove, wrong, None).is_err());
        }
    }
}
