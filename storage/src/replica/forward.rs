//! What a successor does with its predecessor's change (protocol W5, W9, S2, S3, W12).
//!
//! A **serving** successor counts versions:
//!
//! | the change's version | answer |
//! | --- | --- |
//! | at most the commit version | already done: what is committed here; the sender compares (W10) |
//! | commit version + 1 | run it; a pending one of that version is replaced, or settled when it is the very same |
//! | above that | a gap: refused, so that the sender sends the whole chunk; a whole chunk or a removal needs nothing of what was before, and runs |
//!
//! A **syncing** successor holds chunks of an earlier life, which may even be of higher versions than the
//! predecessor's (they were never acknowledged). So the predecessor's word replaces whatever is there, also
//! by a lower version. What protects it from a delayed duplicate is the chain version in its record: a
//! record that was made under the request's own chain version came from this predecessor and is newer.

use types::{
    checksum::Checksum,
    chunk::{ChunkMeta, Update},
    rpc::storage::{ForwardKind, ForwardReply, ForwardRequest},
    target::PublicState,
    version::{ChainVersion, ChunkVersion},
};

/// What to do with a predecessor's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Nothing: this is the answer.
    AlreadyDone(ForwardReply),
    /// Versions are missing in between: the whole chunk is needed.
    Missing,
    /// Make it the pending version, pass it on, commit it.
    Run,
    /// It is the pending version: pass it on, commit it. Needs no space, so a full disk does not refuse what it holds.
    Settle,
    /// Forget what is there, then run it.
    ReplaceEarlierLife,
    /// Forget what is there.
    Drop,
    /// A change that is never sent to a target in this state.
    Refuse,
}

/// The successor's decision once the change holds the chunk. `state` is its own public state.
pub(crate) fn on_forward(
    state: PublicState,
    request: &ForwardRequest,
    meta: Option<&ChunkMeta>,
) -> Follow {
    match state {
        PublicState::Serving => serving(request, meta),
        PublicState::Syncing => syncing(request, meta),
        PublicState::Waiting | PublicState::LastServing | PublicState::Offline => Follow::Refuse,
    }
}

fn serving(request: &ForwardRequest, meta: Option<&ChunkMeta>) -> Follow {
    let committed = meta.map_or(ChunkVersion(0), |meta| meta.commit_version);
    if request.kind == ForwardKind::Drop {
        return Follow::Refuse;
    }
    if request.update_version <= committed {
        return Follow::AlreadyDone(reply(meta, request.chain_version));
    }
    if is_pending(request, meta) {
        return Follow::Settle;
    }
    let follows = request.update_version.0 == committed.0.saturating_add(1);
    if follows || is_whole(&request.kind) {
        Follow::Run
    } else {
        Follow::Missing
    }
}

fn syncing(request: &ForwardRequest, meta: Option<&ChunkMeta>) -> Follow {
    if request.kind != ForwardKind::Drop && !is_whole(&request.kind) {
        return Follow::Missing;
    }
    let Some(meta) = meta else {
        return match request.kind {
            ForwardKind::Drop => Follow::AlreadyDone(reply(None, request.chain_version)),
            ForwardKind::Update(_) | ForwardKind::Replace { .. } => Follow::Run,
        };
    };
    let answer = || Follow::AlreadyDone(reply(Some(meta), request.chain_version));
    let made_now = newest_chain_version(meta) == request.chain_version;
    if request.kind == ForwardKind::Drop {
        return if made_now { answer() } else { Follow::Drop };
    }
    if is_equal(request, meta) {
        return answer();
    }
    if request.update_version > meta.commit_version {
        Follow::Run
    } else if request.update_version < meta.commit_version && made_now {
        answer()
    } else {
        Follow::ReplaceEarlierLife
    }
}

/// Whether the change needs nothing of what was there before.
fn is_whole(kind: &ForwardKind) -> bool {
    match kind {
        ForwardKind::Replace { .. } | ForwardKind::Update(Update::Remove) => true,
        ForwardKind::Update(_) | ForwardKind::Drop => false,
    }
}

/// Whether exactly this is pending. Only what says the whole content can be compared.
fn is_pending(request: &ForwardRequest, meta: Option<&ChunkMeta>) -> bool {
    let Some(pending) = meta.and_then(|meta| meta.pending.as_ref()) else {
        return false;
    };
    let content_is_equal = match request.kind {
        ForwardKind::Replace { length } => {
            pending.exists && pending.length == length && pending.checksum == request.checksum
        }
        ForwardKind::Update(Update::Remove) => !pending.exists,
        ForwardKind::Update(_) | ForwardKind::Drop => false,
    };
    pending.update_version == request.update_version && content_is_equal
}

