//! Exactly once (protocol W2): per channel of a client the last update and what came of it.
//!
//! A channel has one update outstanding. The table is kept at every replica: the head fills it as it
//! admits updates, the others as they commit, and all of them from the tags of the chunk records when
//! they open, so a promoted or restarted head still knows. It is bounded by age and by number.

use std::{collections::BTreeMap, time::Duration};

use common::env::Instant;
use types::{
    chunk::{ChunkId, UpdateTag},
    id::{ChannelId, ChannelSeq, ClientId},
    rpc::storage::UpdateDone,
};

/// An entry nobody asked for in this long is forgotten: far above any client's deadline of 60 s.
const ENTRY_AGE_MAX: Duration = Duration::from_secs(600);
/// Entries at most: 1,024 channels of 128 clients. About 100 bytes each.
const ENTRIES_MAX: usize = 128 << 10;
/// The table is not swept below this length.
const SWEEP_LENGTH_MIN: usize = 4096;

/// What to do with an update that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is new, or an earlier attempt came to nothing: run it.
    Run,
    /// It was run: this is what came of it.
    Answer(UpdateDone),
    /// The channel's update is still running.
    Busy,
    /// The channel has moved on.
    Stale,
    /// The same number was used for another chunk: the client is broken.
    Reused,
}

#[derive(Clone, Debug)]
enum State {
    Running,
    Done(UpdateDone),
    /// An attempt ended without a result; it may have left a pending version.
    Open,
}

#[derive(Clone, Debug)]
struct Entry {
    seq: ChannelSeq,
    chunk: ChunkId,
    state: State,
    touched: Instant,
}

/// The channels of one target.
#[derive(Debug)]
pub(crate) struct DedupTable {
    entries: BTreeMap<(ClientId, ChannelId), Entry>,
    sweep_at: usize,
}

impl Default for DedupTable {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            sweep_at: SWEEP_LENGTH_MIN,
        }
    }
}

impl DedupTable {
    /// An update came in at the head. After `Run` the caller owes a `finish`.
    pub(crate) fn begin(&mut self, tag: UpdateTag, chunk: ChunkId, now: Instant) -> Admission {
        if let Some(entry) = self.entries.get_mut(&(tag.client, tag.channel)) {
            if tag.seq < entry.seq {
                return Admission::Stale;
            }
            entry.touched = now;
            match &entry.state {
                State::Running => return Admission::Busy,
                _ if tag.seq > entry.seq => {}
                _ if entry.chunk != chunk => return Admission::Reused,
                State::Done(done) => return Admission::Answer(done.clone()),
                State::Open => {}
            }
        }
        self.put(tag, chunk, State::Running, now);
        Admission::Run
    }

    /// The run that `begin` allowed has ended; `None` when nothing is known to have come of it.
    pub(crate) fn finish(
        &mut self,
        tag: UpdateTag,
        chunk: ChunkId,
        done: Option<UpdateDone>,
        now: Instant,
    ) {
        match done {
            Some(done) => self.record(tag, chunk, done, now),
            None => {
                if let Some(entry) = self.entries.get_mut(&(tag.client, tag.channel))
                    && entry.seq == tag.seq
                    && matches!(entry.state, State::Running)
                {
                    entry.state = State::Open;
                }
            }
        }
    }

    /// What came of this very update, when that is known. To be asked again at the update's turn: the
    /// predecessor may have sent it too, and another update may have followed it since.
    pub(crate) fn done(&self, tag: UpdateTag) -> Option<UpdateDone> {
        let entry = self.entries.get(&(tag.client, tag.channel))?;
        match &entry.state {
            State::Done(done) if entry.seq == tag.seq => Some(done.clone()),
            State::Done(_) | State::Running | State::Open => None,
        }
    }

    /// A version made by `tag` was committed here.
    pub(crate) fn record(
        &mut self,
        tag: UpdateTag,
        chunk: ChunkId,
        done: UpdateDone,
        now: Instant,
    ) {
        if !self.is_behind(tag) {
            self.put(tag, chunk, State::Done(done), now);
        }
    }

    /// A pending version made by `tag` was found when the target was opened.
    pub(crate) fn record_pending(&mut self, tag: UpdateTag, chunk: ChunkId, now: Instant) {
        if !self.is_behind(tag) {
            self.put(tag, chunk, State::Open, now);
        }
    }

    /// Whether the channel has moved past `tag`.
    fn is_behind(&self, tag: UpdateTag) -> bool {
        self.entries
            .get(&(tag.client, tag.channel))
            .is_some_and(|entry| entry.seq > tag.seq)
    }

    fn put(&mut self, tag: UpdateTag, chunk: ChunkId, state: State, now: Instant) {
        let entry = Entry {
            seq: tag.seq,
            chunk,
            state,
            touched: now,
        };
        self.entries.insert((tag.client, tag.channel), entry);
        if self.entries.len() >= self.sweep_at {
            self.sweep(now);
        }
    }

