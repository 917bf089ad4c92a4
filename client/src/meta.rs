//! Calls to the metadata servers: any of them serves any request; one that answers is kept.
//!
//! A request keeps its id over all its retries, so that the server runs a change once (protocol N2).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::env::{Env, Instant};
use net::Endpoint;
use types::{
    id::{ClientId, RequestId},
    node::{NodeKind, NodeStatus},
    routing::RoutingInfo,
    rpc::{Caller, Rpc},
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{
    retry::{OPERATION_LIMIT, Retries, is_silence},
    routing_cache::RoutingCache,
};

/// A server that does not answer for this long is left. A truncate may have to remove many chunks first.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MetaClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    env: Env,
    endpoint: Endpoint,
    routing: RoutingCache,
    client: ClientId,
    next_request: AtomicU64,
    /// Which of the servers is asked; moves on when one fails.
    choice: AtomicUsize,
}

impl MetaClient {
    /// A client of the metadata servers in the map.
    pub fn new(env: &Env, endpoint: Endpoint, routing: RoutingCache, client: ClientId) -> Self {
        Self(Arc::new(Shared {
            env: env.clone(),
            endpoint,
            routing,
            client,
            next_request: AtomicU64::new(1),
            choice: AtomicUsize::new(0),
        }))
    }

    /// Asks on behalf of `identity`, with the default deadline [60 s].
    ///
    /// # Errors
    /// The server's answer, or why none came in time.
    pub async fn call<M: Rpc>(
        &self,
        identity: &Identity,
        request: &M::Request,
    ) -> Result<M::Response, Status> {
        let deadline = self.0.env.now() + OPERATION_LIMIT;
        self.call_until::<M>(identity, request, deadline).await
    }

    /// Asks on behalf of `identity` until `deadline`.
    ///
    /// # Errors
    /// The server's answer, or why none came in time.
    pub async fn call_until<M: Rpc>(
        &self,
        identity: &Identity,
        request: &M::Request,
        deadline: Instant,
    ) -> Result<M::Response, Status> {
        let shared = &*self.0;
        let caller = Caller {
            client: shared.client,
            request: RequestId(shared.next_request.fetch_add(1, Ordering::Relaxed)),
            identity: identity.clone(),
        };
        let mut retries = Retries::new(&shared.env, &shared.routing, M::NAME, deadline);
        loop {
            let map = shared.routing.current();
            let choice = shared.choice.load(Ordering::Relaxed);
            let result = match pick(&map, choice) {
                Some(address) => {
                    let until = retries.attempt_deadline(ATTEMPT_LIMIT);
                    let asked = shared.endpoint.ask::<M>(address, &caller, request, until);
                    asked.await
                }
                None => Err(Status::new(
                    StatusCode::Unreachable,
                    "no metadata server has registered",
                )),
            };
            let status = match result {
                Ok(response) => return Ok(response),
                // Only the writer itself can act on it: it reads the inode again.
                Err(status) if status.code == StatusCode::TruncateVersionMismatch => {
                    return Err(status);
                }
                Err(status) => status,
            };
            if is_silence(status.code) || status.code == StatusCode::NotReady {
                // Callers that failed together move on by one server together.
                let next = choice.wrapping_add(1);
                let _moved_already = shared
                    .choice
                    .compare_exchange(choice, next, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err();
            }
            retries.wait(status, map.version).await?;
        }
    }
}

/// The address of the server whose turn it is: among those alive, else among all.
fn pick(map: &RoutingInfo, choice: usize) -> Option<&str> {
    let servers = |alive_only: bool| {
        map.nodes
            .values()
            .filter(move |node| {
                node.kind == NodeKind::Meta && (!alive_only || node.status == NodeStatus::Alive)
            })
            .filter_map(|node| node.addresses.first())
            .collect::<Vec<_>>()
    };
    let mut servers_now = servers(true);
    if servers_now.is_empty() {
        servers_now = servers(false);
    }
    let index = choice % servers_now.len().max(1);
    servers_now.get(index).map(|address| address.as_str())
}

#[cfg(test)]
mod tests {
    use common::{buf::BufPool, shutdown::Shutdown, sync::Mutex};
    use net::{MemNetwork, NetConfig, Router, Transports};
    use types::{
        id::NodeId,
        node::Node,
        rpc::meta::{StatFs, StatFsReply},
        version::RoutingVersion,
    };

    use super::*;

    fn node(id: u32, kind: NodeKind, status: NodeStatus) -> (NodeId, Node) {
        let node = Node {
            id: NodeId(id),
            kind,
            addresses: vec![format!("node-{id}")],
            tags: Vec::new(),
            status,
        };
        (NodeId(id), node)
    }

    #[test]
    fn only_metadata_servers_that_live_are_asked_while_there_are_any() {
        let mut map = RoutingInfo::default();
        assert_eq!(pick(&map, 3), None);
        map.nodes
            .extend([node(1, NodeKind::Storage, NodeStatus::Alive)]);
        map.nodes
            .extend([node(2, NodeKind::Meta, NodeStatus::Failed)]);
        assert_eq!(pick(&map, 0), Some("node-2"));
        map.nodes
            .extend([node(3, NodeKind::Meta, NodeStatus::Alive)]);
        map.nodes
            .extend([node(4, NodeKind::Meta, NodeStatus::Alive)]);
        assert_eq!(pick(&map, 0), Some("node-3"));
        assert_eq!(pick(&map, 1), Some("node-4"));
        assert_eq!(pick(&map, 2), Some("node-3"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_keeps_its_id_over_servers_and_retries() {
        let env = Env::seeded(3);
        let transports = Transports::with_mem(MemNetwork::new());
        let endpoint = Endpoint::new(&env, transports, BufPool::new(0), NetConfig::default());
        let (routing, shutdown) = (RoutingCache::detached(&env), Shutdown::new());
        let callers = Arc::new(Mutex::new(Vec::new()));
        let mut map = RoutingInfo {
            version: RoutingVersion(1),
            ..Default::default()
        };
        // Node 1 is dead; node 2 answers the third time.
        for id in [1, 2] {
            let (id, mut node) = node(id, NodeKind::Meta, NodeStatus::Alive);
            node.addresses = vec![format!("mem://{id}")];
            map.nodes.insert(id, node);
        }
        routing.offer(map);
        let seen = callers.clone();
        let router = Router::new().on::<StatFs, _, _>(move |(), incoming| {
            let mut seen = seen.lock();
            seen.push(incoming.caller.clone());
            let busy = Status::new(StatusCode::TransactionConflict, "conflict");
            std::future::ready(match seen.len() {
                1 | 2 => Err(busy),
                _ => Ok(StatFsReply::default()),
            })
        });
        let served = endpoint.serve("mem://2", Arc::new(router), shutdown.signal());
        drop(served.await.unwrap());
        let client = MetaClient::new(&env, endpoint, routing, ClientId(9));
        let identity = Identity {
            uid: 5,
            ..Identity::default()
        };
        for _ in 0..2 {
            client.call::<StatFs>(&identity, &()).await.unwrap();
        }
        let callers = callers.lock();
        assert_eq!(callers.len(), 4);
        assert!(callers.iter().all(|caller| caller.identity == identity));
        assert!(callers[..3].iter().all(|caller| caller == &callers[0]));
        assert_ne!(callers[3].request, callers[0].request);
    }
}
