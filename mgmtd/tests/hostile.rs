//! Requests that make no sense, to a manager that leads: none harms it, and what it knows stays.

use std::time::Duration;

use common::panics;
use net::{
    Bulk,
    hostile::{Case, Hostile, Victim, assault, peak_memory},
};
use types::{
    id::{BootId, ChainTableId, ClientId, DiskIndex, NodeId, RequestId, TargetId},
    node::NodeKind,
    rpc::{
        Caller, Service,
        mgmtd::{
            CreateChains, CreateChainsRequest, DiskReport, EndClientSession, ExtendClientSession,
            GetManagers, GetSpace, Heartbeat, ListClientSessions, SendHeartbeat, TargetReport,
            WatchRouting, WatchRoutingRequest,
        },
    },
    session::ClientSession,
    status::StatusCode,
    target::LocalState,
    user::Identity,
    version::{ChainVersion, HeartbeatNumber, RoutingVersion},
};

use crate::cluster::{FakeNode, Group, address, all_serve, plain_heartbeat};

/// A manager that believed what is announced would hold gigabytes.
const GROWTH_MAX: u64 = 512 << 20;

fn heartbeat() -> Heartbeat {
    Heartbeat {
        node: NodeId(900),
        kind: NodeKind::Storage,
        boot: BootId(5),
        number: HeartbeatNumber(3),
        addresses: vec!["mem://stranger".to_owned()],
        tags: vec!["rack=1".to_owned()],
        disks: vec![DiskReport {
            disk: DiskIndex(0),
            capacity_bytes: 1000,
            used_bytes: 10,
            failure: Some("a reason".to_owned()),
        }],
        // A target of another node.
        targets: vec![TargetReport {
            target: TargetId(1),
            chain_version: ChainVersion(1),
            state: LocalState::Offline,
            used_bytes: 7,
        }],
        routing_version: RoutingVersion(3),
    }
}

fn cases() -> Vec<Case> {
    let session = ClientSession {
        client: ClientId(77),
        description: "a stranger".to_owned(),
    };
    vec![
        Case::of::<SendHeartbeat>(heartbeat()),
        Case::of::<WatchRouting>(WatchRoutingRequest {
            known: RoutingVersion(9),
            wait_ms: 50,
        }),
        Case::of::<ExtendClientSession>(session),
        Case::of::<EndClientSession>(ClientId(77)),
        Case::of::<ListClientSessions>(()),
        // More replicas than there are nodes, unless it is distorted.
        Case::of::<CreateChains>(CreateChainsRequest {
            table: ChainTableId(2),
            count: 3,
            replicas: 7,
        }),
        Case::of::<GetSpace>(()),
        Case::of::<GetManagers>(()),
    ]
}

/// Methods that do not exist, and those of the members among themselves, from somebody who is none.
fn foreign() -> Vec<Case> {
    let raft = (0..5).map(|method| (Service::Raft as u16, method));
    let others = [
        (Service::Mgmtd as u16, 999),
        (Service::Storage as u16, 1),
        (9999, 1),
    ];
    let numbers = raft.chain(others);
    numbers
        .map(|(service, method)| {
            let mut case = Case::of::<SendHeartbeat>(heartbeat());
            (case.method.service, case.method.method) = (service, method);
            case
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn nonsense_at_every_method_of_a_manager_changes_nothing_of_other_nodes() {
    panics::watch();
    let before = peak_memory();
    let group = Group::start(1).await;
    let _nodes: Vec<FakeNode> = (11..=13).map(|id| FakeNode::start(&group, id)).collect();
    group.env.sleep(Duration::from_millis(100)).await;
    group.create_chains(4, 3).await.unwrap();
    let kept = group.caller.routing_when(all_serve).await;
    let endpoint = group.caller.endpoint();
    let caller = Caller {
        client: ClientId(13),
        request: RequestId(2),
        identity: Identity::root(),
    };
    let address = address(0);
    let victim = Victim {
        env: &group.env,
        endpoint: &endpoint,
        address: &address,
        caller: &caller,
        limit: Duration::from_millis(300),
    };
    let hostile = Hostile::new(3);
    let mut cases = cases();
    cases.extend(foreign());
    let tally = assault(&victim, &cases, &hostile, &|_| Bulk::default()).await;
    assert!(tally.served > 50, "{tally:?}");
    assert!(
        tally.refused.contains_key(&StatusCode::Malformed),
        "{tally:?}"
    );
    assert_eq!(panics::take(), Vec::<String>::new());
    let now = group.caller.routing().await;
    for (id, chain) in &kept.chains {
        assert_eq!(now.chains.get(id), Some(chain));
    }
    for (id, node) in kept
        .nodes
        .iter()
        .filter(|(id, _)| (11..=13).contains(&id.0))
    {
        assert_eq!(now.nodes.get(id), Some(node));
    }
    let growth = peak_memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_would_fill_the_leaders_memory_is_refused() {
    let group = Group::start(1).await;
    let report = heartbeat().targets[0].clone();
    let mut many = plain_heartbeat(7, 1, 1);
    many.targets = vec![report; 100_000];
    let refused = group.caller.ask::<SendHeartbeat>(&many).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::InvalidArgument);
    let mut disks = plain_heartbeat(7, 1, 1);
    disks.disks = vec![heartbeat().disks[0].clone(); 257];
    let refused = group.caller.ask::<SendHeartbeat>(&disks).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::InvalidArgument);
    let mut long = plain_heartbeat(7, 1, 1);
    long.disks = heartbeat().disks;
    long.disks[0].failure = Some("x".repeat(1 << 20));
    let refused = group.caller.ask::<SendHeartbeat>(&long).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::InvalidArgument);
}