    /// Forgets what is old, and the older half when that is not enough. The next sweep comes when the
    /// table has doubled, so that the cost per update stays constant.
    fn sweep(&mut self, now: Instant) {
        let running = |entry: &Entry| matches!(entry.state, State::Running);
        self.entries
            .retain(|_, e| running(e) || now.duration_since(e.touched) < ENTRY_AGE_MAX);
        if self.entries.len() >= ENTRIES_MAX {
            let mut ages: Vec<Instant> = self.entries.values().map(|e| e.touched).collect();
            ages.sort_unstable();
            let median = ages[ages.len() / 2];
            self.entries.retain(|_, e| running(e) || e.touched > median);
        }
        self.sweep_at = (self.entries.len() * 2).clamp(SWEEP_LENGTH_MIN, ENTRIES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use types::{
        checksum::Checksum,
        id::InodeId,
        version::{ChainVersion, ChunkVersion},
    };

    use super::*;

    fn tag(channel: u16, seq: u64) -> UpdateTag {
        UpdateTag {
            client: ClientId(1),
            channel: ChannelId(channel),
            seq: ChannelSeq(seq),
        }
    }

    fn chunk(index: u32) -> ChunkId {
        ChunkId {
            inode: InodeId(5),
            index,
        }
    }

    fn done(version: u32) -> UpdateDone {
        UpdateDone {
            length: 10,
            commit_version: ChunkVersion(version),
            chain_version: ChainVersion(1),
            checksum: Checksum(9),
        }
    }

    fn now() -> Instant {
        common::env::Env::seeded(1).now()
    }

    #[tokio::test]
    async fn a_channel_runs_one_update_once() {
        let (mut table, now) = (DedupTable::default(), now());
        assert_eq!(table.begin(tag(0, 5), chunk(0), now), Admission::Run);
        assert_eq!(table.begin(tag(0, 5), chunk(0), now), Admission::Busy);
        assert_eq!(table.begin(tag(0, 6), chunk(1), now), Admission::Busy);
        assert_eq!(table.begin(tag(0, 4), chunk(0), now), Admission::Stale);
        assert_eq!(table.begin(tag(1, 4), chunk(0), now), Admission::Run);
        table.finish(tag(0, 5), chunk(0), Some(done(3)), now);
        assert_eq!(
            table.begin(tag(0, 5), chunk(0), now),
            Admission::Answer(done(3))
        );
        assert_eq!(table.begin(tag(0, 5), chunk(1), now), Admission::Reused);
        assert_eq!(table.begin(tag(0, 6), chunk(1), now), Admission::Run);
        assert_eq!(table.begin(tag(0, 5), chunk(0), now), Admission::Stale);
    }

    #[tokio::test]
    async fn a_failed_attempt_may_run_again() {
        let (mut table, now) = (DedupTable::default(), now());
        assert_eq!(table.begin(tag(0, 5), chunk(0), now), Admission::Run);
        table.finish(tag(0, 5), chunk(0), None, now);
        assert_eq!(table.begin(tag(0, 5), chunk(0), now), Admission::Run);
    }

    #[tokio::test]
    async fn a_commit_from_the_predecessor_answers_a_running_retry() {
        let (mut table, now) = (DedupTable::default(), now());
        assert_eq!(table.begin(tag(0, 5), chunk(0), now), Admission::Run);
        assert_eq!(table.done(tag(0, 5)), None);
        table.record(tag(0, 5), chunk(0), done(3), now);
        assert_eq!(table.done(tag(0, 5)), Some(done(3)));
        assert_eq!(table.done(tag(0, 6)), None);
        table.finish(tag(0, 5), chunk(0), None, now);
        assert_eq!(
            table.begin(tag(0, 5), chunk(0), now),
            Admission::Answer(done(3))
        );
    }

    #[tokio::test]
    async fn rebuilding_keeps_the_highest_number_of_a_channel() {
        let (mut table, now) = (DedupTable::default(), now());
        table.record(tag(0, 7), chunk(1), done(2), now);
        table.record(tag(0, 3), chunk(0), done(9), now);
        table.record_pending(tag(1, 2), chunk(2), now);
        assert_eq!(table.begin(tag(0, 3), chunk(0), now), Admission::Stale);
        assert_eq!(
            table.begin(tag(0, 7), chunk(1), now),
            Admission::Answer(done(2))
        );
        assert_eq!(table.begin(tag(1, 2), chunk(2), now), Admission::Run);
    }

    #[tokio::test]
    async fn old_entries_are_forgotten_and_the_table_is_bounded() {
        let (mut table, start) = (DedupTable::default(), now());
        let client = |n: u32| UpdateTag {
            client: ClientId(u128::from(n)),
            channel: ChannelId(0),
            seq: ChannelSeq(1),
        };
        for n in 0..300_000_u32 {
            let at = start + Duration::from_millis(u64::from(n));
            table.record(client(n), chunk(n), done(1), at);
        }
        assert!(table.entries.len() <= ENTRIES_MAX);
        let (n, soon) = (299_999, start + Duration::from_secs(301));
        let newest = table.begin(client(n), chunk(n), soon);
        assert_eq!(newest, Admission::Answer(done(1)));
        table.sweep(start + Duration::from_secs(3000));
        assert!(table.entries.len() <= 1, "{}", table.entries.len());
    }
}
