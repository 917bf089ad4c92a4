//! Scrub of one disk (protocol E9): every chunk is read and verified within an interval, at a bounded rate, and damaged
//! ones are repaired from their chain.
//!
//! ```text
//!   rate   what the disk holds, over 7/8 of the interval; at least 1 MiB a second
//!   step   some chunks, one at a time, and then a pause that makes the rate
//!   round  from the first chunk to the last; the next one begins 7/8 of an interval after this one began
//! ```
//!
//! Damage goes the way of damage that a reader finds (`repair`). That has another queue: a step begins only while it has
//! room, so nothing that was found is forgotten. What became of it is looked at afterwards by reading the chunk again.
//! Where it stood is not remembered across a restart: the first round begins anew.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use common::{
    env::Instant,
    worker::{Next, Worker},
};
use engine::{ChunkKey, Engine, ScrubBudget, ScrubDamage, Scrubbed};
use types::status::Status;

use crate::{change, disk::Disk, metrics, node::Node};

/// Below this the rate never falls: small disks are through in hours.
const RATE_MIN: u64 = 1 << 20;
/// One step reads about so much: at the usual rates one step takes seconds.
const STEP: ScrubBudget = ScrubBudget {
    slot_bytes: 4 << 20,
    chunks: 64,
};
/// Between two steps at least, also when there was nothing to read.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The status is renewed this often between rounds.
const REST_MAX: Duration = Duration::from_secs(60);
/// While something waits for its repair, it is looked at this often.
const REPAIR_PAUSE: Duration = Duration::from_secs(1);

/// What was done, in this life of the process or in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    slot_bytes: u64,
    pub(crate) damaged: u64,
    pub(crate) repaired: u64,
    /// Nobody else serves it, or the repair failed.
    pub(crate) unrepaired: u64,
}

#[derive(Debug)]
struct Round {
    started: Instant,
    cursor: Option<ChunkKey>,
    counts: Counts,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Scrubber {
    node: Arc<Node>,
    disk: Arc<Disk>,
    /// Rounds begin so long after each other.
    period: Duration,
    round: Option<Round>,
    next_round: Option<Instant>,
    rounds: u64,
    /// When the last round ended, and what it saw.
    last: Option<(Instant, Counts)>,
    total: Counts,
    /// Damaged chunks whose repair was asked for.
    repairing: BTreeSet<ChunkKey>,
}

impl Scrubber {
    /// Every chunk of `disk` within `interval`.
    pub(crate) fn new(node: Arc<Node>, disk: Arc<Disk>, interval: Duration) -> Self {
        Self {
            node,
            disk,
            // The rest is for pauses that are longer than wanted, and for what is written meanwhile.
            period: interval / 8 * 7,
            round: None,
            next_round: None,
            rounds: 0,
            last: None,
            total: Counts::default(),
            repairing: BTreeSet::new(),
        }
    }

    /// What was done so far, by all rounds.
    #[cfg(test)]
    pub(crate) fn total(&self) -> Counts {
        self.total
    }

    /// Rounds that have ended.
    #[cfg(test)]
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds
    }

    async fn step_on(&mut self, engine: &Engine) -> Result<Next, engine::EngineError> {
        self.look_at_repairs(engine).await?;
        let now = self.node.env.now();
        if self.round.is_none()
            && let Some(start) = self.next_round.filter(|&start| start > now)
        {
            let rest = if self.repairing.is_empty() {
                REST_MAX
            } else {
                REPAIR_PAUSE
            };
            return Ok(Next::Wait(start.duration_since(now).min(rest)));
        }
        if (self.node.repairs.capacity() as u64) < STEP.chunks {
            return Ok(Next::Wait(REPAIR_PAUSE));
        }
        let round = self.round.get_or_insert_with(|| Round {
            started: now,
            cursor: None,
            counts: Counts::default(),
        });
        let scrubbed = engine.scrub(round.cursor, STEP).await?;
        round.cursor = scrubbed.next;
        let slot_bytes = scrubbed.slot_bytes;
        self.note(&scrubbed);
        for damage in scrubbed.damages {
            self.found(damage);
        }
        if scrubbed.next.is_none() {
            self.end_round();
        }
        let rate = rate(engine.space().used_bytes, self.period);
        let spent = self.node.env.now().duration_since(now);
        Ok(Next::Wait(pause(slot_bytes, rate, spent)))
    }

    fn note(&mut self, scrubbed: &Scrubbed) {
        metrics::scrubbed(self.disk.index, scrubbed.chunks, scrubbed.bytes);
        self.count(|counts| {
            counts.chunks += scrubbed.chunks;
            counts.bytes += scrubbed.bytes;
            counts.slot_bytes += scrubbed.slot_bytes;
        });
    }

    fn count(&mut self, change: impl Fn(&mut Counts)) {
        change(&mut self.total);
        if let Some(round) = &mut self.round {
            change(&mut round.counts);
        }
    }

