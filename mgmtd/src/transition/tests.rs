//! Every chain of up to four targets, every public state, every local state: nothing is sampled.

use std::collections::{BTreeMap, BTreeSet};

use types::{id::ChainId, version::ChainVersion};

use super::*;

const TABLE: &str = include_str!("../../../docs/design/replication.md");
const TARGETS_MAX: usize = 4;

type States = Vec<PublicState>;
type Locals = Vec<LocalState>;

fn chain(states: &[PublicState]) -> Chain {
    let targets = (1..).map(TargetId).zip(states);
    Chain {
        id: ChainId(1),
        version: ChainVersion(7),
        targets: targets
            .map(|(id, state)| ChainTarget { id, state: *state })
            .collect(),
        preferred: Vec::new(),
    }
}

/// Every combination of `length` values.
fn combinations<T: Copy>(values: &[T], length: usize) -> Vec<Vec<T>> {
    let mut all = vec![Vec::new()];
    for _ in 0..length {
        all = all
            .iter()
            .flat_map(|start: &Vec<T>| {
                values.iter().map(move |value| {
                    let mut longer = start.clone();
                    longer.push(*value);
                    longer
                })
            })
            .collect();
    }
    all
}

fn for_every_case(mut visit: impl FnMut(&Chain, &Locals)) {
    for length in 1..=TARGETS_MAX {
        let locals = combinations(&LocalState::ALL, length);
        for states in combinations(&PublicState::ALL, length) {
            let chain = chain(&states);
            if check_chain(&chain).is_ok() {
                locals.iter().for_each(|local| visit(&chain, local));
            }
        }
    }
}

/// `local` by position in the id space, which starts at 1.
fn lookup(local: &Locals) -> impl Fn(TargetId) -> LocalState {
    |target| local[usize::try_from(target.0).unwrap() - 1]
}

fn after(chain: &Chain, local: &Locals) -> Chain {
    evaluate(chain, &lookup(local)).unwrap_or_else(|| chain.clone())
}

#[test]
fn every_change_keeps_the_invariants_and_comes_to_rest() {
    let mut cases = 0;
    for_every_case(|chain, local| {
        cases += 1;
        let mut current = chain.clone();
        // The same local states change a chain at most twice: a target that falls out of service stops
        // for one evaluation before it may be refilled, then nothing is left to do.
        for _ in 0..3 {
            let Some(new) = evaluate(&current, &lookup(local)) else {
                return;
            };
            check_transition(&current, &new).unwrap();
            current = new;
        }
        panic!("{chain:?} never rests under {local:?}");
    });
    // Two for each chain of one target, and so on: none is left out.
    assert_eq!(cases, 2_580);
}

#[test]
fn whatever_happens_a_healthy_chain_only_reaches_valid_states_and_heals() {
    for length in 1..=TARGETS_MAX {
        let locals = combinations(&LocalState::ALL, length);
        let start = chain(&vec![PublicState::Serving; length]);
        let key = |chain: &Chain| -> Vec<(TargetId, PublicState)> {
            chain.targets.iter().map(|t| (t.id, t.state)).collect()
        };
        let mut reached = BTreeSet::from([key(&start)]);
        let mut open = vec![start];
        while let Some(chain) = open.pop() {
            check_chain(&chain).unwrap();
            assert!(heals(&chain), "{chain:?}");
            for local in &locals {
                let mut new = after(&chain, local);
                new.version = ChainVersion(7);
                if reached.insert(key(&new)) {
                    open.push(new);
                }
            }
        }
    }
}

/// With every node up and doing what the protocol asks of it (C5, C6, S5), everybody serves in the end.
fn heals(chain: &Chain) -> bool {
    let mut chain = chain.clone();
    for _ in 0..4 * TARGETS_MAX {
        let seen = chain.clone();
        let local = |target| match seen.state_of(target) {
            Some(PublicState::Serving | PublicState::Syncing) => LocalState::UpToDate,
            _ => LocalState::Online,
        };
        match evaluate(&chain, &local) {
            Some(new) => chain = new,
            None => break,
        }
    }
    chain
        .targets
        .iter()
        .all(|target| target.state == PublicState::Serving)
}

#[test]
fn when_all_serving_targets_die_at_once_all_are_last_serving() {
    use PublicState::{LastServing, Offline, Serving, Syncing, Waiting};
    let before = chain(&[Serving, Serving, Syncing, Waiting]);
    let new = after(&before, &vec![LocalState::Offline; 4]);
    let states: States = new.targets.iter().map(|t| t.state).collect();
    assert_eq!(states, [LastServing, LastServing, Offline, Offline]);
    // Either may come back first.
    for (local, first) in [
        ([LocalState::Online, LocalState::Offline], 1),
        ([LocalState::Offline, LocalState::Online], 2),
    ] {
        let local = [local.to_vec(), vec![LocalState::Offline; 2]].concat();
        let back = after(&new, &local);
        assert_eq!(back.head(), Some(TargetId(first)));
        assert_eq!(back.serving().count(), 1);
    }
}

