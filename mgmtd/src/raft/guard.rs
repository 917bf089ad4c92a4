//! What another member may say. openraft trusts its peers: it asserts what a correct one never breaks, and an assertion that fails
//! ends the consensus of this process. So every message is looked at before openraft sees it, and one that no correct member
//! sends is refused with the reason. Pure.
//!
//! Not caught, because nobody can: a member that lies consistently.

use std::collections::BTreeSet;

use openraft::{
    EntryPayload, LogId, Membership, SnapshotMeta, Vote,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest,
        VoteResponse,
    },
};
use types::status::{Status, StatusCode};

use super::TypeConfig;

/// A term rises by one with each election. No member is behind by more: a century of an election every second.
const TERMS_AHEAD_MAX: u64 = 1 << 32;
/// No log has entries beyond: counting on does not overflow.
const INDEX_MAX: u64 = 1 << 60;

type Id = LogId<u64>;
type Node = openraft::BasicNode;

/// What this member knows.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) own: u64,
    pub(super) vote: Vote<u64>,
    pub(super) committed: Option<Id>,
    /// Empty before this member has heard of its group.
    pub(super) voters: BTreeSet<u64>,
}

/// What is wrong with a message.
pub(super) fn refuse(why: impl Into<String>) -> Status {
    let message = format!("a member of the manager group sent {}", why.into());
    Status::new(StatusCode::Malformed, message)
}

fn holds(condition: bool, why: &'static str) -> Result<(), Status> {
    if condition { Ok(()) } else { Err(refuse(why)) }
}

impl Known {
    /// A request for a vote.
    ///
    /// # Errors
    /// What no correct member sends.
    pub(super) fn check_vote(&self, request: &VoteRequest<u64>) -> Result<(), Status> {
        self.check_sender(&request.vote)?;
        holds(
            !request.vote.committed,
            "a request for a vote that it has already won",
        )?;
        check_id(request.last_log_id.as_ref(), &request.vote)
    }

    /// Entries of a leader. `stored` is what stands here at an index.
    ///
    /// # Errors
    /// What no correct leader sends.
    pub(super) fn check_append(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        stored: &dyn Fn(u64) -> Option<Id>,
    ) -> Result<(), Status> {
        let vote = &request.vote;
        self.check_leader(vote)?;
        let mut last = request.prev_log_id;
        check_id(last.as_ref(), vote)?;
        self.check_against_committed(last.as_ref(), stored)?;
        for entry in &request.entries {
            let id = entry.log_id;
            check_id(Some(&id), vote)?;
            let next = last.map_or(0, |last| last.index + 1);
            holds(id.index == next, "entries with a gap between them")?;
            holds(Some(id) > last, "entries of falling terms")?;
            self.check_against_committed(Some(&id), stored)?;
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.check_members(membership)?;
            }
            last = Some(id);
        }
        self.check_commit(request, last, stored)
    }

    /// A leader's own commit must lie in the same history as what it sends.
    fn check_commit(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        last: Option<Id>,
        stored: &dyn Fn(u64) -> Option<Id>,
    ) -> Result<(), Status> {
        let Some(commit) = request.leader_commit else {
            return Ok(());
        };
        check_id(Some(&commit), &request.vote)?;
        self.check_against_committed(Some(&commit), stored)?;
        let sent = request.entries.iter().map(|entry| entry.log_id);
        let mut sent = sent.chain(request.prev_log_id);
        let same = sent.find(|id| id.index == commit.index);
        let in_order = last.is_none_or(|last| (commit.index > last.index) == (commit > last));
        let agrees = same.is_none_or(|id| id == commit);
        holds(
            in_order && agrees,
            "a commit that contradicts the entries beside it",
        )
    }

    /// What is committed here is never replaced.
    fn check_against_committed(
        &self,
        id: Option<&Id>,
        stored: &dyn Fn(u64) -> Option<Id>,
    ) -> Result<(), Status> {
        let (Some(id), Some(committed)) = (id, self.committed) else {
            return Ok(());
        };
        let after = id.index > committed.index;
        let contradicts = if after {
            *id < committed
        } else {
            *id > committed || stored(id.index).is_some_and(|here| here != *id)
        };
        holds(!contradicts, "entries that contradict what is committed")
    }

    /// A piece of a snapshot.
    ///
    /// # Errors
    /// What no correct leader sends.
    pub(super) fn check_snapshot(
        &self,
        request: &InstallSnapshotRequest<TypeConfig>,
    ) -> Result<(), Status> {
        self.check_leader(&request.vote)?;
        let meta: &SnapshotMeta<u64, Node> = &request.meta;
        holds(meta.last_log_id.is_some(), "a snapshot of nothing")?;
        check_id(meta.last_log_id.as_ref(), &request.vote)?;
        self.check_against_committed(meta.last_log_id.as_ref(), &|_| None)?;
        let membership = &meta.last_membership;
        holds(
            *membership.log_id() <= meta.last_log_id,
            "a snapshot with members of a later entry",
        )?;
        self.check_members(membership.membership())
    }

    /// Members cannot be added or removed yet.
    fn check_members(&self, membership: &Membership<u64, Node>) -> Result<(), Status> {
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let others = !self.voters.is_empty() && voters != self.voters;
        holds(!voters.is_empty() && !others, "another set of members")
    }

    fn check_leader(&self, vote: &Vote<u64>) -> Result<(), Status> {
        self.check_sender(vote)?;
        holds(
            vote.committed,
            "the message of a leader that was not elected",
        )
    }

    fn check_sender(&self, vote: &Vote<u64>) -> Result<(), Status> {
        let sender = vote.leader_id.node_id;
        holds(sender != self.own, "a message under this member's own id")?;
        let is_member = self.voters.is_empty() || self.voters.contains(&sender);
        holds(is_member, "a message under the id of no member")?;
        check_term(vote, &self.vote)
    }
}

