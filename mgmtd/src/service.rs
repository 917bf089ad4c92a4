//! The manager's methods on the network: its own, and those of the members among themselves.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use common::{env::Instant, sync::Mutex};
use net::{Endpoint, Router};
use types::{
    id::{ClientId, NodeId, RequestId},
    rpc::{
        Caller, Rpc, Service,
        mgmtd::{
            CreateChains, EndClientSession, ExtendClientSession, GetManagers, GetSpace, Heartbeat,
            HeartbeatReply, ListClientSessions, SendHeartbeat, WatchRouting,
        },
    },
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{
    command::Asked,
    manager::Manager,
    raft::{Member, Peers, RaftMethod},
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
                let router = router.on::<$name, _, _>(move |body: Bytes, _| {
                    let member = answering.clone();
                    async move { member.handle(RaftMethod::$method, &body).await.map(Bytes::from) }
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

/// Everything this process serves.
pub(crate) fn routes(manager: &Arc<Manager>, member: &Arc<Member>) -> Router {
    state_routes(manager)
        .merge(session_routes(manager))
        .merge(raft_routes(member))
}

fn state_routes(manager: &Arc<Manager>) -> Router {
    let (beats, watches, creates) = (manager.clone(), manager.clone(), manager.clone());
    let (spaces, members) = (manager.clone(), manager.clone());
    Router::new()
        .on::<SendHeartbeat, _, _>(move |heartbeat, incoming| {
            let manager = beats.clone();
            async move { manager.heartbeat(&heartbeat, incoming.deadline).await }
        })
        .on::<WatchRouting, _, _>(move |request, incoming| {
            let manager = watches.clone();
            async move { manager.watch_routing(&request, incoming.deadline).await }
        })
        .on::<CreateChains, _, _>(move |request, incoming| {
            let manager = creates.clone();
            let asked = Asked {
                client: incoming.caller.client,
                request: incoming.caller.request,
            };
            async move {
                let deadline = incoming.deadline;
                manager.create_chains(&request, asked, deadline).await
            }
        })
        .on::<GetSpace, _, _>(move |(), _| std::future::ready(spaces.space()))
        .on::<GetManagers, _, _>(move |(), _| std::future::ready(Ok(members.managers())))
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
    addresses: Mutex<BTreeMap<NodeId, String>>,
}

impl NetPeers {
    pub(crate) fn new(
        endpoint: Endpoint,
        process: ClientId,
        addresses: BTreeMap<NodeId, String>,
    ) -> Self {
        Self {
            endpoint,
            // Members are not clients: nothing of theirs is stored under this id.
            caller: Caller {
                client: process,
                request: RequestId(0),
                identity: Identity::root(),
            },
            addresses: Mutex::new(addresses),
        }
    }

    fn address(&self, member: NodeId) -> Result<String, Status> {
        self.addresses.lock().get(&member).cloned().ok_or_else(|| {
            let message = format!("`members` has no address of manager {member}");
            Status::new(StatusCode::UnknownEntity, message)
        })
    }

    async fn ask<M: Rpc>(
        &self,
        member: NodeId,
        request: &M::Request,
        deadline: Instant,
    ) -> Result<M::Response, Status> {
        let address = self.address(member)?;
        self.endpoint
            .ask::<M>(&address, &self.caller, request, deadline)
            .await
    }
}

#[async_trait]
impl Peers for NetPeers {
    async fn call(
        &self,
        member: NodeId,
        method: RaftMethod,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Status> {
        match method {
            RaftMethod::Append => self.ask::<RaftAppend>(member, &body, deadline).await,
            RaftMethod::Vote => self.ask::<RaftVote>(member, &body, deadline).await,
            RaftMethod::InstallSnapshot => {
                self.ask::<RaftInstallSnapshot>(member, &body, deadline)
                    .await
            }
        }
    }

    async fn heartbeat(
        &self,
        member: NodeId,
        heartbeat: &Heartbeat,
        deadline: Instant,
    ) -> Result<HeartbeatReply, Status> {
        self.ask::<SendHeartbeat>(member, heartbeat, deadline).await
    }
}
