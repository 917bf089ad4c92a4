//! Which serving replica of a chain a read asks (protocol D5): the one with the fewest reads of ours under way, in
//! turn among equals. One that just did not answer is asked last for a while.

use std::{collections::BTreeMap, time::Duration};

use common::{env::Instant, sync::Mutex};
use types::id::TargetId;

/// How long a silent replica is avoided: about as long as the manager takes to declare it failed.
const AVOID: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(crate) struct TargetChoice(Mutex<Loads>);

#[derive(Debug, Default)]
struct Loads {
    targets: BTreeMap<TargetId, Load>,
    turn: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    outstanding: u32,
    avoid_until: Option<Instant>,
}

impl TargetChoice {
    /// Chooses among `serving`; those in `tried` failed in this operation and are asked only when nothing else is
    /// left. `None` when nothing serves.
    pub(crate) fn choose(
        &self,
        serving: &[TargetId],
        tried: &[TargetId],
        now: Instant,
    ) -> Option<ReadTicket<'_>> {
        let mut loads = self.0.lock();
        loads.turn = loads.turn.wrapping_add(1);
        let start = loads.turn % serving.len().max(1);
        let (before, after) = serving.split_at(start.min(serving.len()));
        // The first of the least wins, so the starting point of the turn breaks ties.
        let target = *after.iter().chain(before).min_by_key(|target| {
            let load = loads.targets.get(target).copied().unwrap_or_default();
            let avoided = load.avoid_until.is_some_and(|until| now < until);
            (tried.contains(target), avoided, load.outstanding)
        })?;
        loads.targets.entry(target).or_default().outstanding += 1;
        Some(ReadTicket {
            choice: self,
            target,
        })
    }

    /// Asks `target` last from now on, for a while.
    pub(crate) fn avoid(&self, target: TargetId, now: Instant) {
        let mut loads = self.0.lock();
        loads.targets.entry(target).or_default().avoid_until = Some(now + AVOID);
    }
}

/// A read under way at a target; counted until dropped.
pub(crate) struct ReadTicket<'a> {
    choice: &'a TargetChoice,
    pub(crate) target: TargetId,
}

impl Drop for ReadTicket<'_> {
    fn drop(&mut self) {
        let mut loads = self.choice.0.lock();
        if let Some(load) = loads.targets.get_mut(&self.target) {
            load.outstanding -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use common::env::Env;

    use super::*;

    const SERVING: [TargetId; 3] = [TargetId(1), TargetId(2), TargetId(3)];

    #[tokio::test(start_paused = true)]
    async fn reads_spread_evenly_over_the_replicas() {
        let (env, choice) = (Env::seeded(1), TargetChoice::default());
        let mut counts = BTreeMap::new();
        for _ in 0..30 {
            let ticket = choice.choose(&SERVING, &[], env.now()).unwrap();
            *counts.entry(ticket.target).or_insert(0) += 1;
        }
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_replica_with_the_fewest_reads_under_way_is_asked() {
        let (env, choice) = (Env::seeded(1), TargetChoice::default());
        let first = choice.choose(&SERVING, &[], env.now()).unwrap();
        let second = choice.choose(&SERVING, &[], env.now()).unwrap();
        let third = choice.choose(&SERVING, &[], env.now()).unwrap();
        assert!(first.target != second.target && second.target != third.target);
        let freed = second.target;
        drop(second);
        assert_eq!(
            choice.choose(&SERVING, &[], env.now()).unwrap().target,
            freed
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_failed_is_asked_last() {
        let (env, choice) = (Env::seeded(1), TargetChoice::default());
        for _ in 0..6 {
            let ticket = choice.choose(&SERVING, &SERVING[..2], env.now()).unwrap();
            assert_eq!(ticket.target, SERVING[2]);
        }
        choice.avoid(SERVING[2], env.now());
        for _ in 0..6 {
            let ticket = choice.choose(&SERVING[1..], &[], env.now()).unwrap();
            assert_eq!(ticket.target, SERVING[1]);
        }
        assert!(choice.choose(&SERVING, &SERVING, env.now()).is_some());
        env.sleep(AVOID).await;
        let asked: Vec<_> = (0..2)
            .map(|_| choice.choose(&SERVING[1..], &[], env.now()).unwrap().target)
            .collect();
        assert!(asked.contains(&SERVING[2]));
        assert!(choice.choose(&[], &[], env.now()).is_none());
    }
}