fn check_term(vote: &Vote<u64>, known: &Vote<u64>) -> Result<(), Status> {
    let longest = known.leader_id.term.saturating_add(TERMS_AHEAD_MAX);
    holds(
        vote.leader_id.term <= longest,
        "a term that no election has reached",
    )
}

/// An entry was written by the sender or by a leader before it.
fn check_id(id: Option<&Id>, vote: &Vote<u64>) -> Result<(), Status> {
    let Some(id) = id else {
        return Ok(());
    };
    holds(id.index <= INDEX_MAX, "an entry that no log has reached")?;
    let (entry, sender) = (&id.leader_id, &vote.leader_id);
    let older = (entry.term, entry.node_id) <= (sender.term, sender.node_id);
    holds(older, "an entry of a later term than its own")
}

/// An answer to a request for a vote.
///
/// # Errors
/// What no correct member answers.
pub(super) fn check_vote_reply(
    request: &VoteRequest<u64>,
    reply: &VoteResponse<u64>,
) -> Result<(), Status> {
    check_term(&reply.vote, &request.vote)?;
    let last = reply.last_log_id.as_ref();
    holds(
        last.is_none_or(|id| id.index <= INDEX_MAX),
        "an entry that no log has reached",
    )
}

/// An answer to entries.
///
/// # Errors
/// What no correct member answers.
pub(super) fn check_append_reply(
    request: &AppendEntriesRequest<TypeConfig>,
    reply: &AppendEntriesResponse<u64>,
) -> Result<(), Status> {
    match reply {
        AppendEntriesResponse::Success => Ok(()),
        AppendEntriesResponse::Conflict => holds(
            request.prev_log_id.is_some(),
            "a conflict with the beginning of the log",
        ),
        AppendEntriesResponse::PartialSuccess(matching) => {
            let sent = request.entries.iter().map(|entry| Some(entry.log_id));
            let mut legal = sent.chain([request.prev_log_id]);
            holds(
                legal.any(|id| id == *matching),
                "success up to an entry that was not sent",
            )
        }
        AppendEntriesResponse::HigherVote(vote) => {
            check_term(vote, &request.vote)?;
            holds(*vote > request.vote, "a higher vote that is none")
        }
    }
}

/// An answer to a piece of a snapshot.
///
/// # Errors
/// What no correct member answers.
pub(super) fn check_snapshot_reply(
    request: &InstallSnapshotRequest<TypeConfig>,
    vote: &Vote<u64>,
) -> Result<(), Status> {
    check_term(vote, &request.vote)
}