#[test]
fn when_serving_targets_die_one_by_one_only_the_last_may_return_first() {
    let mut chain = chain(&[PublicState::Serving; 3]);
    let mut local = vec![LocalState::UpToDate; 3];
    for dead in [1, 0, 2] {
        local[dead] = LocalState::Offline;
        chain = after(&chain, &local);
    }
    let last: Vec<TargetId> = chain
        .targets
        .iter()
        .filter(|target| target.state == PublicState::LastServing)
        .map(|target| target.id)
        .collect();
    assert_eq!(last, [TargetId(3)]);
    // The others are alive and change nothing.
    let others = vec![LocalState::Online, LocalState::Online, LocalState::Offline];
    assert_eq!(after(&chain, &others).serving().count(), 0);
}

#[test]
fn a_refilled_target_serves_although_its_predecessor_died_in_the_same_moment() {
    let before = chain(&[PublicState::Serving, PublicState::Syncing]);
    let new = after(&before, &vec![LocalState::Offline, LocalState::UpToDate]);
    assert_eq!(new.head(), Some(TargetId(2)));
    assert_eq!(new.state_of(TargetId(1)), Some(PublicState::Offline));
}

#[test]
fn the_order_of_states_is_kept_inside_of_a_group() {
    let before = chain(&[PublicState::Serving; 3]);
    let new = after(
        &before,
        &vec![
            LocalState::Offline,
            LocalState::UpToDate,
            LocalState::UpToDate,
        ],
    );
    let ids: Vec<u64> = new.targets.iter().map(|target| target.id.0).collect();
    assert_eq!(ids, [2, 3, 1]);
    assert_eq!(new.version, ChainVersion(8));
}

/// A row of the table: old state, local state, condition, new state.
struct Row {
    old: PublicState,
    local: BTreeSet<LocalState>,
    condition: String,
    new: PublicState,
}

fn rows() -> Vec<Row> {
    let public: BTreeMap<String, PublicState> = PublicState::ALL
        .iter()
        .map(|state| (format!("{state:?}"), *state))
        .collect();
    let local = |cell: &str| -> BTreeSet<LocalState> {
        let all = LocalState::ALL.iter().copied();
        match cell {
            "alive" => all.filter(|state| state.is_alive()).collect(),
            "any" => all.collect(),
            name => all.filter(|state| format!("{state:?}") == name).collect(),
        }
    };
    let (_, table) = TABLE.split_once("<!-- table:chain -->").unwrap();
    let (table, _) = table.split_once("<!-- end -->").unwrap();
    table
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [old, local_cell, condition, new] = cells[..] else {
                panic!("a row of the table has four cells: {line}");
            };
            Row {
                old: public[old],
                local: local(local_cell),
                condition: condition.to_owned(),
                new: public[new],
            }
        })
        .collect()
}

/// What the table's conditions mean, told without `evaluate`.
fn holds(condition: &str, id: TargetId, chain: &Chain, local: &Locals) -> bool {
    let local = lookup(local);
    let first = |states: &[PublicState], wanted: &dyn Fn(LocalState) -> bool| {
        states.iter().find_map(|state| {
            let mut targets = chain.targets.iter();
            targets
                .find(|target| target.state == *state && wanted(local(target.id)))
                .map(|target| target.id)
        })
    };
    let alive = |state: LocalState| state.is_alive();
    let served = first(&[PublicState::Serving], &alive);
    let returned = first(&[PublicState::LastServing], &alive).filter(|_| served.is_none());
    let refilled = first(&[PublicState::Syncing], &|state| {
        state == LocalState::UpToDate
    });
    let serves = served.or(returned).or(refilled).is_some();
    let queue = [
        PublicState::Syncing,
        PublicState::Waiting,
        PublicState::Offline,
    ];
    let next = first(&queue, &|state| state == LocalState::Online).filter(|_| serves);
    match condition {
        "" => true,
        "some target serves" => serves,
        "no target serves" => !serves,
        "it returns first" => returned == Some(id),
        "another returned first" => returned.is_some() && returned != Some(id),
        "its turn to be refilled" => next == Some(id),
        "not its turn" => next != Some(id),
        other => panic!("the test does not know the condition `{other}`"),
    }
}

#[test]
fn the_table_in_the_documentation_is_what_the_code_does() {
    let rows = rows();
    let mut used = vec![false; rows.len()];
    for_every_case(|chain, local| {
        let new = after(chain, local);
        for target in &chain.targets {
            let here = lookup(local)(target.id);
            let mut matching = rows.iter().enumerate().filter(|(_, row)| {
                row.old == target.state
                    && row.local.contains(&here)
                    && holds(&row.condition, target.id, chain, local)
            });
            let (index, row) = matching.next().unwrap_or_else(|| {
                panic!(
                    "no row for {:?}, {here:?} in {chain:?}, {local:?}",
                    target.state
                )
            });
            assert!(
                matching.next().is_none(),
                "two rows for {target:?} in {chain:?}"
            );
            used[index] = true;
            assert_eq!(
                new.state_of(target.id),
                Some(row.new),
                "{target:?} in {chain:?} under {local:?}"
            );
        }
    });
    assert!(
        used.iter().all(|used| *used),
        "a row never applies: {used:?}"
    );
}
