//! Which version a read gets (protocol D1, D2).
//!
//! | this target holds | it is the last serving one | answer |
//! | --- | --- | --- |
//! | a committed version only | | that one |
//! | a pending one too, or one on its way | no | the version the last serving target has committed |
//! | a pending one too, made under this chain version | yes | the committed one: nobody else can have committed more |
//! | a pending one too, made under an earlier chain version | yes | settle it first: the last one of before may have committed and shown it |
//!
//! "On its way" is a change that this target passes on while its own durable write is under way (W7): the
//! tail may have committed it, and shown it to someone, before anything is pending here.

use types::{
    chunk::ChunkMeta,
    rpc::storage::ReadMode,
    version::{ChainVersion, ChunkVersion},
};

/// A change that is being passed on and not yet pending here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnItsWay {
    pub(crate) update_version: ChunkVersion,
    pub(crate) chain_version: ChainVersion,
}

/// Which of the two versions of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Committed,
    Pending,
}

/// What a read does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// There is no such chunk.
    NotFound,
    /// Return this version.
    Take {
        side: Side,
        version: ChunkVersion,
        length: u32,
    },
    /// Ask the last serving target, then `after_answer`.
    AskLast,
    /// Wait for the chunk's turn and settle what is pending, then ask again.
    Settle,
    /// The version is not here yet, or not any more: look again shortly.
    LookAgain,
}

/// The reader's place and what it knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) mode: ReadMode,
    pub(crate) is_last_serving: bool,
    pub(crate) chain_version: ChainVersion,
}

/// The first decision. `on_its_way` must have been looked up *before* `meta`: the other order could miss a
/// change that goes from one to the other.
pub(crate) fn choose(
    reader: Reader,
    meta: Option<&ChunkMeta>,
    on_its_way: Option<OnItsWay>,
) -> Choice {
    let pending = meta.and_then(|meta| meta.pending.as_ref());
    match reader.mode {
        ReadMode::Uncommitted => match (meta, pending) {
            (Some(meta), Some(_)) => take(meta, Side::Pending),
            (Some(meta), None) => take(meta, Side::Committed),
            (None, _) => Choice::NotFound,
        },
        ReadMode::Linearizable => {
            if pending.is_none() && on_its_way.is_none() {
                return committed(meta);
            }
            if !reader.is_last_serving {
                return Choice::AskLast;
            }
            let same = |version: ChainVersion| version == reader.chain_version;
            if pending.is_none_or(|pending| same(pending.chain_version))
                && on_its_way.is_none_or(|way| same(way.chain_version))
            {
                committed(meta)
            } else {
                Choice::Settle
            }
        }
    }
}

/// The decision once the last serving target has said which version it has committed.
pub(crate) fn after_answer(meta: Option<&ChunkMeta>, last: ChunkVersion) -> Choice {
    let mine = meta.map_or(ChunkVersion(0), |meta| meta.commit_version);
    if last == mine {
        return committed(meta);
    }
    match meta {
        Some(meta)
            if meta
                .pending
                .as_ref()
                .is_some_and(|pending| pending.update_version == last) =>
        {
            take(meta, Side::Pending)
        }
        _ => Choice::LookAgain,
    }
}

fn committed(meta: Option<&ChunkMeta>) -> Choice {
    meta.map_or(Choice::NotFound, |meta| take(meta, Side::Committed))
}

fn take(meta: &ChunkMeta, side: Side) -> Choice {
    let (exists, version, length) = match (side, &meta.pending) {
        (Side::Pending, Some(pending)) => (pending.exists, pending.update_version, pending.length),
        _ => (meta.exists, meta.commit_version, meta.length),
    };
    if exists {
        Choice::Take {
            side,
            version,
            length,
        }
    } else {
        Choice::NotFound
    }
}

#[cfg(test)]
mod tests {
    use types::{
        checksum::Checksum,
        chunk::{ChunkId, PendingMeta},
        id::InodeId,
    };

