//! Requests among the members. openraft's messages travel as postcard bytes in the body of a request, over whatever
//! `Peers` is: `net` in a process, a map of members in tests.

use std::{collections::BTreeMap, io::Cursor, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use common::{
    env::{Env, Instant},
    sync::Mutex,
};
use openraft::{
    AnyError, BasicNode, LogId, Raft, RaftNetwork, RaftNetworkFactory, Snapshot, SnapshotSegmentId,
    Vote,
    error::{
        InstallSnapshotError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable,
    },
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use types::{
    codec,
    id::NodeId,
    rpc::mgmtd::{Heartbeat, HeartbeatReply},
    status::{Status, StatusCode},
};

use super::{
    TypeConfig,
    guard::{self, Known},
    log_store::LogStore,
    snapshot_store, state_machine,
};

/// How soon a member that could not be reached is tried again: soon, so that it catches up as soon as it is back.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What members ask each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RaftMethod {
    Append,
    Vote,
    InstallSnapshot,
}

/// The other members, as far as they can be reached.
#[async_trait]
pub(crate) trait Peers: Send + Sync + 'static {
    /// Asks a member.
    async fn call(
        &self,
        member: NodeId,
        method: RaftMethod,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Status>;

    /// Tells the leader that this member lives.
    async fn heartbeat(
        &self,
        member: NodeId,
        heartbeat: &Heartbeat,
        deadline: Instant,
    ) -> Result<HeartbeatReply, Status>;
}

/// Makes a client for each member.
#[derive(Clone)]
pub(super) struct Network {
    env: Env,
    peers: Arc<dyn Peers>,
    confirmed: Confirmed,
}

impl Network {
    pub(super) fn new(env: &Env, peers: Arc<dyn Peers>) -> Self {
        Self {
            env: env.clone(),
            peers,
            confirmed: Confirmed::default(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Client {
        Client {
            env: self.env.clone(),
            peers: self.peers.clone(),
            confirmed: self.confirmed.clone(),
            member: u32::try_from(target).map(NodeId).ok(),
        }
    }
}

/// Asks one member.
pub(super) struct Client {
    env: Env,
    peers: Arc<dyn Peers>,
    confirmed: Confirmed,
    member: Option<NodeId>,
}

impl Client {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: RaftMethod,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, Unreachable> {
        let unreachable = |status: Status| Unreachable::new(&AnyError::error(status));
        let Some(member) = self.member else {
            let status = Status::new(StatusCode::Internal, "a member id beyond 32 bits");
            return Err(unreachable(status));
        };
        let body = Bytes::from(codec::encode_body(request));
        let deadline = self.env.now() + option.hard_ttl();
        let reply = self.peers.call(member, method, body, deadline).await;
        let reply = reply.map_err(unreachable)?;
        codec::decode_body(&reply)
            .map_err(|error| unreachable(Status::new(StatusCode::Malformed, error.to_string())))
    }

    /// An answer that no correct member gives counts as none.
    fn accept(&self, checked: Result<(), Status>) -> Result<(), Unreachable> {
        checked.map_err(|status| {
            tracing::warn!(member = ?self.member, %status, "refused an answer");
            Unreachable::new(&AnyError::error(status))
        })
    }
}

/// Up to where each member has confirmed the log to this leader. A member that then denies it, because it lies or because its
/// disk was emptied, gets no more from this leader, instead of ending its consensus: the next one asks anew.
#[derive(Clone, Default)]
struct Confirmed(Arc<Mutex<BTreeMap<Option<NodeId>, (Vote<u64>, Option<LogId<u64>>)>>>);

impl Confirmed {
    fn note(&self, member: Option<NodeId>, vote: Vote<u64>, upto: Option<LogId<u64>>) {
        let mut confirmed = self.0.lock();
        let known = confirmed.entry(member).or_insert((vote, None));
        let before = known.1.filter(|_| known.0 == vote);
        *known = (vote, before.max(upto));
    }

    /// Remembers a success.
    ///
    /// # Errors
    /// For a conflict below what was confirmed.
    fn take_reply(
        &self,
        member: Option<NodeId>,
        request: &AppendEntriesRequest<TypeConfig>,
        reply: &AppendEntriesResponse<u64>,
    ) -> Result<(), Status> {
        let vote = request.vote;
        match reply {
            AppendEntriesResponse::Success => {
                let last = request.entries.last().map(|entry| entry.log_id);
                self.note(member, vote, last.or(request.prev_log_id));
            }
            AppendEntriesResponse::PartialSuccess(upto) => self.note(member, vote, *upto),
            AppendEntriesResponse::Conflict => {
                let known = self.0.lock().get(&member).copied();
                if known.is_some_and(|(by, upto)| by == vote && request.prev_log_id <= upto) {
                    return Err(guard::refuse("a conflict with what it has confirmed"));
                }
            }
            AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(())
    }
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        let reply = self.ask(RaftMethod::Append, &rpc, &option).await?;
        self.accept(guard::check_append_reply(&rpc, &reply))?;
        self.accept(self.confirmed.take_reply(self.member, &rpc, &reply))?;
        Ok(reply)
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<u64>,
        RPCError<u64, BasicNode, RaftError<u64, InstallSnapshotError>>,
    > {
        let reply: Result<InstallSnapshotResponse<u64>, InstallSnapshotError> =
            self.ask(RaftMethod::InstallSnapshot, &rpc, &option).await?;
        if let Ok(reply) = &reply {
            self.accept(guard::check_snapshot_reply(&rpc, &reply.vote))?;
            if rpc.done && reply.vote <= rpc.vote {
                let last = rpc.meta.last_log_id;
                self.confirmed.note(self.member, rpc.vote, last);
            }
        }
        let target = self.member.map_or(0, |member| u64::from(member.0));
        reply.map_err(|error| RemoteError::new(target, RaftError::APIError(error)).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        let reply = self.ask(RaftMethod::Vote, &rpc, &option).await?;
        self.accept(guard::check_vote_reply(&rpc, &reply))?;
        Ok(reply)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_AFTER))
    }
}

/// Pieces of one snapshot together, at most: a map of a hundred thousand targets is a tenth of it.
const SNAPSHOT_BYTES_MAX: usize = 128 << 20;

/// Answers the other members. What no correct one sends is refused here (`guard`).
pub(super) struct Inbox {
    own: u64,
    raft: Raft<TypeConfig>,
    log: LogStore,
    receiving: tokio::sync::Mutex<Option<Receiving>>,
}

/// A snapshot of which pieces have come.
struct Receiving {
    meta: snapshot_store::Meta,
    bytes: Vec<u8>,
}

impl Inbox {
    pub(super) fn new(own: u64, raft: Raft<TypeConfig>, log: LogStore) -> Self {
        Self {
            own,
            raft,
            log,
            receiving: tokio::sync::Mutex::default(),
        }
    }

    /// Answers one message.
    ///
    /// # Errors
    /// Malformed for what no correct member sends; NotReady when the consensus core has stopped.
    pub(super) async fn handle(&self, method: RaftMethod, body: &[u8]) -> Result<Vec<u8>, Status> {
        let answered = match method {
            RaftMethod::Append => self.append(decode(body)?).await,
            RaftMethod::Vote => self.vote(decode(body)?).await,
            RaftMethod::InstallSnapshot => self.snapshot(decode(body)?).await,
        };
        answered.inspect_err(|status| {
            if status.code == StatusCode::Malformed {
                tracing::warn!(?method, %status, "refused a message");
            }
        })
    }

    async fn append(&self, request: AppendEntriesRequest<TypeConfig>) -> Result<Vec<u8>, Status> {
        let known = self.known().await?;
        known.check_append(&request, &|index| self.log.id_at(index))?;
        let reply = self.raft.append_entries(request).await;
        Ok(codec::encode_body(&reply.map_err(stopped)?))
    }

    async fn vote(&self, request: VoteRequest<u64>) -> Result<Vec<u8>, Status> {
        self.known().await?.check_vote(&request)?;
        let reply = self.raft.vote(request).await;
        Ok(codec::encode_body(&reply.map_err(stopped)?))
    }

    /// openraft would put a piece wherever its offset says; here they come one after the other, and what they make is read
    /// before it replaces anything.
    async fn snapshot(
        &self,
        request: InstallSnapshotRequest<TypeConfig>,
    ) -> Result<Vec<u8>, Status> {
        let known = self.known().await?;
        known.check_snapshot(&request)?;
        let answer = |answer: Result<InstallSnapshotResponse<u64>, InstallSnapshotError>| {
            Ok(codec::encode_body(&answer))
        };
        if request.vote < known.vote {
            return answer(Ok(InstallSnapshotResponse { vote: known.vote }));
        }
        let (vote, done) = (request.vote, request.done);
        let received = {
            let mut receiving = self.receiving.lock().await;
            if let Err(mismatch) = take_piece(&mut receiving, request)? {
                return answer(Err(mismatch.into()));
            }
            receiving.take_if(|_| done)
        };
        let Some(received) = received else {
            return answer(Ok(InstallSnapshotResponse { vote: known.vote }));
        };
        state_machine::check_snapshot(&received.meta, &received.bytes)
            .map_err(|error| guard::refuse(format!("an unreadable {error}")))?;
        let snapshot = Snapshot {
            meta: received.meta,
            snapshot: Box::new(Cursor::new(received.bytes)),
        };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let vote = installed.map_err(stopped)?.vote;
        answer(Ok(InstallSnapshotResponse { vote }))
    }

    async fn known(&self) -> Result<Known, Status> {
        let own = self.own;
        let asked = self.raft.with_raft_state(move |state| Known {
            own,
            vote: *state.vote_ref(),
            committed: state.committed,
            voters: state.membership_state.effective().voter_ids().collect(),
        });
        asked.await.map_err(stopped)
    }
}

/// Adds a piece; a mismatch asks the sender to begin anew.
///
/// # Errors
/// Malformed when it gets too long.
fn take_piece(
    receiving: &mut Option<Receiving>,
    request: InstallSnapshotRequest<TypeConfig>,
) -> Result<Result<(), SnapshotMismatch>, Status> {
    if request.offset == 0 {
        *receiving = Some(Receiving {
            meta: request.meta.clone(),
            bytes: Vec::new(),
        });
    }
    let segment = |offset| SnapshotSegmentId {
        id: request.meta.snapshot_id.clone(),
        offset,
    };
    let mismatch = SnapshotMismatch {
        expect: segment(0),
        got: segment(request.offset),
    };
    let offset = usize::try_from(request.offset).unwrap_or(usize::MAX);
    let Some(known) = receiving
        .as_mut()
        .filter(|known| known.meta == request.meta && offset <= known.bytes.len())
    else {
        return Ok(Err(mismatch));
    };
    // A piece whose answer was lost comes again.
    known.bytes.truncate(offset);
    if offset.saturating_add(request.data.len()) > SNAPSHOT_BYTES_MAX {
        *receiving = None;
        let why = format!("a snapshot of more than {SNAPSHOT_BYTES_MAX} bytes");
        return Err(guard::refuse(why));
    }
    known.bytes.extend(request.data);
    Ok(Ok(()))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    codec::decode_body(body).map_err(|error| Status::new(StatusCode::Malformed, error.to_string()))
}

fn stopped(error: impl ToString) -> Status {
    let message = format!("the manager's consensus has stopped: {}", error.to_string());
    Status::new(StatusCode::NotReady, message)
}