fn is_equal(request: &ForwardRequest, meta: &ChunkMeta) -> bool {
    let content_is_equal = match request.kind {
        ForwardKind::Replace { length } => {
            meta.exists && meta.length == length && meta.checksum == request.checksum
        }
        ForwardKind::Update(_) | ForwardKind::Drop => !meta.exists,
    };
    meta.pending.is_none() && meta.commit_version == request.update_version && content_is_equal
}

fn newest_chain_version(meta: &ChunkMeta) -> ChainVersion {
    meta.pending.as_ref().map_or(meta.chain_version, |pending| {
        pending.chain_version.max(meta.chain_version)
    })
}

/// The answer that what is committed stands for.
pub(crate) fn reply(meta: Option<&ChunkMeta>, chain_version: ChainVersion) -> ForwardReply {
    ForwardReply {
        length: meta.map_or(0, |meta| meta.length),
        commit_version: meta.map_or(ChunkVersion(0), |meta| meta.commit_version),
        chain_version,
        checksum: meta.map_or(Checksum::default(), |meta| meta.checksum),
    }
}

#[cfg(test)]
mod tests {
    use types::{
        chunk::{ChunkId, PendingMeta},
        id::{ChainId, InodeId, TargetId},
    };

    use super::*;

    const NOW: ChainVersion = ChainVersion(9);
    const BEFORE: ChainVersion = ChainVersion(8);
    const WRITE: ForwardKind = ForwardKind::Update(Update::Write {
        offset: 0,
        length: 4,
    });
    const EXTEND: ForwardKind = ForwardKind::Update(Update::Extend { length: 4 });
    const REMOVE: ForwardKind = ForwardKind::Update(Update::Remove);
    const REPLACE: ForwardKind = ForwardKind::Replace { length: 10 };
    const KINDS: [&ForwardKind; 5] = [&WRITE, &EXTEND, &REMOVE, &REPLACE, &ForwardKind::Drop];

    fn chunk() -> ChunkId {
        ChunkId {
            inode: InodeId(1),
            index: 0,
        }
    }

    fn request(kind: &ForwardKind, version: u32) -> ForwardRequest {
        ForwardRequest {
            chain: ChainId(1),
            chain_version: NOW,
            from: TargetId(1),
            chunk: chunk(),
            chunk_size: 1 << 16,
            update_version: ChunkVersion(version),
            kind: kind.clone(),
            payload: None,
            checksum: Checksum(77),
            tag: None,
        }
    }

    fn meta(commit: u32, chain_version: ChainVersion) -> ChunkMeta {
        ChunkMeta {
            id: chunk(),
            exists: true,
            length: 10,
            commit_version: ChunkVersion(commit),
            chain_version,
            checksum: Checksum(77),
            tag: None,
            pending: None,
        }
    }

    fn pending(meta: &ChunkMeta, version: u32, chain_version: ChainVersion) -> ChunkMeta {
        let pending = PendingMeta {
            update_version: ChunkVersion(version),
            exists: true,
            length: 10,
            chain_version,
            checksum: Checksum(78),
            tag: None,
        };
        ChunkMeta {
            pending: Some(pending),
            ..meta.clone()
        }
    }

    /// Every kind, every version around the commit version, with and without a pending version.
    #[test]
    fn a_serving_successor_counts_versions() {
        let base = meta(5, BEFORE);
        for meta in [
            base.clone(),
            pending(&base, 6, BEFORE),
            pending(&base, 6, NOW),
        ] {
            for kind in KINDS {
                for version in 0..10 {
                    let follow =
                        on_forward(PublicState::Serving, &request(kind, version), Some(&meta));
                    let expected = match (kind, version) {
                        (&ForwardKind::Drop, _) => Follow::Refuse,
                        (_, 0..=5) => Follow::AlreadyDone(reply(Some(&base), NOW)),
                        // The pending version is another one: its checksum is 78.
                        (_, 6) | (&REMOVE | &REPLACE, _) => Follow::Run,
                        _ => Follow::Missing,
                    };
                    assert_eq!(follow, expected, "{kind:?} {version}");
                }
            }
        }
        let first = |kind: &ForwardKind, version| {
            on_forward(PublicState::Serving, &request(kind, version), None)
        };
        assert_eq!(first(&WRITE, 1), Follow::Run);
        assert_eq!(first(&WRITE, 2), Follow::Missing);
        assert_eq!(first(&REPLACE, 9), Follow::Run);
    }

