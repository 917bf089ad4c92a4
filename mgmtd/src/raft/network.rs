//! Requests among the members. openraft's messages travel as postcard bytes in the body of a request, over whatever
//! `Peers` is: `net` in a process, a map of members in tests.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use common::env::{Env, Instant};
use openraft::{
    AnyError, BasicNode, Raft, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable},
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

use super::TypeConfig;

/// How soon a member that could not be reached is tried again: soon, so that it catches up as soon as it is back.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What members ask each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RaftMethod {
    Append,
    Vote,
    InstallSnapshot,
}

/// Another member, and where it is by the group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) address: String,
}

/// The other members, as far as they can be reached.
#[async_trait]
pub(crate) trait Peers: Send + Sync + 'static {
    /// Asks a member.
    async fn call(
        &self,
        peer: &Peer,
        method: RaftMethod,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Status>;

    /// Tells the leader that this member lives.
    async fn heartbeat(
        &self,
        peer: &Peer,
        heartbeat: &Heartbeat,
        deadline: Instant,
    ) -> Result<HeartbeatReply, Status>;
}

/// Makes a client for each member.
#[derive(Clone)]
pub(super) struct Network {
    env: Env,
    peers: Arc<dyn Peers>,
}

impl Network {
    pub(super) fn new(env: &Env, peers: Arc<dyn Peers>) -> Self {
        Self {
            env: env.clone(),
            peers,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        let peer = |id| Peer {
            id: NodeId(id),
            address: node.addr.clone(),
        };
        Client {
            env: self.env.clone(),
            peers: self.peers.clone(),
            peer: u32::try_from(target).ok().map(peer),
        }
    }
}

/// Asks one member.
pub(super) struct Client {
    env: Env,
    peers: Arc<dyn Peers>,
    peer: Option<Peer>,
}

impl Client {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: RaftMethod,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, Unreachable> {
        let unreachable = |status: Status| Unreachable::new(&AnyError::error(status));
        let Some(peer) = &self.peer else {
            let status = Status::new(StatusCode::Internal, "a member id beyond 32 bits");
            return Err(unreachable(status));
        };
        let body = Bytes::from(codec::encode_body(request));
        let deadline = self.env.now() + option.hard_ttl();
        let reply = self.peers.call(peer, method, body, deadline).await;
        let reply = reply.map_err(unreachable)?;
        codec::decode_body(&reply)
            .map_err(|error| unreachable(Status::new(StatusCode::Malformed, error.to_string())))
    }
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        Ok(self.ask(RaftMethod::Append, &rpc, &option).await?)
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
        let target = self.peer.as_ref().map_or(0, |peer| u64::from(peer.id.0));
        reply.map_err(|error| RemoteError::new(target, RaftError::APIError(error)).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        Ok(self.ask(RaftMethod::Vote, &rpc, &option).await?)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_AFTER))
    }
}

/// Answers a request of another member.
pub(super) async fn handle(
    raft: &Raft<TypeConfig>,
    method: RaftMethod,
    body: &[u8],
) -> Result<Vec<u8>, Status> {
    match method {
        RaftMethod::Append => {
            let reply = raft.append_entries(decode(body)?).await;
            Ok(codec::encode_body(&reply.map_err(stopped)?))
        }
        RaftMethod::Vote => {
            let reply = raft.vote(decode(body)?).await;
            Ok(codec::encode_body(&reply.map_err(stopped)?))
        }
        RaftMethod::InstallSnapshot => {
            let reply = match raft.install_snapshot(decode(body)?).await {
                Ok(reply) => Ok(reply),
                Err(RaftError::APIError(error)) => Err(error),
                Err(error @ RaftError::Fatal(_)) => return Err(stopped(error)),
            };
            Ok(codec::encode_body(&reply))
        }
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    codec::decode_body(body).map_err(|error| Status::new(StatusCode::Malformed, error.to_string()))
}

fn stopped(error: impl ToString) -> Status {
    let message = format!("the manager's consensus has stopped: {}", error.to_string());
    Status::new(StatusCode::NotReady, message)
}
