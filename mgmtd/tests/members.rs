//! The manager group grows, shrinks and replaces its members while it works.

use std::time::Duration;

use types::{
    id::NodeId,
    rpc::mgmtd::{
        AddManager, AddManagerRequest, GetManagers, ManagersReply, RemoveManager,
        RemoveManagerRequest, SendHeartbeat,
    },
    status::{Status, StatusCode},
    version::RoutingVersion,
};

use crate::cluster::{Group, address, manager_id, plain_heartbeat};

async fn add(group: &Group, index: u32) -> Result<(), Status> {
    let request = AddManagerRequest {
        id: manager_id(index),
        address: address(index),
    };
    group.caller.ask::<AddManager>(&request).await
}

async fn remove(group: &Group, index: u32) -> Result<(), Status> {
    let id = manager_id(index);
    group
        .caller
        .ask::<RemoveManager>(&RemoveManagerRequest { id })
        .await
}

async fn managers(group: &Group, index: u32) -> ManagersReply {
    let address = address(index);
    let give_up = group.env.now() + Duration::from_secs(5);
    loop {
        match group.caller.ask_at::<GetManagers>(&address, &()).await {
            Ok(reply) => return reply,
            // Nobody was there when it was asked last; a connection pauses before it is made anew.
            Err(status) => assert!(group.env.now() < give_up, "{status}"),
        }
        group.env.sleep(Duration::from_millis(20)).await;
    }
}

/// Changes of the map that must never be lost: node 1 moves again and again.
struct Writes {
    number: u64,
}

impl Writes {
    async fn write(&mut self, group: &Group) -> RoutingVersion {
        self.number += 1;
        let mut heartbeat = plain_heartbeat(1, 1, self.number);
        heartbeat.addresses = vec![format!("mem://moved-{}", self.number)];
        let reply = group.caller.ask::<SendHeartbeat>(&heartbeat).await;
        reply.unwrap().routing_version
    }

    async fn check(&self, group: &Group) {
        let routing = group.caller.routing().await;
        let addresses = &routing.nodes[&NodeId(1)].addresses;
        assert_eq!(addresses, &[format!("mem://moved-{}", self.number)]);
    }
}

async fn members_are(group: &Group, indices: &[u32]) {
    let expected: Vec<(NodeId, String)> = indices
        .iter()
        .map(|index| (manager_id(*index), address(*index)))
        .collect();
    for index in indices {
        let give_up = group.env.now() + Duration::from_secs(10);
        loop {
            let reply = managers(group, *index).await;
            if reply.members == expected && reply.learners.is_empty() {
                break;
            }
            assert!(group.env.now() < give_up, "{index}: {reply:?}");
            group.env.sleep(Duration::from_millis(50)).await;
        }
    }
    // Those who are gone leave the map, too.
    let ids: Vec<NodeId> = expected.iter().map(|(id, _)| *id).collect();
    let routing = group
        .caller
        .routing_when(|routing| {
            let there: Vec<NodeId> = routing.nodes.keys().copied().collect();
            there.iter().filter(|id| id.0 > 200).eq(ids.iter())
        })
        .await;
    assert_eq!(routing.nodes[&NodeId(1)].id, NodeId(1));
}