    #[test]
    fn a_serving_successor_settles_what_it_holds_pending() {
        let held = pending(&meta(5, BEFORE), 6, BEFORE);
        let follow = |kind: &ForwardKind, version, checksum, meta: &ChunkMeta| {
            let request = ForwardRequest {
                checksum: Checksum(checksum),
                ..request(kind, version)
            };
            on_forward(PublicState::Serving, &request, Some(meta))
        };
        assert_eq!(follow(&REPLACE, 6, 78, &held), Follow::Settle);
        assert_eq!(follow(&REPLACE, 6, 77, &held), Follow::Run);
        assert_eq!(follow(&REPLACE, 7, 78, &held), Follow::Run);
        assert_eq!(follow(&REMOVE, 6, 0, &held), Follow::Run);
        // A write says only what changes: it may be another one.
        assert_eq!(follow(&WRITE, 6, 78, &held), Follow::Run);
        let mut removal = held;
        removal.pending.as_mut().unwrap().exists = false;
        assert_eq!(follow(&REMOVE, 6, 0, &removal), Follow::Settle);
        assert_eq!(follow(&REPLACE, 6, 78, &removal), Follow::Run);
    }

    #[test]
    fn a_syncing_successor_takes_whole_chunks_only() {
        for version in 0..10 {
            for kind in [&WRITE, &EXTEND] {
                for meta in [None, Some(meta(5, NOW))] {
                    let follow =
                        on_forward(PublicState::Syncing, &request(kind, version), meta.as_ref());
                    assert_eq!(follow, Follow::Missing);
                }
            }
        }
    }

    /// Every version around the commit version, made in this life or an earlier one.
    #[test]
    fn a_syncing_successor_believes_its_predecessor_over_its_past() {
        for kind in [&REMOVE, &REPLACE] {
            for version in 1..10 {
                for life in [BEFORE, NOW] {
                    // A checksum of its own, so that equal versions have different content.
                    let mine = ChunkMeta {
                        checksum: Checksum(1),
                        ..meta(5, life)
                    };
                    let follow =
                        on_forward(PublicState::Syncing, &request(kind, version), Some(&mine));
                    let expected = match version {
                        6.. => Follow::Run,
                        5 => Follow::ReplaceEarlierLife,
                        _ if life == NOW => Follow::AlreadyDone(reply(Some(&mine), NOW)),
                        _ => Follow::ReplaceEarlierLife,
                    };
                    assert_eq!(follow, expected, "{kind:?} {version} {life:?}");
                }
            }
        }
    }

    #[test]
    fn a_syncing_successor_skips_what_is_equal_unless_something_is_pending() {
        let same = meta(5, BEFORE);
        let follow =
            |meta: &ChunkMeta| on_forward(PublicState::Syncing, &request(&REPLACE, 5), Some(meta));
        assert_eq!(follow(&same), Follow::AlreadyDone(reply(Some(&same), NOW)));
        assert_eq!(
            follow(&pending(&same, 6, BEFORE)),
            Follow::ReplaceEarlierLife
        );
        let floor = ChunkMeta {
            exists: false,
            ..same
        };
        let removal = on_forward(PublicState::Syncing, &request(&REMOVE, 5), Some(&floor));
        assert_eq!(removal, Follow::AlreadyDone(reply(Some(&floor), NOW)));
        assert_eq!(follow(&floor), Follow::ReplaceEarlierLife);
    }

    #[test]
    fn a_late_drop_spares_a_chunk_of_this_life() {
        let drop = request(&ForwardKind::Drop, 0);
        let on = |meta: Option<&ChunkMeta>| on_forward(PublicState::Syncing, &drop, meta);
        assert_eq!(on(None), Follow::AlreadyDone(reply(None, NOW)));
        assert_eq!(on(Some(&meta(5, BEFORE))), Follow::Drop);
        let young = meta(5, NOW);
        assert_eq!(
            on(Some(&young)),
            Follow::AlreadyDone(reply(Some(&young), NOW))
        );
        let half = pending(&meta(0, ChainVersion(0)), 1, NOW);
        assert_eq!(
            on(Some(&half)),
            Follow::AlreadyDone(reply(Some(&half), NOW))
        );
    }

    #[test]
    fn no_other_state_follows() {
        for state in [
            PublicState::Waiting,
            PublicState::LastServing,
            PublicState::Offline,
        ] {
            for kind in KINDS {
                assert_eq!(on_forward(state, &request(kind, 6), None), Follow::Refuse);
            }
        }
    }
}
