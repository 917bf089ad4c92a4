//! What the leader answers.

use std::time::Duration;

use types::{
    id::{ClientId, NodeId},
    node::NodeKind,
    rpc::mgmtd::{
        EndClientSession, ExtendClientSession, GetSpace, ListClientSessions, SendHeartbeat,
        WatchRouting, WatchRoutingRequest,
    },
    session::ClientSession,
    status::StatusCode,
    target::LocalState,
};

use crate::cluster::{FakeNode, Group, all_serve, plain_heartbeat};

#[tokio::test(start_paused = true)]
async fn a_watch_answers_as_soon_as_the_map_changes() {
    let group = Group::start(1).await;
    let known = group.caller.routing().await.version;
    let (asker, env) = (group.caller.clone(), group.env.clone());
    let watch = group.env.spawn("watch", async move {
        let request = WatchRoutingRequest {
            known,
            wait_ms: 4000,
        };
        let began = env.now();
        let reply = asker.ask::<WatchRouting>(&request).await.unwrap();
        (reply.routing.unwrap(), env.now() - began)
    });
    group.env.sleep(Duration::from_millis(700)).await;
    group
        .caller
        .ask::<SendHeartbeat>(&plain_heartbeat(1, 1, 1))
        .await
        .unwrap();
    let (routing, took) = watch.join().await.unwrap();
    assert!(routing.version > known && routing.nodes.contains_key(&NodeId(1)));
    assert!(took < Duration::from_millis(800), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_news_comes_back_empty() {
    let group = Group::start(1).await;
    group.env.sleep(Duration::from_secs(1)).await;
    let known = group.caller.routing().await.version;
    let request = WatchRoutingRequest {
        known,
        wait_ms: 1000,
    };
    let reply = group.caller.ask::<WatchRouting>(&request).await.unwrap();
    assert_eq!(reply.routing, None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_its_manager_stops() {
    let mut group = Group::start(1).await;
    let known = group.caller.routing().await.version;
    let asker = group.caller.clone();
    let watch = group.env.spawn("watch", async move {
        let request = WatchRoutingRequest {
            known,
            wait_ms: 4000,
        };
        asker
            .ask_at::<WatchRouting>(&crate::cluster::address(0), &request)
            .await
    });
    group.env.sleep(Duration::from_millis(50)).await;
    let began = group.env.now();
    group.stop_manager(0).await;
    assert!(group.env.now() - began < Duration::from_millis(1500));
    assert!(watch.join().await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn chains_need_enough_alive_nodes() {
    let group = Group::start(1).await;
    let _nodes: Vec<FakeNode> = (1..=2).map(|id| FakeNode::start(&group, id)).collect();
    group.env.sleep(Duration::from_millis(100)).await;
    let refused = group.create_chains(4, 3).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::Conflict);
    assert!(
        refused.message.contains("there are 2 (node 1, 2)"),
        "{refused}"
    );
    let made = group.create_chains(4, 2).await.unwrap();
    assert_eq!(made.chains.len(), 4);
    let routing = group.caller.routing_when(all_serve).await;
    assert_eq!(routing.tables.len(), 1);
    let space = group.caller.ask::<GetSpace>(&()).await.unwrap();
    assert_eq!(
        (space.capacity_bytes, space.used_bytes, space.replicas),
        (2000, 20, 2)
    );
    assert_eq!(space.disks.len(), 2);
    assert_eq!(space.targets.len(), 8);
    assert!(
        space
            .targets
            .iter()
            .all(|(_, state)| *state == LocalState::UpToDate)
    );
}

#[tokio::test(start_paused = true)]
async fn one_node_id_cannot_be_two_kinds_of_node() {
    let group = Group::start(1).await;
    group
        .caller
        .ask::<SendHeartbeat>(&plain_heartbeat(7, 1, 1))
        .await
        .unwrap();
    let mut other = plain_heartbeat(7, 2, 1);
    other.kind = NodeKind::Meta;
    let refused = group.caller.ask::<SendHeartbeat>(&other).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::Conflict);
}

#[tokio::test(start_paused = true)]
async fn client_sessions_are_listed_once_a_full_expiry_has_passed() {
    let group = Group::start(1).await;
    group.caller.routing().await;
    let session = |client| ClientSession {
        client: ClientId(client),
        description: format!("client {client}"),
    };
    let early = group
        .caller
        .ask::<ListClientSessions>(&())
        .await
        .unwrap_err();
    assert_eq!(early.code, StatusCode::NotReady);
    for _ in 0..7 {
        for client in 1..=3 {
            group
                .caller
                .ask::<ExtendClientSession>(&session(client))
                .await
                .unwrap();
        }
        group.env.sleep(Duration::from_secs(10)).await;
    }
    let listed = group.caller.ask::<ListClientSessions>(&()).await.unwrap();
    assert_eq!(listed, [session(1), session(2), session(3)]);
    group
        .caller
        .ask::<EndClientSession>(&ClientId(2))
        .await
        .unwrap();
    let listed = group.caller.ask::<ListClientSessions>(&()).await.unwrap();
    assert_eq!(listed, [session(1), session(3)]);
}
