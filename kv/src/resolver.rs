//! Decides whether a transaction may commit: pure, told the time, used by every store of ours.
//!
//! It remembers who wrote where, from a moving oldest version on. A transaction that read before that is
//! too old to be judged. The oldest version is the one that was current `limits::TRANSACTION_AGE_MAX` ago,
//! or a later one when more than `entries_max` writes are remembered.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound::{Excluded, Included},
    sync::Arc,
    time::Duration,
};

use common::env::Instant;

use crate::{error::KvError, key::KeyRange, limits, transaction::CommitVersion};

/// How far apart the pairs of time and version are that the window is cut by.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// Writes remembered at most, about 100 bytes each.
pub(crate) const ENTRIES_MAX: usize = 100_000;

#[derive(Debug)]
pub(crate) struct Resolver {
    /// The last version that wrote a key. Keys are copies, lest they hold the memory of a whole table.
    points: BTreeMap<Arc<[u8]>, CommitVersion>,
    /// The same in order of versions; an entry that is no longer in `points` was overwritten.
    point_log: VecDeque<(CommitVersion, Arc<[u8]>)>,
    /// Ranges written, in order of versions. Looked through from the back, down to the read version.
    ranges: VecDeque<(CommitVersion, KeyRange)>,
    /// Every write up to here is forgotten.
    oldest: CommitVersion,
    /// At that time this was the current version.
    samples: VecDeque<(Instant, CommitVersion)>,
    entries_max: usize,
}

impl Resolver {
    /// Nothing was written since `current`.
    pub(crate) fn new(current: CommitVersion, entries_max: usize) -> Self {
        Self {
            points: BTreeMap::new(),
            point_log: VecDeque::new(),
            ranges: VecDeque::new(),
            oldest: current,
            samples: VecDeque::new(),
            entries_max,
        }
    }

    /// Who read before this version is too old.
    pub(crate) fn oldest(&self) -> CommitVersion {
        self.oldest
    }

    /// Whether nothing in `reads` was written after `read_version`.
    pub(crate) fn check(
        &self,
        read_version: CommitVersion,
        reads: &[KeyRange],
    ) -> Result<(), KvError> {
        if reads.is_empty() {
            return Ok(());
        }
        if read_version < self.oldest {
            return Err(KvError::TooOld);
        }
        let changed = reads
            .iter()
            .any(|range| self.point_written(read_version, range));
        let recent = || {
            self.ranges
                .iter()
                .rev()
                .take_while(|(version, _range)| *version > read_version)
        };
        let covered = || recent().any(|(_v, range)| reads.iter().any(|read| read.overlaps(range)));
        if changed || covered() {
            return Err(KvError::Conflict);
        }
        Ok(())
    }

    fn point_written(&self, read_version: CommitVersion, range: &KeyRange) -> bool {
        if range.is_empty() {
            return false;
        }
        let bounds = (Included(range.begin.as_ref()), Excluded(range.end.as_ref()));
        self.points
            .range::<[u8], _>(bounds)
            .any(|(_key, version)| *version > read_version)
    }

    /// Remembers what a commit wrote. Versions rise from call to call.
    pub(crate) fn record(&mut self, version: CommitVersion, writes: Vec<KeyRange>) {
        for range in writes {
            if range.is_single() {
                let key: Arc<[u8]> = range.begin.as_ref().into();
                self.points.insert(key.clone(), version);
                self.point_log.push_back((version, key));
            } else if !range.is_empty() {
                self.ranges.push_back((version, range));
            }
        }
    }

    /// Moves the window: at `now` the last version committed is `current`. Call it after each commit or
    /// group of them.
    pub(crate) fn advance(&mut self, now: Instant, current: CommitVersion) {
        let due = self
            .samples
            .back()
            .is_none_or(|(last, _version)| now.duration_since(*last) >= SAMPLE_EVERY);
        if due {
            self.samples.push_back((now, current));
        }
        while let Some((time, version)) = self.samples.front().copied()
            && now.duration_since(time) > limits::TRANSACTION_AGE_MAX + SAMPLE_EVERY
        {
            self.forget_up_to(version);
            self.samples.pop_front();
        }
        while self.point_log.len() + self.ranges.len() > self.entries_max {
            let point = self.point_log.front().map(|(version, _key)| *version);
            let range = self.ranges.front().map(|(version, _range)| *version);
            let Some(first) = [point, range].into_iter().flatten().min() else {
                break;
            };
            self.forget_up_to(first);
        }
    }

    fn forget_up_to(&mut self, version: CommitVersion) {
        self.oldest = self.oldest.max(version);
        while let Some((written, _key)) = self.point_log.front()
            && *written <= version
            && let Some((_version, key)) = self.point_log.pop_front()
        {
            if self.points.get(&key).is_some_and(|last| *last <= version) {
                self.points.remove(&key);
            }
        }
        while self
            .ranges
            .front()
            .is_some_and(|(written, _range)| *written <= version)
        {
            self.ranges.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: fn(u64) -> CommitVersion = CommitVersion;

    fn range(begin: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(begin, end)
    }

    #[test]
    fn only_later_writes_conflict() {
        let mut resolver = Resolver::new(V(0), 100);
        resolver.record(V(5), vec![KeyRange::single(b"k"), range("p", "q")]);
        let single = [KeyRange::single(b"k")];
        assert_eq!(resolver.check(V(4), &single), Err(KvError::Conflict));
        assert_eq!(resolver.check(V(5), &single), Ok(()));
        let covering = [range("a", "z")];
        assert_eq!(resolver.check(V(4), &covering), Err(KvError::Conflict));
        assert_eq!(resolver.check(V(4), &[range("l", "p")]), Ok(()));
        assert_eq!(
            resolver.check(V(4), &[KeyRange::single(b"p!")]),
            Err(KvError::Conflict)
        );
        assert_eq!(resolver.check(V(4), &[]), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_remembered_for_the_life_of_a_transaction() {
        let env = common::env::Env::seeded(1);
        let mut resolver = Resolver::new(V(0), 100);
        resolver.record(V(1), vec![KeyRange::single(b"k")]);
        resolver.advance(env.now(), V(1));
        env.sleep(limits::TRANSACTION_AGE_MAX).await;
        resolver.advance(env.now(), V(1));
        let reads = [KeyRange::single(b"k")];
        assert_eq!(resolver.check(V(0), &reads), Err(KvError::Conflict));
        env.sleep(SAMPLE_EVERY * 2).await;
        resolver.advance(env.now(), V(1));
        assert_eq!(resolver.check(V(0), &reads), Err(KvError::TooOld));
        assert_eq!(resolver.check(V(1), &reads), Ok(()));
        assert!(resolver.points.is_empty() && resolver.point_log.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_by_forgetting_the_oldest() {
        let env = common::env::Env::seeded(1);
        let mut resolver = Resolver::new(V(0), 4);
        for version in 1..=10 {
            resolver.record(V(version), vec![KeyRange::single(&version.to_be_bytes())]);
            resolver.record(V(version), vec![range("a", "c")]);
            resolver.advance(env.now(), V(version));
        }
        assert_eq!((resolver.points.len(), resolver.ranges.len()), (2, 2));
        assert_eq!(resolver.oldest(), V(8));
        assert_eq!(
            resolver.check(V(7), &[range("x", "y")]),
            Err(KvError::TooOld)
        );
        assert_eq!(
            resolver.check(V(8), &[range("b", "b\0")]),
            Err(KvError::Conflict)
        );
    }
}