    /// Asks for the repair of a damaged chunk, if there is someone to get it from.
    fn found(&mut self, damage: ScrubDamage) {
        metrics::scrub_damaged(self.disk.index);
        self.count(|counts| counts.damaged += 1);
        let ScrubDamage { key, error } = damage;
        let status = Status::from(error);
        let target = self.node.target(key.target);
        let helper = target.as_ref().and_then(|target| {
            let view = target.view();
            view.chain.serving().find(|other| *other != target.id)
        });
        match (target, helper) {
            (Some(target), Some(_)) => {
                change::damage(&self.node, &target, key.chunk, &status);
                self.repairing.insert(key);
            }
            _ => {
                tracing::error!(
                    target = key.target.0,
                    chunk = %key.chunk,
                    %status,
                    "scrub found damage, and no other target of the chain serves to repair it from"
                );
                self.settled(false);
            }
        }
    }

    fn settled(&mut self, repaired: bool) {
        metrics::scrub_settled(self.disk.index, repaired);
        self.count(|counts| {
            if repaired {
                counts.repaired += 1;
            } else {
                counts.unrepaired += 1;
            }
        });
    }

    /// Reads again what `repair` is done with.
    async fn look_at_repairs(&mut self, engine: &Engine) -> Result<(), engine::EngineError> {
        let is_done = |key: &ChunkKey| {
            let target = self.node.target(key.target);
            target.is_none_or(|target| !target.is_damaged(key.chunk))
        };
        let done: Vec<ChunkKey> = self.repairing.iter().copied().filter(is_done).collect();
        for key in done {
            self.repairing.remove(&key);
            let left = engine.scrub_chunk(key).await?;
            if let Some(error) = &left {
                tracing::error!(
                    target = key.target.0,
                    chunk = %key.chunk,
                    %error,
                    "damage that scrub found was not repaired; the next round tries again"
                );
            }
            self.settled(left.is_none());
        }
        Ok(())
    }

    fn end_round(&mut self) {
        let Some(round) = self.round.take() else {
            return;
        };
        let now = self.node.env.now();
        self.rounds += 1;
        metrics::scrub_round_ended(self.disk.index);
        let Counts {
            chunks,
            bytes,
            damaged,
            ..
        } = round.counts;
        tracing::info!(disk = %self.disk.index, chunks, bytes, damaged, "scrub has seen the whole disk");
        self.next_round = Some(round.started + self.period);
        self.last = Some((now, round.counts));
    }
}

impl Worker for Scrubber {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn instance(&self) -> Option<String> {
        Some(self.disk.index.to_string())
    }

    async fn step(&mut self) -> Next {
        let disk = self.disk.clone();
        let Ok(engine) = disk.engine() else {
            return Next::Done;
        };
        match self.step_on(engine).await {
            Ok(next) => next,
            Err(error) => {
                // The disk stays out of service until it is opened again, by another process.
                tracing::info!(disk = %disk.index, %error, "scrub ends with its disk");
                Next::Done
            }
        }
    }

    fn status(&self) -> String {
        let used = self
            .disk
            .engine()
            .map_or(0, |engine| engine.space().used_bytes);
        let doing = match &self.round {
            Some(round) => format!(
                "round {}, {} % done, {}",
                self.rounds + 1,
                percent(round.counts.slot_bytes, used),
                seen(&round.counts)
            ),
            None => "resting".to_owned(),
        };
        let last = match &self.last {
            None => "no round has ended yet".to_owned(),
            Some((ended, counts)) => {
                let ago = self.node.env.now().duration_since(*ended).as_secs() / 60;
                format!("the last round ended {ago} min ago, {}", seen(counts))
            }
        };
        let Counts {
            damaged,
            repaired,
            unrepaired,
            ..
        } = self.total;
        format!(
            "{doing}; {last}; since the start {damaged} damaged, {repaired} repaired, {unrepaired} not repaired"
        )
    }
}

fn seen(counts: &Counts) -> String {
    let Counts {
        chunks,
        bytes,
        damaged,
        ..
    } = counts;
    format!(
        "{chunks} chunks of {} MiB verified, {damaged} damaged",
        bytes >> 20
    )
}

fn percent(done: u64, whole: u64) -> u64 {
    (done.saturating_mul(100) / whole.max(1)).min(100)
}

/// Bytes in a second, so that so many are through in `period`.
fn rate(used_bytes: u64, period: Duration) -> u64 {
    (used_bytes / period.as_secs().max(1)).max(RATE_MIN)
}

/// The pause after a step over so many bytes that took this long.
fn pause(bytes: u64, rate: u64, spent: Duration) -> Duration {
    let due = Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1));
    due.saturating_sub(spent).max(PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn the_rate_follows_what_is_used_and_has_a_minimum() {
        assert_eq!(rate(0, 14 * DAY), RATE_MIN);
        assert_eq!(rate(1 << 30, 14 * DAY), RATE_MIN);
        let full = 30_u64 << 40;
        let seconds = full / rate(full, 14 * DAY);
        assert!((14 * DAY.as_secs()).abs_diff(seconds) < 60, "{seconds}");
        assert_eq!(rate(full, Duration::ZERO), full);
    }

    #[test]
    fn pauses_make_the_rate_and_never_vanish() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(4 << 20, 1 << 20, Duration::ZERO), 4 * second);
        assert_eq!(pause(4 << 20, 1 << 20, second), 3 * second);
        assert_eq!(pause(4 << 20, 1 << 20, 9 * second), PAUSE_MIN);
        assert_eq!(pause(0, 1 << 20, Duration::ZERO), PAUSE_MIN);
        assert!(pause(u64::MAX, 1, Duration::ZERO) > DAY);
    }
}
