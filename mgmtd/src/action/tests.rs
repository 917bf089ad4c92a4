//! Each action by itself, and all of them in random order; every invariant is checked after every entry.

use std::{collections::BTreeMap, sync::Arc};

use common::env::Env;
use types::{
    id::{ClientId, DiskIndex, RequestId},
    node::NodeStatus,
    routing::RoutingInfo,
    target::LocalState,
    version::{ChainVersion, RoutingVersion},
};

use super::*;
use crate::{
    apply::apply,
    command::{Asked, Command, Observation, Registration},
};

const CHAIN: ChainId = ChainId(1);

/// A cluster whose every step is checked.
pub(crate) struct Fixture {
    cluster: Cluster,
    requests: u64,
}

fn seat(node: u32) -> Seat {
    Seat {
        node: NodeId(node),
        disk: DiskIndex(0),
    }
}

impl Fixture {
    /// Five storage nodes, one metadata server (node 9), and one chain over the first nodes, all opened.
    pub(crate) fn new(copies: u32) -> Self {
        let mut fixture = Self {
            cluster: Cluster::default(),
            requests: 0,
        };
        for id in [1, 2, 3, 4, 5, 9] {
            let kind = if id == 9 {
                NodeKind::Meta
            } else {
                NodeKind::Storage
            };
            fixture.apply(&Command::RegisterNode(Registration {
                id: NodeId(id),
                kind,
                addresses: vec![format!("h:{id}")],
                tags: Vec::new(),
            }));
        }
        let asked = fixture.asked();
        fixture.apply(&Command::CreateChains {
            table: ChainTableId(1),
            chains: vec![(1..=copies).map(seat).collect()],
            asked,
        });
        fixture.open((1..=u64::from(copies)).map(TargetId).collect());
        fixture
    }

    fn asked(&mut self) -> Asked {
        self.requests += 1;
        Asked {
            client: ClientId(7),
            request: RequestId(self.requests),
        }
    }

    /// Applies a command and checks what is true of every state and every step.
    fn apply(&mut self, command: &Command) -> Outcome {
        let before = self.cluster.clone();
        let outcome = apply(&mut self.cluster, command);
        self.cluster.check().unwrap();
        let (old, new) = (before.routing.version.0, self.cluster.routing.version.0);
        assert_eq!(new, old + u64::from(before != self.cluster), "{command:?}");
        for (id, chain) in &self.cluster.routing.chains {
            if let Some(old) = before.routing.chains.get(id) {
                let step = u32::from(old != chain);
                assert_eq!(chain.version.0, old.version.0 + step, "{command:?}");
            }
        }
        outcome
    }