#[tokio::test(start_paused = true)]
async fn one_manager_becomes_three_one_is_replaced_and_all_restart() {
    let mut group = Group::start_with(1, 8).await;
    let mut writes = Writes { number: 0 };
    let mut last = RoutingVersion(0);
    for index in [1, 2] {
        // More than the log keeps: the new one gets a snapshot.
        for _ in 0..20 {
            let version = writes.write(&group).await;
            assert!(version > last);
            last = version;
        }
        group.start_joining(index).await;
        let waits = group.manager(index).readiness().reasons();
        assert!(waits["raft"].contains("admin manager add"), "{waits:?}");
        add(&group, index).await.unwrap();
        writes.write(&group).await;
    }
    members_are(&group, &[0, 1, 2]).await;
    // Any one of three may go now; the first was the only one before.
    group.stop_manager(0).await;
    writes.write(&group).await;
    writes.check(&group).await;
    // It is replaced while it is away.
    group.start_joining(3).await;
    add(&group, 3).await.unwrap();
    remove(&group, 0).await.unwrap();
    members_are(&group, &[1, 2, 3]).await;
    writes.write(&group).await;
    for index in [1, 2, 3] {
        group.stop_manager(index).await;
    }
    for index in [1, 2, 3] {
        group.start_joining(index).await;
    }
    writes.check(&group).await;
    assert!(writes.write(&group).await > last);
    members_are(&group, &[1, 2, 3]).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_removed_is_followed_by_another() {
    let mut group = Group::start(3).await;
    let mut writes = Writes { number: 0 };
    writes.write(&group).await;
    // Time for all to announce themselves.
    group
        .caller
        .routing_when(|routing| routing.nodes.len() == 4)
        .await;
    let leader = group.leader().await;
    let began = group.env.now();
    remove(&group, leader).await.unwrap();
    writes.write(&group).await;
    let took = group.env.now() - began;
    assert!(took < Duration::from_secs(3), "{took:?}");
    writes.check(&group).await;
    let rest: Vec<u32> = (0..3).filter(|index| *index != leader).collect();
    members_are(&group, &rest).await;
    // What was removed still runs; it says so, and does not come back by itself.
    group.env.sleep(Duration::from_secs(2)).await;
    let reasons = group.manager(leader).readiness().reasons();
    assert!(reasons["raft"].contains("removed"), "{reasons:?}");
    members_are(&group, &rest).await;
    group.stop_manager(leader).await;
    let error = group.try_start(leader).await.unwrap_err().to_string();
    assert!(
        error.contains("was removed") && error.contains("join = true"),
        "{error}"
    );
    // Removed again: as it is already, so nothing but an answer that says so.
    let again = remove(&group, leader).await.unwrap_err();
    assert_eq!(again.code, StatusCode::UnknownEntity);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_removed_says_so_and_disturbs_nobody() {
    let group = Group::start(3).await;
    let mut writes = Writes { number: 0 };
    writes.write(&group).await;
    group
        .caller
        .routing_when(|routing| routing.nodes.len() == 4)
        .await;
    let leader = group.leader().await;
    let removed = (leader + 1) % 3;
    remove(&group, removed).await.unwrap();
    for _ in 0..20 {
        group.env.sleep(Duration::from_millis(500)).await;
        writes.write(&group).await;
        assert_eq!(group.leader().await, leader, "the leader stays");
    }
    let reasons = group.manager(removed).readiness().reasons();
    assert!(reasons["raft"].contains("removed"), "{reasons:?}");
    let rest: Vec<u32> = (0..3).filter(|index| *index != removed).collect();
    members_are(&group, &rest).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_never_falls_below_a_majority_that_is_alive() {
    let mut group = Group::start(3).await;
    let mut writes = Writes { number: 0 };
    writes.write(&group).await;
    group
        .caller
        .routing_when(|routing| routing.nodes.len() == 4)
        .await;
    let leader = group.leader().await;
    let others: Vec<u32> = (0..3).filter(|index| *index != leader).collect();
    group.stop_manager(others[0]).await;
    group
        .caller
        .routing_when(|routing| {
            routing.nodes[&manager_id(others[0])].status == types::node::NodeStatus::Failed
        })
        .await;
    let refused = remove(&group, others[1]).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::Conflict);
    assert!(refused.message.contains("2 are needed"), "{refused}");
    // The one that is dead may go.
    remove(&group, others[0]).await.unwrap();
    writes.write(&group).await;
    let mut rest = [leader, others[1]];
    rest.sort_unstable();
    members_are(&group, &rest).await;
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_is_not_there_gets_no_vote() {
    let mut group = Group::start(1).await;
    let mut writes = Writes { number: 0 };
    writes.write(&group).await;
    let refused = add(&group, 1).await.unwrap_err();
    assert_eq!(refused.code, StatusCode::Conflict);
    assert!(refused.message.contains("join = true"), "{refused}");
    writes.write(&group).await;
    let reply = managers(&group, 0).await;
    assert_eq!(reply.members, [(manager_id(0), address(0))]);
    assert_eq!(reply.learners, [(manager_id(1), address(1))]);
    // It starts, and asking again finishes what was begun.
    group.start_joining(1).await;
    add(&group, 1).await.unwrap();
    members_are(&group, &[0, 1]).await;
}

#[tokio::test(start_paused = true)]
async fn two_managers_do_not_share_an_id_or_an_address() {
    let group = Group::start(1).await;
    let mut writes = Writes { number: 0 };
    writes.write(&group).await;
    let ask = |id: u32, address: String| {
        let id = NodeId(id);
        let request = AddManagerRequest { id, address };
        let caller = group.caller.clone();
        async move { caller.ask::<AddManager>(&request).await.unwrap_err() }
    };
    let storage_node = ask(1, address(5)).await;
    assert_eq!(storage_node.code, StatusCode::Conflict);
    let taken = ask(299, address(0)).await;
    assert!(taken.message.contains("its own address"), "{taken}");
    let member = ask(manager_id(0).0, address(7)).await;
    assert!(member.message.contains("already"), "{member}");
    let nowhere = ask(299, String::new()).await;
    assert_eq!(nowhere.code, StatusCode::InvalidArgument);
}
