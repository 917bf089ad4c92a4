//! Nodes die and return: when chains change, and what they change to.

use std::time::Duration;

use types::{
    id::NodeId,
    node::{NodeKind, NodeStatus},
    routing::RoutingInfo,
    target::PublicState::{LastServing, Offline, Serving},
};

use crate::cluster::{FIRST_VERSION, FakeNode, Group, all_serve, chain, states};

async fn three_nodes(group: &Group) -> Vec<FakeNode> {
    let nodes = (1..=3).map(|id| FakeNode::start(group, id)).collect();
    let alive = |routing: &RoutingInfo| {
        let nodes = routing.nodes.values();
        nodes.filter(|node| node.kind == NodeKind::Storage).count() == 3
    };
    group.caller.routing_when(alive).await;
    nodes
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_leaves_its_chain_after_lease_and_margin_and_returns_through_a_refill() {
    let group = Group::start(1).await;
    let mut nodes = three_nodes(&group).await;
    group.create_chains(1, 3).await.unwrap();
    let before = group.caller.routing_when(all_serve).await;
    assert_eq!(chain(&before, 1).version, FIRST_VERSION);
    let victim = before.targets[&chain(&before, 1).targets[1].id].node;
    let node = nodes.remove(usize::try_from(victim.0).unwrap() - 1);
    let last = node.last_reply.lock().clone().unwrap().0;
    node.kill();

    let killed = group.env.now();
    let after = group
        .caller
        .routing_when(|routing| chain(routing, 1).version > FIRST_VERSION)
        .await;
    let now = group.env.now();
    assert!(
        now - last >= Duration::from_millis(2500),
        "{:?}",
        now - last
    );
    assert!(
        now - killed <= Duration::from_millis(3200),
        "{:?}",
        now - killed
    );
    assert_eq!(after.nodes[&victim].status, NodeStatus::Failed);
    let all: Vec<_> = states(chain(&after, 1))
        .into_iter()
        .map(|(_, state)| state)
        .collect();
    assert_eq!(all, [Serving, Serving, Offline]);

    nodes.push(FakeNode::start(&group, victim.0));
    let healed = group.caller.routing_when(all_serve).await;
    assert_eq!(healed.nodes[&victim].status, NodeStatus::Alive);
    assert!(chain(&healed, 1).version > chain(&after, 1).version);
}

#[tokio::test(start_paused = true)]
async fn a_quick_restart_is_noticed_at_once() {
    let group = Group::start(1).await;
    let mut nodes = three_nodes(&group).await;
    group.create_chains(1, 3).await.unwrap();
    group.caller.routing_when(all_serve).await;
    nodes.remove(0).kill();
    let killed = group.env.now();
    nodes.push(FakeNode::start(&group, 1));
    group
        .caller
        .routing_when(|routing| chain(routing, 1).version > FIRST_VERSION)
        .await;
    let took = group.env.now() - killed;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    group.caller.routing_when(all_serve).await;
}

#[tokio::test(start_paused = true)]
async fn when_all_nodes_die_at_once_all_targets_are_last_serving_and_the_first_back_serves() {
    let group = Group::start(1).await;
    let nodes = three_nodes(&group).await;
    group.create_chains(1, 3).await.unwrap();
    group.caller.routing_when(all_serve).await;
    // Heartbeats that are granted at different moments run out at different moments, so die in step.
    for node in nodes {
        node.kill();
    }
    let all_last = |routing: &RoutingInfo| {
        let states = states(chain(routing, 1));
        states.iter().all(|(_, state)| *state == LastServing)
    };
    let dead = group.caller.routing_when(all_last).await;
    assert!(
        dead.nodes
            .values()
            .filter(|node| node.kind == NodeKind::Storage)
            .all(|node| node.status == NodeStatus::Failed)
    );
    // Any of them holds everything.
    let _back = FakeNode::start(&group, 2);
    let back = group
        .caller
        .routing_when(|routing| chain(routing, 1).head().is_some())
        .await;
    let head = chain(&back, 1).head().unwrap();
    assert_eq!(back.targets[&head].node, NodeId(2));
    let others = states(chain(&back, 1))
        .into_iter()
        .filter(|(id, _)| *id != head);
    assert!(others.into_iter().all(|(_, state)| state == Offline));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_keeps_healthy_chains_as_they_are() {
    let mut group = Group::start(3).await;
    let _nodes = three_nodes(&group).await;
    group.create_chains(4, 2).await.unwrap();
    let before = group.caller.routing_when(all_serve).await;
    let leader = group.leader().await;
    group.stop_manager(leader).await;
    group.env.sleep(Duration::from_secs(10)).await;
    let after = group.caller.routing().await;
    assert!(after.version >= before.version);
    assert_eq!(after.chains, before.chains);
    let storage = |routing: &RoutingInfo| {
        let nodes = routing.nodes.values();
        nodes
            .filter(|node| node.kind == NodeKind::Storage)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(storage(&after), storage(&before));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dies_with_the_leader_leaves_its_chain_too() {
    let mut group = Group::start(3).await;
    let mut nodes = three_nodes(&group).await;
    group.create_chains(1, 3).await.unwrap();
    group.caller.routing_when(all_serve).await;
    let leader = group.leader().await;
    nodes.remove(2).kill();
    let killed = group.env.now();
    group.stop_manager(leader).await;
    let after = group
        .caller
        .routing_when(|routing| chain(routing, 1).version > FIRST_VERSION)
        .await;
    let took = group.env.now() - killed;
    assert_eq!(after.nodes[&NodeId(3)].status, NodeStatus::Failed);
    assert!(
        took >= Duration::from_millis(2500) && took < Duration::from_secs(5),
        "{took:?}"
    );
}
