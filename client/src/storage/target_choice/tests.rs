//! What each policy asks, and how the adaptive one follows replicas that become slow and recover.

use common::env::Env;
use types::{
    chain::ChainTarget,
    id::ChainId,
    target::{PublicState, Target},
    version::ChainVersion,
};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A chain of three targets on the disks of nodes 1 to 3.
fn map() -> (RoutingInfo, Chain) {
    let mut map = RoutingInfo::default();
    for id in 1..=3 {
        let target = Target {
            id: TargetId(id),
            node: NodeId(id as u32),
            disk: DiskIndex(0),
            chain: ChainId(1),
            created: true,
        };
        map.targets.insert(target.id, target);
    }
    (map, chain(&[1, 2, 3]))
}

fn chain(serving: &[u64]) -> Chain {
    Chain {
        id: ChainId(1),
        version: ChainVersion(1),
        targets: serving
            .iter()
            .map(|&id| ChainTarget {
                id: TargetId(id),
                state: PublicState::Serving,
            })
            .collect(),
        preferred: Vec::new(),
    }
}

/// The targets of so many reads, one after the other, each of which takes what `took` says.
fn ask(
    choice: &TargetChoice,
    chain: &Chain,
    now: Instant,
    reads: usize,
    took: impl Fn(u64) -> Option<Duration>,
) -> Vec<u64> {
    let map = map().0;
    let asked = (0..reads).map(|_| {
        let ticket = choice.choose(&map, chain, &[], now).unwrap();
        if let Some(took) = took(ticket.target.0) {
            choice.took([&ticket].into_iter(), took, now);
        }
        ticket.target.0
    });
    asked.collect()
}

fn count(asked: &[u64], target: u64) -> usize {
    asked.iter().filter(|asked| **asked == target).count()
}

#[tokio::test(start_paused = true)]
async fn reads_spread_evenly_over_replicas_of_about_the_same_latency() {
    let (env, (_, chain)) = (Env::seeded(1), map());
    for policy in [ReplicaChoice::Adaptive, ReplicaChoice::RoundRobin] {
        let choice = TargetChoice::new(policy);
        let took = |target: u64| Some(MS + MS / 4 * target as u32);
        let asked = ask(&choice, &chain, env.now(), 30, took);
        let counts = [1, 2, 3].map(|target| count(&asked, target));
        assert_eq!(counts, [10, 10, 10], "{policy:?}: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_replica_with_the_fewest_reads_under_way_is_asked() {
    let (env, choice) = (Env::seeded(1), TargetChoice::default());
    let (map, chain) = map();
    let choose = || choice.choose(&map, &chain, &[], env.now()).unwrap();
    let (first, second, third) = (choose(), choose(), choose());
    assert!(first.target != second.target && second.target != third.target);
    let freed = second.target;
    drop(second);
    assert_eq!(choose().target, freed);
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_is_left_until_it_is_forgiven() {
    let (env, choice) = (Env::seeded(1), TargetChoice::default());
    let (_, chain) = map();
    let one_slow = |target| Some(if target == 2 { 50 * MS } else { MS });
    let mut asked = Vec::new();
    for _ in 0..1000 {
        asked.extend(ask(&choice, &chain, env.now(), 1, one_slow));
        env.sleep(MS).await;
    }
    assert!(count(&asked, 2) <= 3, "{}", count(&asked, 2));
    let quick: Vec<_> = [1, 3].map(|target| count(&asked, target)).into();
    assert!(quick.iter().all(|count| *count > 450), "{quick:?}");
    // It has recovered, and what is known of it is worth less with time.
    env.sleep(10 * FORGIVE).await;
    let asked = ask(&choice, &chain, env.now(), 30, |_| Some(MS));
    assert!(count(&asked, 2) >= 9, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_gets_reads_when_the_others_are_busy() {
    let (env, choice) = (Env::seeded(1), TargetChoice::default());
    let (map, chain) = map();
    let one_slow = |target| Some(if target == 2 { 10 * MS } else { MS });
    ask(&choice, &chain, env.now(), 3, one_slow);
    let tickets: Vec<_> = (0..21)
        .map(|_| choice.choose(&map, &chain, &[], env.now()).unwrap())
        .collect();
    let asked: Vec<u64> = tickets.iter().map(|ticket| ticket.target.0).collect();
    let counts = [1, 2, 3].map(|target| count(&asked, target));
    assert_eq!(counts, [10, 1, 10]);
}

/// With latencies drawn at random, the replicas' shares follow them.
#[tokio::test(start_paused = true)]
async fn the_mean_latency_comes_near_that_of_the_best_replicas() {
    let env = Env::seeded(3);
    let (_, chain) = map();
    let mut means = [0; 2];
    let policies = [ReplicaChoice::Adaptive, ReplicaChoice::RoundRobin];
    for (policy, mean) in policies.into_iter().zip(&mut means) {
        let choice = TargetChoice::new(policy);
        let total = common::sync::Mutex::new(Duration::ZERO);
        for round in 0..3000_u64 {
            // Each replica has slow times, one after the other.
            let slow = 1 + round / 1000;
            let took = |target| {
                let longest = if target == slow { 40_000 } else { 2000 };
                let took = Duration::from_micros(500 + env.random_below(longest));
                *total.lock() += took;
                Some(took)
            };
            ask(&choice, &chain, env.now(), 1, took);
            env.sleep(MS).await;
        }
        *mean = total.lock().as_micros() / 3000;
    }
    let [adaptive, round_robin] = means;
    assert!(adaptive < 2500 && round_robin > 6000, "{means:?} us");
}

#[tokio::test(start_paused = true)]
async fn head_and_tail_are_asked_alone_and_the_others_when_they_fail() {
    let env = Env::seeded(1);
    let (map, chain) = map();
    for (policy, order) in [
        (ReplicaChoice::Head, [1, 2, 3]),
        (ReplicaChoice::Tail, [3, 2, 1]),
    ] {
        let choice = TargetChoice::new(policy);
        let asked = ask(&choice, &chain, env.now(), 5, |_| Some(50 * MS));
        assert_eq!(asked, [order[0]; 5]);
        let mut tried = Vec::new();
        for wanted in order.map(TargetId) {
            let ticket = choice.choose(&map, &chain, &tried, env.now()).unwrap();
            assert_eq!(ticket.target, wanted);
            tried.push(wanted);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_failed_is_asked_last_and_a_silent_node_for_a_while() {
    let (env, choice) = (Env::seeded(1), TargetChoice::default());
    let (map, all) = map();
    let tried = [TargetId(1), TargetId(2)];
    for _ in 0..6 {
        let ticket = choice.choose(&map, &all, &tried, env.now()).unwrap();
        assert_eq!(ticket.target, TargetId(3));
    }
    choice.avoid(NodeId(3), env.now());
    let two = chain(&[2, 3]);
    assert_eq!(ask(&choice, &two, env.now(), 6, |_| None), [2; 6]);
    let every = [TargetId(1), TargetId(2), TargetId(3)];
    assert!(choice.choose(&map, &all, &every, env.now()).is_some());
    env.sleep(AVOID).await;
    assert!(ask(&choice, &two, env.now(), 2, |_| None).contains(&3));
    assert!(choice.choose(&map, &chain(&[]), &[], env.now()).is_none());
}
