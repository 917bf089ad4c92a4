//! An operator changes chains that nodes work by.

use std::time::Duration;

use types::{
    id::{ChainId, ChainTableId, DiskIndex, NodeId, TargetId},
    rpc::{
        mgmtd::{
            AddTarget, AppendTable, ForceLastServing, GetSpace, ListLosses, RemoveTarget,
            RotateChain, SetPreferred,
        },
        operator::{
            AddTargetRequest, AppendTableRequest, CopiesPolicy, ForceLastServingRequest,
            LossPolicy, RemoveTargetRequest, RotateChainRequest, SetPreferredRequest,
        },
    },
    status::StatusCode,
    target::PublicState::{LastServing, Offline, Serving},
    version::ChainTableVersion,
};

use crate::cluster::{FakeNode, Group, all_serve, chain, states};

/// Four nodes, and one chain over three of them, with the node that has no target of it.
async fn four_nodes(group: &Group) -> (Vec<FakeNode>, NodeId) {
    let nodes: Vec<FakeNode> = (1..=4).map(|id| FakeNode::start(group, id)).collect();
    group
        .caller
        .routing_when(|routing| routing.nodes.len() == 5)
        .await;
    // A leader makes chains once all nodes have reported.
    group.create_chains(1, 3).await.unwrap();
    let routing = group.caller.routing_when(all_serve).await;
    let used: Vec<NodeId> = routing.targets.values().map(|target| target.node).collect();
    let free = (1..=4).map(NodeId).find(|node| !used.contains(node));
    (nodes, free.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_target_is_added_filled_and_then_an_old_one_removed() {
    let group = Group::start(1).await;
    let (mut nodes, free) = four_nodes(&group).await;
    let wrong_disk = AddTargetRequest {
        chain: ChainId(1),
        node: free,
        disk: DiskIndex(3),
    };
    let refused = group
        .caller
        .ask::<AddTarget>(&wrong_disk)
        .await
        .unwrap_err();
    assert_eq!(refused.code, StatusCode::UnknownEntity);
    let request = AddTargetRequest {
        disk: DiskIndex(0),
        ..wrong_disk
    };
    let added = group.caller.ask::<AddTarget>(&request).await.unwrap();
    let routing = group
        .caller
        .routing_when(|routing| chain(routing, 1).state_of(added.target) == Some(Serving))
        .await;
    assert!(routing.targets[&added.target].created);
    assert_eq!(chain(&routing, 1).serving().count(), 4);
    // One copy more while one is replaced makes no space smaller.
    let space = group.caller.ask::<GetSpace>(&()).await.unwrap();
    assert_eq!(space.replicas, 3);
    let old = chain(&routing, 1).head().unwrap();
    let node = routing.targets[&old].node;
    nodes.remove(node.0 as usize - 1).kill();
    let gone =
        |routing: &types::routing::RoutingInfo| chain(routing, 1).state_of(old) == Some(Offline);
    group.caller.routing_when(gone).await;
    let remove = RemoveTargetRequest {
        target: old,
        copies: CopiesPolicy::Keep,
    };
    group.caller.ask::<RemoveTarget>(&remove).await.unwrap();
    let routing = group.caller.routing().await;
    assert!(!routing.targets.contains_key(&old));
    assert_eq!(chain(&routing, 1).serving().count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_rotation_goes_step_by_step_to_the_preferred_order() {
    let group = Group::start(1).await;
    let (_nodes, _) = four_nodes(&group).await;
    let routing = group.caller.routing().await;
    let mut order: Vec<TargetId> = chain(&routing, 1).serving().collect();
    order.reverse();
    let preferred = SetPreferredRequest {
        chain: ChainId(1),
        order: order.clone(),
    };
    group.caller.ask::<SetPreferred>(&preferred).await.unwrap();
    let request = RotateChainRequest { chain: ChainId(1) };
    let mut steps = 0;
    loop {
        let reply = group.caller.ask::<RotateChain>(&request).await.unwrap();
        let Some(target) = reply.target else {
            break;
        };
        steps += 1;
        // Its node takes it out; it comes back as the last one.
        let back = |routing: &types::routing::RoutingInfo| {
            let chain = chain(routing, 1);
            chain.version > reply.version && chain.last_serving() == Some(target)
        };
        group.caller.routing_when(back).await;
        group.caller.routing_when(all_serve).await;
    }
    assert_eq!(steps, 2);
    let routing = group.caller.routing().await;
    assert_eq!(chain(&routing, 1).serving().collect::<Vec<_>>(), order);
}

#[tokio::test(start_paused = true)]
async fn a_forced_change_survives_the_leader_and_is_listed() {
    let mut group = Group::start(1).await;
    let (mut nodes, free) = four_nodes(&group).await;
    let routing = group.caller.routing().await;
    let first = chain(&routing, 1).head().unwrap();
    let lost = routing.targets[&first].node;
    // All but one die, then that one, and the first to die comes back.
    let targets: Vec<TargetId> = chain(&routing, 1).serving().collect();
    let node_of = |target: &TargetId| routing.targets[target].node.0;
    let mut kill = |id: u32| nodes[id as usize - 1].stop();
    kill(node_of(&targets[1]));
    kill(node_of(&targets[2]));
    let alone = |routing: &types::routing::RoutingInfo| chain(routing, 1).serving().count() == 1;
    group.caller.routing_when(alone).await;
    kill(lost.0);
    let none = |routing: &types::routing::RoutingInfo| chain(routing, 1).head().is_none();
    group.caller.routing_when(none).await;
    let force = |loss| ForceLastServingRequest {
        chain: ChainId(1),
        target: targets[1],
        loss,
    };
    let refuse = force(LossPolicy::Refuse);
    let refused = group
        .caller
        .ask::<ForceLastServing>(&refuse)
        .await
        .unwrap_err();
    assert_eq!(refused.code, StatusCode::Conflict);
    assert!(refused.message.contains("--accept-loss"), "{refused}");
    let accept = force(LossPolicy::Accept);
    let loss = group.caller.ask::<ForceLastServing>(&accept).await.unwrap();
    assert_eq!(loss.given_up, [(first, lost, DiskIndex(0))]);
    let routing = group.caller.routing().await;
    assert_eq!(states(chain(&routing, 1))[0], (targets[1], LastServing));
    group.stop_manager(0).await;
    group.start_manager(0).await;
    let listed = group.caller.ask::<ListLosses>(&()).await.unwrap();
    assert_eq!(listed, [loss]);
    let _back = FakeNode::start(&group, node_of(&targets[1]));
    let serves =
        |routing: &types::routing::RoutingInfo| chain(routing, 1).head() == Some(targets[1]);
    group.caller.routing_when(serves).await;
    assert_ne!(free, lost);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_forces_nothing_before_it_has_heard_from_all() {
    let mut group = Group::start(1).await;
    let (mut nodes, _) = four_nodes(&group).await;
    nodes.iter_mut().for_each(FakeNode::stop);
    group.stop_manager(0).await;
    group.start_manager(0).await;
    let request = ForceLastServingRequest {
        chain: ChainId(1),
        target: TargetId(1),
        loss: LossPolicy::Accept,
    };
    let early = group
        .caller
        .ask::<ForceLastServing>(&request)
        .await
        .unwrap_err();
    assert_eq!(early.code, StatusCode::NotReady);
}

#[tokio::test(start_paused = true)]
async fn a_table_version_of_an_operators_own_survives_a_restart() {
    let mut group = Group::start(1).await;
    let (_nodes, _) = four_nodes(&group).await;
    group.create_chains(2, 2).await.unwrap();
    let request = AppendTableRequest {
        table: ChainTableId(1),
        chains: vec![ChainId(3), ChainId(1)],
    };
    let version = group.caller.ask::<AppendTable>(&request).await.unwrap();
    group.stop_manager(0).await;
    group.env.sleep(Duration::from_millis(10)).await;
    group.start_manager(0).await;
    let routing = group.caller.routing().await;
    let newest = routing.newest_table(ChainTableId(1)).unwrap();
    assert_eq!((newest.version, &newest.chains), (version, &request.chains));
    assert_eq!(routing.tables.len(), 3);
    assert_eq!(version, ChainTableVersion(3));
}