    use super::*;

    const NOW: ChainVersion = ChainVersion(9);
    const BEFORE: ChainVersion = ChainVersion(8);
    const COMMITTED: Choice = Choice::Take {
        side: Side::Committed,
        version: ChunkVersion(5),
        length: 10,
    };
    const PENDING: Choice = Choice::Take {
        side: Side::Pending,
        version: ChunkVersion(6),
        length: 20,
    };

    fn meta(pending: Option<ChainVersion>) -> ChunkMeta {
        ChunkMeta {
            id: ChunkId {
                inode: InodeId(1),
                index: 0,
            },
            exists: true,
            length: 10,
            commit_version: ChunkVersion(5),
            chain_version: BEFORE,
            checksum: Checksum(1),
            tag: None,
            pending: pending.map(|chain_version| PendingMeta {
                update_version: ChunkVersion(6),
                exists: true,
                length: 20,
                chain_version,
                checksum: Checksum(2),
                tag: None,
            }),
        }
    }

    fn reader(mode: ReadMode, is_last_serving: bool) -> Reader {
        Reader {
            mode,
            is_last_serving,
            chain_version: NOW,
        }
    }

    fn way(chain_version: ChainVersion) -> Option<OnItsWay> {
        Some(OnItsWay {
            update_version: ChunkVersion(6),
            chain_version,
        })
    }

    /// Every combination of place, pending version and version on its way.
    #[test]
    fn linearizable_reads_follow_the_table() {
        for is_last in [false, true] {
            for pending in [None, Some(BEFORE), Some(NOW)] {
                for coming in [None, way(BEFORE), way(NOW)] {
                    let meta = meta(pending);
                    let choice =
                        choose(reader(ReadMode::Linearizable, is_last), Some(&meta), coming);
                    let old = pending == Some(BEFORE) || coming == way(BEFORE);
                    let expected = if pending.is_none() && coming.is_none() {
                        COMMITTED
                    } else if !is_last {
                        Choice::AskLast
                    } else if old {
                        Choice::Settle
                    } else {
                        COMMITTED
                    };
                    assert_eq!(choice, expected, "{is_last} {pending:?} {coming:?}");
                }
            }
        }
    }

    #[test]
    fn the_last_one_decides_which_version_is_returned() {
        let meta = meta(Some(NOW));
        assert_eq!(after_answer(Some(&meta), ChunkVersion(5)), COMMITTED);
        assert_eq!(after_answer(Some(&meta), ChunkVersion(6)), PENDING);
        for other in [0, 4, 7] {
            assert_eq!(
                after_answer(Some(&meta), ChunkVersion(other)),
                Choice::LookAgain
            );
        }
        assert_eq!(after_answer(None, ChunkVersion(0)), Choice::NotFound);
        assert_eq!(after_answer(None, ChunkVersion(1)), Choice::LookAgain);
    }

    #[test]
    fn an_uncommitted_read_takes_what_is_there() {
        for is_last in [false, true] {
            let reader = reader(ReadMode::Uncommitted, is_last);
            assert_eq!(choose(reader, Some(&meta(Some(BEFORE))), None), PENDING);
            assert_eq!(choose(reader, Some(&meta(None)), way(NOW)), COMMITTED);
            assert_eq!(choose(reader, None, way(NOW)), Choice::NotFound);
        }
    }

    #[test]
    fn a_removed_chunk_is_not_found() {
        let floor = ChunkMeta {
            exists: false,
            ..meta(None)
        };
        let linear = reader(ReadMode::Linearizable, false);
        assert_eq!(choose(linear, Some(&floor), None), Choice::NotFound);
        assert_eq!(choose(linear, None, None), Choice::NotFound);
        assert_eq!(
            after_answer(Some(&floor), ChunkVersion(5)),
            Choice::NotFound
        );
        assert_eq!(choose(linear, None, way(NOW)), Choice::AskLast);
    }
}
