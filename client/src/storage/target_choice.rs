//! Which serving replica of a chain a read asks (protocol D5).
//!
//! The adaptive choice compares what each replica is expected to take: its recent latency times the reads of ours
//! that are under way there, this one included. Latency is a disk's, silence and reads under way are a node's: they
//! show most with few chains asked. Replicas about as quick as the best count as equal and are asked in turn, so that
//! clients which all see the same small difference do not all ask the same one. A slow replica is forgiven
//! with time, because nobody would find out that it has recovered if nobody asked it.

use std::{collections::BTreeMap, time::Duration};

use common::{env::Instant, sync::Mutex};
use types::{
    chain::Chain,
    id::{DiskIndex, NodeId, TargetId},
    routing::RoutingInfo,
};

/// How long a silent node is avoided: about as long as the manager takes to declare it failed.
const AVOID: Duration = Duration::from_secs(3);
/// The weight of the newest latency in the average: an eighth.
const WEIGHT_SHIFT: u32 = 3;
/// What a replica is slower than the best halves with each of these that passes without an answer of it.
const FORGIVE: Duration = Duration::from_secs(1);
/// A replica is as good as the best up to twice its latency and this: less is chance.
const SLACK_MICROS: u64 = 200;

/// How reads choose among the replicas that serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaChoice {
    /// By recent latency and reads under way.
    #[default]
    Adaptive,
    /// Each in turn.
    RoundRobin,
    /// The head; the others, in order, when it fails.
    Head,
    /// The last serving target, which never has to ask another for the committed version; then the one before it.
    Tail,
}

/// See the module's text. Holds an entry for each node and disk ever read from.
#[derive(Debug, Default)]
pub(crate) struct TargetChoice {
    policy: ReplicaChoice,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeId, Load>,
    disks: BTreeMap<(NodeId, DiskIndex), Disk>,
    /// Choices so far.
    turn: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    outstanding: u64,
    avoid_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Disk {
    /// The turn in which it was asked last.
    asked: u64,
    latency: Option<Latency>,
}

#[derive(Clone, Copy, Debug)]
struct Latency {
    micros: u64,
    at: Instant,
}

/// A replica that can be asked.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    target: TargetId,
    node: NodeId,
    disk: DiskIndex,
}

impl TargetChoice {
    pub(crate) fn new(policy: ReplicaChoice) -> Self {
        Self {
            policy,
            state: Mutex::default(),
        }
    }

    /// Chooses among the targets of `chain` that serve; those in `tried` failed in this operation and are asked only
    /// when nothing else is left. `None` when nothing serves.
    pub(crate) fn choose(
        &self,
        map: &RoutingInfo,
        chain: &Chain,
        tried: &[TargetId],
        now: Instant,
    ) -> Option<ReadTicket<'_>> {
        let candidates: Vec<Candidate> = chain
            .serving()
            .filter_map(|target| {
                let entry = map.targets.get(&target)?;
                Some(Candidate {
                    target,
                    node: entry.node,
                    disk: entry.disk,
                })
            })
            .collect();
        let mut state = self.state.lock();
        let best = state.best(&candidates);
        let chosen = (0..candidates.len()).min_by_key(|&place| {
            let candidate = candidates[place];
            let avoided = state.is_avoided(candidate.node, now);
            // Among equals the one that was not asked for longest.
            let asked = state.disk(candidate).asked;
            let cost = match self.policy {
                ReplicaChoice::Adaptive => (state.cost(candidate, best, now), asked),
                ReplicaChoice::RoundRobin => (0, asked),
                ReplicaChoice::Head => (0, place as u64),
                ReplicaChoice::Tail => (0, (candidates.len() - place) as u64),
            };
            (tried.contains(&candidate.target), avoided, cost)
        })?;
        let Candidate { target, node, disk } = candidates[chosen];
        state.turn += 1;
        let turn = state.turn;
        state.disks.entry((node, disk)).or_default().asked = turn;
        state.nodes.entry(node).or_default().outstanding += 1;
        Some(ReadTicket {
            choice: self,
            target,
            node,
            disk,
        })
    }

    /// Asks `node` last from now on, for a while: it did not answer.
    pub(crate) fn avoid(&self, node: NodeId, now: Instant) {
        let mut state = self.state.lock();
        state.nodes.entry(node).or_default().avoid_until = Some(now + AVOID);
    }

    /// What was asked with these tickets, in one request, took so long, or at least so long if it was given up. Counts
    /// once for each disk.
    pub(crate) fn took<'a>(
        &self,
        tickets: impl Iterator<Item = &'a ReadTicket<'a>>,
        took: Duration,
        now: Instant,
    ) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut disks: Vec<_> = tickets.map(|ticket| (ticket.node, ticket.disk)).collect();
        disks.sort_unstable();
        disks.dedup();
        let mut state = self.state.lock();
        for disk in disks {
            let disk = state.disks.entry(disk).or_default();
            let latency = match disk.latency {
                Some(before) => before.mean_with(micros, now),
                None => micros,
            };
            disk.latency = Some(Latency {
                micros: latency,
                at: now,
            });
        }
    }
}