    fn act(&mut self, action: Action) -> Result<Acted, String> {
        let asked = self.asked();
        let before = self.cluster.clone();
        match self.apply(&Command::Act { action, asked }) {
            Outcome::Acted(acted) => Ok(acted),
            Outcome::Refused { message, .. } => {
                assert_eq!(self.cluster, before, "a refusal changes nothing");
                Err(message)
            }
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, created: Vec<TargetId>) {
        self.apply(&Command::Observe(Observation {
            created,
            ..Observation::default()
        }));
    }

    /// The chain is evaluated with the targets named in these states, and all others up to date.
    fn see(&mut self, states: &[(u64, LocalState)]) {
        let local = |target: TargetId| {
            let named = states.iter().find(|(id, _)| TargetId(*id) == target);
            named.map_or(LocalState::UpToDate, |(_, state)| *state)
        };
        let chain = transition::evaluate(self.chain(), &local).expect("nothing changes");
        self.apply(&Command::Observe(Observation {
            chains: vec![chain],
            ..Observation::default()
        }));
    }

    fn chain(&self) -> &Chain {
        &self.cluster.routing.chains[&CHAIN]
    }

    pub(crate) fn routing(&self) -> Arc<RoutingInfo> {
        self.cluster.routing.clone()
    }

    fn states(&self) -> Vec<(u64, PublicState)> {
        let targets = self.chain().targets.iter();
        targets.map(|target| (target.id.0, target.state)).collect()
    }

    fn add(&mut self, node: u32) -> Result<Acted, String> {
        self.act(Action::AddTarget {
            chain: CHAIN,
            seat: seat(node),
        })
    }

    fn remove(&mut self, target: u64, copies: CopiesPolicy) -> Result<Acted, String> {
        self.act(Action::RemoveTarget {
            target: TargetId(target),
            copies,
        })
    }

    fn force(&mut self, target: u64, loss: LossPolicy) -> Result<Acted, String> {
        self.act(Action::ForceLastServing {
            chain: CHAIN,
            target: TargetId(target),
            loss,
        })
    }

    fn prefer(&mut self, order: &[u64]) -> Result<Acted, String> {
        self.act(Action::SetPreferred {
            chain: CHAIN,
            order: order.iter().copied().map(TargetId).collect(),
        })
    }
}

use LocalState::{Offline as Dead, Online, UpToDate};
use PublicState::{LastServing, Offline, Serving, Syncing, Waiting};

#[test]
fn a_replaced_target_leaves_only_when_enough_copies_serve() {
    let mut fixture = Fixture::new(3);
    fixture.see(&[(3, Dead)]);
    let refused = fixture.remove(3, CopiesPolicy::Keep).unwrap_err();
    assert!(
        refused.contains("meant to have 3 copies") && refused.contains("--fewer-copies"),
        "{refused}"
    );
    let added = fixture.add(4).unwrap();
    let Acted::Added(AddTargetReply { target, .. }) = added else {
        panic!("{added:?}");
    };
    assert_eq!(target, TargetId(4));
    assert_eq!(fixture.states()[3], (4, Offline));
    assert!(!fixture.cluster.routing.targets[&target].created);
    assert_eq!(fixture.chain().preferred.last(), Some(&target));
    fixture.open(vec![target]);
    fixture.see(&[(3, Dead), (4, Online)]);
    assert_eq!(fixture.states()[2], (4, Syncing));
    assert!(fixture.remove(3, CopiesPolicy::Keep).is_err());
    fixture.see(&[(3, Dead), (4, UpToDate)]);
    assert_eq!(fixture.remove(3, CopiesPolicy::Keep), Ok(Acted::Removed));
    assert_eq!(fixture.states(), [(1, Serving), (2, Serving), (4, Serving)]);
    assert!(!fixture.cluster.routing.targets.contains_key(&TargetId(3)));
    // Its id is not given out again.
    fixture.add(3).unwrap();
    assert_eq!(fixture.states()[3], (5, Offline));
}

#[test]
fn a_target_is_removed_only_while_offline_and_somebody_serves() {
    let mut fixture = Fixture::new(3);
    let refused = fixture.remove(1, CopiesPolicy::AllowFewer).unwrap_err();
    assert!(refused.contains("only an Offline one"), "{refused}");
    assert!(fixture.remove(77, CopiesPolicy::Keep).is_err());
    fixture.see(&[(3, Dead)]);
    fixture.see(&[(1, Dead), (2, Dead), (3, Dead)]);
    let refused = fixture.remove(3, CopiesPolicy::AllowFewer).unwrap_err();
    assert!(refused.contains("the last one"), "{refused}");
    fixture.see(&[(2, Dead), (3, Dead)]);
    assert_eq!(fixture.states()[0], (1, Serving));
    fixture.remove(3, CopiesPolicy::AllowFewer).unwrap();
    fixture.remove(2, CopiesPolicy::AllowFewer).unwrap();
    assert_eq!(fixture.states(), [(1, Serving)]);
    assert_eq!(fixture.cluster.copies[&CHAIN], 1);
    assert!(fixture.remove(1, CopiesPolicy::AllowFewer).is_err());
}

#[test]
fn a_target_is_added_only_where_the_chain_has_none() {
    let mut fixture = Fixture::new(2);
    let on_same_node = fixture.add(2).unwrap_err();
    assert!(
        on_same_node.contains("target 2 on node 2"),
        "{on_same_node}"
    );
    let no_storage = fixture.add(9).unwrap_err();
    assert!(
        no_storage.contains("not a registered storage"),
        "{no_storage}"
    );
    assert!(fixture.add(88).is_err());
    let no_chain = fixture.act(Action::AddTarget {
        chain: ChainId(6),
        seat: seat(3),
    });
    assert!(no_chain.unwrap_err().contains("no chain 6"));
    fixture.add(3).unwrap();
    assert!(fixture.add(3).is_err(), "also while it is offline");
}

#[test]
fn a_retried_action_is_carried_out_once() {
    let mut fixture = Fixture::new(2);
    let asked = fixture.asked();
    let action = Action::AddTarget {
        chain: CHAIN,
        seat: seat(3),
    };
    let command = Command::Act { action, asked };
    let first = fixture.apply(&command);
    let after = fixture.cluster.clone();
    assert_eq!(fixture.apply(&command), first);
    assert_eq!(fixture.cluster, after);
}

#[test]
fn a_table_names_chains_that_exist_once_each() {
    let mut fixture = Fixture::new(2);
    let asked = fixture.asked();
    fixture.apply(&Command::CreateChains {
        table: ChainTableId(1),
        chains: vec![vec![seat(2)], vec![seat(3)]],
        asked,
    });
    let append = |fixture: &mut Fixture, table: u32, chains: &[u32]| {
        fixture.act(Action::AppendTable {
            table: ChainTableId(table),
            chains: chains.iter().copied().map(ChainId).collect(),
        })
    };
    let version = |version| Ok(Acted::Appended(ChainTableVersion(version)));
    assert_eq!(append(&mut fixture, 1, &[3, 1]), version(3));
    assert_eq!(
        append(&mut fixture, 1, &[3, 1]),
        version(3),
        "as it is already"
    );
    assert_eq!(append(&mut fixture, 2, &[2]), version(1));
    assert!(append(&mut fixture, 1, &[]).is_err());
    assert!(
        append(&mut fixture, 1, &[1, 9])
            .unwrap_err()
            .contains("chain 9")
    );
    assert!(
        append(&mut fixture, 1, &[1, 1])
            .unwrap_err()
            .contains("twice")
    );
    let tables = &fixture.cluster.routing.tables;
    let old = &tables[&(ChainTableId(1), ChainTableVersion(2))];
    assert_eq!(old.chains, [ChainId(1), ChainId(2), ChainId(3)]);
}

#[test]
fn an_order_names_every_target_once_and_moves_nothing() {
    let mut fixture = Fixture::new(3);
    let before = fixture.states();
    for wrong in [&[1, 2][..], &[1, 2, 2], &[1, 2, 3, 4], &[]] {
        assert!(fixture.prefer(wrong).is_err(), "{wrong:?}");
    }
    fixture.prefer(&[3, 1, 2]).unwrap();
    assert_eq!(fixture.chain().version, ChainVersion(2));
    fixture.prefer(&[3, 1, 2]).unwrap();
    assert_eq!(fixture.chain().version, ChainVersion(2));
    assert_eq!(fixture.states(), before);
}

#[test]
fn a_rotation_asks_for_one_step_and_is_over_when_the_chain_changes() {
    let mut fixture = Fixture::new(3);
    let rotate = Action::Rotate { chain: CHAIN };
    let rotating = |target: Option<u64>, version| {
        Ok(Acted::Rotating(RotateChainReply {
            target: target.map(TargetId),
            version: ChainVersion(version),
        }))
    };
    assert_eq!(fixture.act(rotate.clone()), rotating(None, 1));
    fixture.prefer(&[2, 3, 1]).unwrap();
    assert_eq!(fixture.act(rotate.clone()), rotating(Some(1), 2));
    // The chain is as it was, until the node of the target has taken it out.
    assert_eq!(fixture.states()[0], (1, Serving));
    assert_eq!(fixture.cluster.rotating[&CHAIN].target, TargetId(1));
    assert_eq!(fixture.act(rotate.clone()), rotating(Some(1), 2));
    fixture.see(&[(1, Dead)]);
    assert!(fixture.cluster.rotating.is_empty());
    assert_eq!(fixture.states(), [(2, Serving), (3, Serving), (1, Offline)]);
    fixture.see(&[(1, Online)]);
    fixture.see(&[]);
    assert_eq!(fixture.act(rotate), rotating(None, 5));
}

#[test]
fn nothing_rotates_while_a_copy_is_missing() {
    let mut fixture = Fixture::new(3);
    fixture.prefer(&[2, 3, 1]).unwrap();
    fixture.see(&[(3, Dead)]);
    let rotate = Action::Rotate { chain: CHAIN };
    let refused = fixture.act(rotate.clone()).unwrap_err();
    assert!(refused.contains("meant to have 3 copies"), "{refused}");
    // A chain that is meant to have fewer may.
    fixture.remove(3, CopiesPolicy::AllowFewer).unwrap();
    assert!(fixture.act(rotate).is_ok());
}

/// All orders of up to four targets: steps to the end make every order of every other, in fewer steps than targets.
#[test]
fn rotation_reaches_every_order() {
    fn orders(targets: &[TargetId]) -> Vec<Vec<TargetId>> {
        if targets.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for first in targets {
            let rest: Vec<TargetId> = targets.iter().filter(|t| *t != first).copied().collect();
            for order in orders(&rest) {
                all.push([vec![*first], order].concat());
            }
        }
        all
    }
    let mut seen = 0;
    for count in 1..=4 {
        let targets: Vec<TargetId> = (1..=count).map(TargetId).collect();
        for preferred in orders(&targets) {
            for mut serving in orders(&targets) {
                seen += 1;
                for step in 0.. {
                    let Some(target) = next_to_move(&serving, &preferred) else {
                        break;
                    };
                    assert!(step + 1 < count, "{serving:?} {preferred:?}");
                    serving.retain(|other| *other != target);
                    serving.push(target);
                }
                assert_eq!(serving, preferred);
            }
        }
    }
    assert_eq!(seen, 1 + 4 + 36 + 576);
    // Targets that do not serve count for nothing.
    let some = [TargetId(3), TargetId(1)];
    assert_eq!(
        next_to_move(&some, &[1, 2, 3].map(TargetId)),
        Some(TargetId(3))
    );
    assert_eq!(next_to_move(&some, &[3, 2, 1].map(TargetId)), None);
}

#[test]
fn a_chain_goes_on_with_less_only_when_the_loss_is_accepted_and_that_is_noted() {
    let mut fixture = Fixture::new(3);
    let refused = fixture.force(2, LossPolicy::Accept).unwrap_err();
    assert!(refused.contains("nothing to force"), "{refused}");
    fixture.see(&[(2, Dead)]);
    fixture.see(&[(2, Dead), (3, Dead)]);
    fixture.see(&[(1, Dead), (2, Online), (3, Dead)]);
    let waiting = [(1, LastServing), (2, Waiting), (3, Offline)];
    assert_eq!(fixture.states(), waiting);
    let refused = fixture.force(2, LossPolicy::Refuse).unwrap_err();
    for said in [
        "target 1 (node 1, disk 0)",
        "version 2 of chain 1",
        "Target 3 stopped later",
        "--accept-loss",
    ] {
        assert!(refused.contains(said), "{said}: {refused}");
    }
    assert!(
        fixture.force(1, LossPolicy::Accept).is_err(),
        "it holds everything"
    );
    assert!(fixture.force(9, LossPolicy::Accept).is_err());
    let forced = fixture.force(2, LossPolicy::Accept).unwrap();
    let loss = Loss {
        chain: CHAIN,
        version: ChainVersion(5),
        target: TargetId(2),
        left: Some(ChainVersion(2)),
        given_up: vec![(TargetId(1), NodeId(1), DiskIndex(0))],
        tables: vec![(ChainTableId(1), ChainTableVersion(1))],
    };
    assert_eq!(forced, Acted::Forced(loss.clone()));
    assert_eq!(fixture.cluster.losses, [loss]);
    let given_up = [(2, LastServing), (1, Offline), (3, Offline)];
    assert_eq!(fixture.states(), given_up);
    // The one that held everything returns too late: it is refilled like any other.
    fixture.see(&[(1, Online), (2, Online), (3, Dead)]);
    assert_eq!(fixture.states()[..2], [(2, Serving), (1, Syncing)]);
    assert!(!fixture.cluster.left_at.contains_key(&TargetId(2)));
}

#[test]
fn a_target_that_was_never_open_cannot_be_forced() {
    let mut fixture = Fixture::new(1);
    fixture.add(2).unwrap();
    fixture.see(&[(1, Dead), (2, Dead)]);
    let refused = fixture.force(2, LossPolicy::Accept).unwrap_err();
    assert!(refused.contains("never been open"), "{refused}");
    fixture.open(vec![TargetId(2)]);
    let refused = fixture.force(2, LossPolicy::Refuse).unwrap_err();
    assert!(refused.contains("may be everything"), "{refused}");
}

#[test]
fn only_managers_are_forgotten() {
    let mut fixture = Fixture::new(1);
    let forget = |id| Command::ForgetManager(NodeId(id));
    assert!(fixture.apply(&forget(1)).accepted().is_err());
    fixture.apply(&Command::RegisterNode(Registration {
        id: NodeId(201),
        kind: NodeKind::Mgmtd,
        addresses: vec!["m:1".to_owned()],
        tags: Vec::new(),
    }));
    let failed = Observation {
        nodes: vec![(NodeId(201), NodeStatus::Failed)],
        ..Observation::default()
    };
    fixture.apply(&Command::Observe(failed));
    let before = fixture.cluster.routing.version;
    fixture.apply(&forget(201));
    assert!(!fixture.cluster.routing.nodes.contains_key(&NodeId(201)));
    let version = RoutingVersion(before.0 + 1);
    assert_eq!(fixture.apply(&forget(201)), Outcome::Done(version));
}

/// Anything an operator or a node may do; whether it was an action that was accepted.
pub(crate) fn random_step(env: &Env, fixture: &mut Fixture) -> Option<bool> {
    let newest = fixture.cluster.next_target;
    let target = 1 + env.random_below(newest);
    let node = 1 + u32::try_from(env.random_below(6)).unwrap();
    let allow = env.random_below(2) == 0;
    let acted = match env.random_below(8) {
        0 => fixture.add(node),
        1 if allow => fixture.remove(target, CopiesPolicy::AllowFewer),
        1 => fixture.remove(target, CopiesPolicy::Keep),
        2 => fixture.act(Action::Rotate { chain: CHAIN }),
        3 => {
            let mut order = fixture.chain().preferred.clone();
            let first = env.random_below(order.len() as u64);
            order.rotate_left(usize::try_from(first).unwrap());
            fixture.prefer(&order.iter().map(|id| id.0).collect::<Vec<_>>())
        }
        4 if allow => fixture.force(target, LossPolicy::Accept),
        5 if allow => fixture.act(Action::AppendTable {
            table: ChainTableId(node),
            chains: vec![CHAIN],
        }),
        _ => {
            observe_at_random(env, fixture);
            return None;
        }
    };
    Some(acted.is_ok())
}

fn observe_at_random(env: &Env, fixture: &mut Fixture) {
    let ids = fixture.chain().preferred.clone();
    let local: BTreeMap<TargetId, LocalState> = ids
        .iter()
        .map(|id| {
            let state = usize::try_from(env.random_below(3)).unwrap();
            (*id, LocalState::ALL[state])
        })
        .collect();
    let seen = |id| local[&id];
    let chain = transition::evaluate(fixture.chain(), &seen);
    let status = match env.random_below(4) {
        0 => NodeStatus::Failed,
        _ => NodeStatus::Alive,
    };
    fixture.apply(&Command::Observe(Observation {
        nodes: vec![(NodeId(1), status)],
        created: ids.into_iter().filter(|id| seen(*id).is_alive()).collect(),
        chains: chain.into_iter().collect(),
    }));
}

/// Whatever is asked and observed, in whatever order: every invariant holds after every entry.
#[test]
fn no_sequence_of_actions_and_observations_breaks_a_chain() {
    let env = Env::seeded(5);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..300 {
        let mut fixture = Fixture::new(1 + round % 3);
        for _ in 0..40 {
            match random_step(&env, &mut fixture) {
                Some(true) => accepted += 1,
                Some(false) => refused += 1,
                None => {}
            }
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
}
