//! The manager's methods on the network: its own, and those of the members among themselves.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use common::env::Instant;
use net::{Endpoint, Incoming, Router};
use types::{
    id::{ClientId, NodeId, RequestId},
    rpc::{
        Caller, Rpc, Service,
        mgmtd::{
            AddManager, AddTarget, AppendTable, CreateChains, EndClientSession,
            ExtendClientSession, FollowRouting, ForceLastServing, GetManagers, GetSpace, Heartbeat,
            HeartbeatReply, ListClientSessions, ListLosses, RemoveManager, RemoveTarget,
            RotateChain, SendHeartbeat, SetPreferred, WatchRouting,
        },
    },
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{
    command::Asked,
    manager::Manager,
    raft::{Member, Peer, Peers, RaftMethod},
};

macro_rules! raft_methods {
    ($($name:ident = $number:literal, $label:literal, $method:ident;)*) => {$(
        /// A message of openraft, opaque to the network.
        enum $name {}

        impl Rpc for $name {
            const SERVICE: Service = Service::Raft;
            const METHOD: u16 = $number;
            const NAME: &'static str = $label;
            type Request = Bytes;
            type Response = Bytes;
        }
    )*

        fn raft_routes(member: &Arc<Member>) -> Router {
            let router = Router::new();
            $(
                let answering = member.clone();
                let router = router.on::<$name, _, _>(move |message: Bytes, _| {
                    let member = answering.clone();
                    async move {
                        let body = addressed_to(member.id(), &message)?;
                        member.handle(RaftMethod::$method, body).await.map(Bytes::from)
                    }
                });
            )*
            router
        }
    };
}

raft_methods! {
    RaftAppend = 1, "raft.append", Append;
    RaftVote = 2, "raft.vote", Vote;
    RaftInstallSnapshot = 3, "raft.install_snapshot", InstallSnapshot;
}

/// The bytes before a message among members: whom it is for. Two members behind one address would pass for two votes.
const ADDRESSEE: usize = 4;

fn address_to(member: NodeId, body: &[u8]) -> Bytes {
    [&member.0.to_le_bytes()[..], body].concat().into()
}

fn addressed_to(member: NodeId, message: &[u8]) -> Result<&[u8], Status> {
    let Some((addressee, body)) = message.split_first_chunk::<ADDRESSEE>() else {
        let why = "a message among managers names no addressee";
        return Err(Status::new(StatusCode::Malformed, why));
    };
    let addressee = NodeId(u32::from_le_bytes(*addressee));
    if addressee == member {
        return Ok(body);
    }
    let why = format!(
        "a message for manager {addressee} came to manager {member}: correct the address of {addressee}"
    );
    Err(Status::new(StatusCode::InvalidArgument, why))
}

/// Everything this process serves.
pub(crate) fn routes(manager: &Arc<Manager>, member: &Arc<Member>) -> Router {
    state_routes(manager)
        .merge(operator_routes(manager))
        .merge(session_routes(manager))
        .merge(raft_routes(member))
}

fn state_routes(manager: &Arc<Manager>) -> Router {
    let (beats, watches, creates) = (manager.clone(), manager.clone(), manager.clone());
    let (spaces, members, losses) = (manager.clone(), manager.clone(), manager.clone());
    let follows = manager.clone();
    Router::new()
        .on::<SendHeartbeat, _, _>(move |heartbeat, incoming| {
            let manager = beats.clone();
            async move { manager.heartbeat(&heartbeat, incoming.deadline).await }
        })
        .on::<WatchRouting, _, _>(move |request, incoming| {
            let manager = watches.clone();
            async move { manager.watch_routing(&request, incoming.deadline).await }
        })
        .on::<FollowRouting, _, _>(move |request, incoming| {
            let manager = follows.clone();
            async move { manager.follow_routing(&request, incoming.deadline).await }
        })
        .on::<CreateChains, _, _>(move |request, incoming| {
            let manager = creates.clone();
            let asked = asked(&incoming);
            async move {
                let deadline = incoming.deadline;
                manager.create_chains(&request, asked, deadline).await
            }
        })
        .on::<GetSpace, _, _>(move |(), _| std::future::ready(spaces.space()))
        .on::<ListLosses, _, _>(move |(), _| std::future::ready(losses.losses()))
        .on::<GetManagers, _, _>(move |(), _| std::future::ready(Ok(members.managers())))
}

macro_rules! operator_methods {
    ($($rpc:ident = $method:ident;)*) => {
        fn operator_routes(manager: &Arc<Manager>) -> Router {
            let router = Router::new();
            $(
                let answering = manager.clone();
                let router = router.on::<$rpc, _, _>(move |request, incoming| {
                    let manager = answering.clone();
                    let asked = asked(&incoming);
                    async move { manager.$method(request, asked, incoming.deadline).await }
                });
            )*
            router
        }
    };
}

operator_methods! {
    AppendTable = append_table;
    AddTarget = add_target;
    RemoveTarget = remove_target;
    SetPreferred = set_preferred;
    RotateChain = rotate_chain;
    ForceLastServing = force_last_serving;
    AddManager = add_manager;
    RemoveManager = remove_manager;
}

fn asked(incoming: &Incoming) -> Asked {
    Asked {
        client: incoming.caller.client,
        request: incoming.caller.request,
    }
}

fn session_routes(manager: &Arc<Manager>) -> Router {
    let (extends, lists, ends) = (manager.clone(), manager.clone(), manager.clone());
    Router::new()
        .on::<ExtendClientSession, _, _>(move |session, _| {
            std::future::ready(extends.extend_client_session(session))
        })
        .on::<ListClientSessions, _, _>(move |(), _| {
            std::future::ready(lists.list_client_sessions())
        })
        .on::<EndClientSession, _, _>(move |client, _| {
            std::future::ready(ends.end_client_session(client))
        })
}

/// The other members, over the network.
#[derive(Debug)]
pub(crate) struct NetPeers {
    endpoint: Endpoint,
    caller: Caller,
    /// By the configuration: members may have moved since the log was told.
    configured: BTreeMap<NodeId, String>,
}

impl NetPeers {
    pub(crate) fn new(
        endpoint: Endpoint,
        process: ClientId,
        configured: BTreeMap<NodeId, String>,
    ) -> Self {
        Self {
            endpoint,
            // Members are not clients: nothing of theirs is stored under this id.
            caller: Caller {
                client: process,
                request: RequestId(0),
                identity: Identity::root(),
            },
            configured,
        }
    }

    async fn ask<M: Rpc>(
        &self,
        peer: &Peer,
        request: &M::Request,
        deadline: Instant,
    ) -> Result<M::Response, Status> {
        let address = self.configured.get(&peer.id).unwrap_or(&peer.address);
        self.endpoint
            .ask::<M>(address, &self.caller, request, deadline)
            .await
    }
}

#[async_trait]
impl Peers for NetPeers {
    async fn call(
        &self,
        peer: &Peer,
        method: RaftMethod,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Status> {
        let message = address_to(peer.id, &body);
        match method {
            RaftMethod::Append => self.ask::<RaftAppend>(peer, &message, deadline).await,
            RaftMethod::Vote => self.ask::<RaftVote>(peer, &message, deadline).await,
            RaftMethod::InstallSnapshot => {
                self.ask::<RaftInstallSnapshot>(peer, &message, deadline)
                    .await
            }
        }
    }

    async fn heartbeat(
        &self,
        peer: &Peer,
        heartbeat: &Heartbeat,
        deadline: Instant,
    ) -> Result<HeartbeatReply, Status> {
        self.ask::<SendHeartbeat>(peer, heartbeat, deadline).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_for_another_manager_is_refused() {
        let message = address_to(NodeId(202), b"body");
        assert_eq!(addressed_to(NodeId(202), &message), Ok(&b"body"[..]));
        let refused = addressed_to(NodeId(203), &message).unwrap_err();
        assert!(
            refused.message.contains("correct the address of 202"),
            "{refused}"
        );
        assert_eq!(
            addressed_to(NodeId(1), b"abc").unwrap_err().code,
            StatusCode::Malformed
        );
    }
}