impl Latency {
    /// How often a difference has halved since.
    fn halvings(self, now: Instant) -> u32 {
        let idle = now.saturating_duration_since(self.at);
        u32::try_from(idle.as_millis() / FORGIVE.as_millis()).unwrap_or(u32::MAX)
    }

    /// The mean after a newer one. What was long ago counts as little here as it does in `State::cost`.
    fn mean_with(self, newer: u64, now: Instant) -> u64 {
        let difference = self.micros.abs_diff(newer);
        let kept = difference - (difference >> WEIGHT_SHIFT);
        let kept = kept.checked_shr(self.halvings(now)).unwrap_or(0);
        if self.micros > newer {
            newer + kept
        } else {
            newer - kept
        }
    }
}

impl State {
    fn is_avoided(&self, node: NodeId, now: Instant) -> bool {
        let until = self.nodes.get(&node).and_then(|load| load.avoid_until);
        until.is_some_and(|until| now < until)
    }

    fn disk(&self, candidate: Candidate) -> Disk {
        let disk = self.disks.get(&(candidate.node, candidate.disk));
        disk.copied().unwrap_or_default()
    }

    /// The least latency of those that are known.
    fn best(&self, candidates: &[Candidate]) -> u64 {
        let known = candidates
            .iter()
            .filter_map(|candidate| self.disk(*candidate).latency);
        known.map(|latency| latency.micros).min().unwrap_or(0)
    }

    /// What a read is expected to take. Of a disk that is not known only good is thought, so that it becomes known.
    fn cost(&self, candidate: Candidate, best: u64, now: Instant) -> u64 {
        let expected = self.disk(candidate).latency.map_or(best, |latency| {
            let more = latency.micros.saturating_sub(best);
            best + more.checked_shr(latency.halvings(now)).unwrap_or(0)
        });
        let equal = expected <= best.saturating_mul(2).saturating_add(SLACK_MICROS);
        let expected = if equal { best } else { expected };
        let load = self.nodes.get(&candidate.node).copied();
        let waiting = load.unwrap_or_default().outstanding + 1;
        expected.max(1).saturating_mul(waiting)
    }
}

/// A read under way at a target; counted until dropped.
#[derive(Debug)]
pub(crate) struct ReadTicket<'a> {
    choice: &'a TargetChoice,
    pub(crate) target: TargetId,
    pub(crate) node: NodeId,
    disk: DiskIndex,
}

impl Drop for ReadTicket<'_> {
    fn drop(&mut self) {
        let mut state = self.choice.state.lock();
        if let Some(load) = state.nodes.get_mut(&self.node) {
            load.outstanding -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
