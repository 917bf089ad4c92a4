//! The manager group itself: starting, restarting, losing members.

use std::time::Duration;

use common::{env::Env, shutdown::Shutdown};
use mgmtd::MgmtdConfig;
use types::{
    node::NodeKind,
    rpc::mgmtd::{GetManagers, SendHeartbeat, WatchRouting, WatchRoutingRequest},
    status::{Detail, StatusCode},
    version::RoutingVersion,
};

use crate::cluster::{Group, address, plain_heartbeat};

#[tokio::test(start_paused = true)]
async fn a_single_manager_serves_at_once_and_keeps_its_versions_over_restarts() {
    let mut group = Group::start(1).await;
    let began = group.env.now();
    let mut last = RoutingVersion(0);
    for round in 1..=3_u32 {
        for id in 1..=5 {
            let mut heartbeat = plain_heartbeat(id, u64::from(round), 1);
            heartbeat.addresses = vec![format!("mem://storage-{id}-{round}")];
            group.caller.ask::<SendHeartbeat>(&heartbeat).await.unwrap();
        }
        if round == 1 {
            let took = group.env.now() - began;
            assert!(took < Duration::from_millis(300), "{took:?}");
        }
        let before = group.caller.routing().await;
        assert!(before.version > last);
        assert_eq!(before.nodes.len(), 6);
        last = before.version;
        group.stop_manager(0).await;
        group.start_manager(0).await;
        let after = group.caller.routing().await;
        assert!(after.version >= last);
        assert_eq!(after.chains, before.chains);
        assert_eq!(after.nodes.len(), before.nodes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_and_a_cut_log_hold_the_same_state() {
    let mut group = Group::start_with(1, 8).await;
    for number in 1..=40_u64 {
        let mut heartbeat = plain_heartbeat(1, 1, number);
        heartbeat.addresses = vec![format!("mem://moved-{number}")];
        group.caller.ask::<SendHeartbeat>(&heartbeat).await.unwrap();
    }
    let before = group.caller.routing().await;
    group.stop_manager(0).await;
    assert!(group.data(0).join("raft.snapshot").exists());
    group.start_manager(0).await;
    let after = group.caller.routing().await;
    assert_eq!(after.nodes, before.nodes);
    assert_eq!(after.version, before.version);
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_followed_within_two_seconds_and_catches_up_by_a_snapshot() {
    let mut group = Group::start_with(3, 8).await;
    let mut number = 0;
    let mut last = RoutingVersion(0);
    for round in 0..4 {
        for _ in 0..20 {
            number += 1;
            let mut heartbeat = plain_heartbeat(1, 1, number);
            heartbeat.addresses = vec![format!("mem://moved-{number}")];
            group.caller.ask::<SendHeartbeat>(&heartbeat).await.unwrap();
        }
        let before = group.caller.routing().await;
        assert!(before.version > last);
        last = before.version;
        let leader = group.leader().await;
        group.stop_manager(leader).await;
        let killed = group.env.now();
        let after = group.caller.routing().await;
        let took = group.env.now() - killed;
        assert!(took < Duration::from_secs(2), "round {round}: {took:?}");
        assert!(after.version >= before.version);
        assert_eq!(
            after.nodes[&types::id::NodeId(1)],
            before.nodes[&types::id::NodeId(1)]
        );
        // The others move on, far beyond what the log keeps; then the lost one returns.
        for _ in 0..30 {
            number += 1;
            let mut heartbeat = plain_heartbeat(1, 1, number);
            heartbeat.addresses = vec![format!("mem://moved-{number}")];
            group.caller.ask::<SendHeartbeat>(&heartbeat).await.unwrap();
        }
        group.start_manager(leader).await;
        group.env.sleep(Duration::from_secs(3)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_three_restart_without_loss() {
    let mut group = Group::start(3).await;
    for id in 1..=3 {
        group
            .caller
            .ask::<SendHeartbeat>(&plain_heartbeat(id, 1, 1))
            .await
            .unwrap();
    }
    let before = group.caller.routing().await;
    for index in 0..3 {
        group.stop_manager(index).await;
    }
    for index in 0..3 {
        group.start_manager(index).await;
    }
    let after = group.caller.routing().await;
    assert!(after.version >= before.version);
    for id in 1..=3 {
        assert!(after.nodes.contains_key(&types::id::NodeId(id)));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_nothing_is_answered_and_readiness_says_why() {
    let mut group = Group::start(3).await;
    let leader = group.leader().await;
    let others: Vec<u32> = (0..3).filter(|index| *index != leader).collect();
    for index in &others {
        group.stop_manager(*index).await;
    }
    group.env.sleep(Duration::from_secs(1)).await;
    let request = WatchRoutingRequest {
        known: RoutingVersion(0),
        wait_ms: 0,
    };
    let refused = group
        .caller
        .ask_at::<WatchRouting>(&address(leader), &request)
        .await;
    assert_eq!(refused.unwrap_err().code, StatusCode::NotLeader);
    let refused = group
        .caller
        .ask_at::<SendHeartbeat>(&address(leader), &plain_heartbeat(1, 1, 1))
        .await;
    assert_eq!(refused.unwrap_err().code, StatusCode::NotLeader);
    group.env.sleep(Duration::from_secs(2)).await;
    let reasons = group.manager(leader).readiness().reasons();
    assert!(reasons["raft"].contains("2 of 3 managers"), "{reasons:?}");
    // One more makes a majority again.
    group.start_manager(others[0]).await;
    group.caller.routing().await;
}

#[tokio::test(start_paused = true)]
async fn followers_name_the_leader_and_managers_stand_in_the_map() {
    let group = Group::start(3).await;
    let leader = group.leader().await;
    let follower = (leader + 1) % 3;
    // Time for the followers to hear of it.
    group.env.sleep(Duration::from_secs(1)).await;
    let request = WatchRoutingRequest {
        known: RoutingVersion(0),
        wait_ms: 0,
    };
    let refused = group
        .caller
        .ask_at::<WatchRouting>(&address(follower), &request)
        .await
        .unwrap_err();
    assert_eq!(refused.code, StatusCode::NotLeader);
    assert_eq!(refused.detail, Detail::Leader(address(leader)));
    let managers = group
        .caller
        .ask_at::<GetManagers>(&address(follower), &())
        .await
        .unwrap();
    assert_eq!(managers.members.len(), 3);
    assert_eq!(managers.leader, Some(managers.members[leader as usize].0));
    let routing = group
        .caller
        .routing_when(|routing| routing.nodes.len() == 3)
        .await;
    assert!(
        routing
            .nodes
            .values()
            .all(|node| node.kind == NodeKind::Mgmtd)
    );
}

#[tokio::test]
async fn a_manager_on_tcp_starts_in_real_time_and_refuses_a_second_one_on_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let shutdown = Shutdown::new();
    let config = MgmtdConfig {
        listen: "127.0.0.1:0".to_owned(),
        data: dir.path().join("data"),
        ..MgmtdConfig::default()
    };
    let running = mgmtd::serve(config.clone(), env.clone(), shutdown.clone())
        .await
        .unwrap();
    let began = env.now();
    while !running.readiness().reasons().is_empty() {
        assert!(
            env.now() - began < Duration::from_secs(5),
            "{:?}",
            running.readiness()
        );
        env.sleep(Duration::from_millis(5)).await;
    }
    let second = mgmtd::serve(config, env.clone(), Shutdown::new())
        .await
        .unwrap_err();
    assert!(second.to_string().contains("in use by process"), "{second}");
    shutdown.trigger();
    running.join().await;
}
