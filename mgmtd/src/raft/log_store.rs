//! The log of one member: vote, entries, what was purged, what is known to be committed.
//!
//! All of it is in memory, which a purge after each snapshot bounds, and in one file (`log_file`) from which it is read at start:
//! so reads cannot fail while running, and a file that cannot be read in full refuses to start.
//!
//! Invariants: entries are contiguous and follow the purged one directly; the file is fsynced before the memory
//! changes or anyone is told. `committed` alone may be older on disk: it only saves work at start.

use std::{collections::BTreeMap, fmt::Debug, io, ops::RangeBounds, path::Path, sync::Arc};

use common::{env::Env, sync::Mutex};
use openraft::{
    LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use serde::{Deserialize, Serialize};
use types::codec;

use super::{
    TypeConfig,
    log_file::{LogFile, Sync},
};

type Entry = openraft::Entry<TypeConfig>;

/// One record of the file. Encoded as postcard: variants are only ever appended.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Record {
    Vote(Vote<u64>),
    Entries(Vec<Entry>),
    /// Entries from this index on are gone.
    Truncated(u64),
    /// Entries up to this one are gone; a snapshot holds what they did.
    Purged(LogId<u64>),
    Committed(Option<LogId<u64>>),
}

#[derive(Debug, Default)]
struct Memory {
    vote: Option<Vote<u64>>,
    committed: Option<LogId<u64>>,
    purged: Option<LogId<u64>>,
    entries: BTreeMap<u64, Entry>,
    /// Only openraft's test suite, which appends entries with holes between them, sets this.
    #[cfg(test)]
    holes_allowed: bool,
}

/// See the module's text. Clones are readers of the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    env: Env,
    memory: Arc<Mutex<Memory>>,
    /// Locked in blocking threads only.
    file: Arc<Mutex<LogFile>>,
}

impl LogStore {
    /// Reads the log of `dir`, or makes an empty one.
    pub(crate) async fn open(env: &Env, dir: &Path) -> io::Result<Self> {
        let path = dir.join("raft.log");
        let (file, memory) = env
            .blocking(move || -> io::Result<_> {
                let (file, bodies) = LogFile::open(&path)?;
                let mut memory = Memory::default();
                for body in bodies {
                    let record: Record = codec::decode_body(&body).map_err(io::Error::other)?;
                    memory.take(record)?;
                }
                Ok((file, memory))
            })
            .await?;
        Ok(Self {
            env: env.clone(),
            memory: Arc::new(Mutex::new(memory)),
            file: Arc::new(Mutex::new(file)),
        })
    }

    /// What stands at an index, as far as it is known.
    pub(super) fn id_at(&self, index: u64) -> Option<LogId<u64>> {
        let memory = self.memory.lock();
        let entry = memory.entries.get(&index).map(|entry| entry.log_id);
        entry.or(memory.purged.filter(|purged| purged.index == index))
    }

    #[cfg(test)]
    pub(crate) fn allow_holes(&self) {
        self.memory.lock().holes_allowed = true;
    }

    /// Writes a record, then changes the memory accordingly.
    async fn record(&self, record: Record, sync: Sync) -> io::Result<()> {
        self.memory.lock().check(&record)?;
        let file = self.file.clone();
        let body = codec::encode_body(&record);
        self.env
            .blocking(move || file.lock().append(&body, sync))
            .await?;
        self.memory.lock().take(record)
    }

    /// Drops the purged entries from memory and file.
    async fn compact(&self, purged: LogId<u64>) -> io::Result<()> {
        let mut kept = self.memory.lock().kept_after(purged);
        let bodies: Vec<Vec<u8>> = kept.drain(..).map(|r| codec::encode_body(&r)).collect();
        let file = self.file.clone();
        self.env
            .blocking(move || file.lock().rewrite(&bodies))
            .await?;
        self.memory.lock().take(Record::Purged(purged))
    }
}

impl Memory {
    fn last_index(&self) -> Option<u64> {
        let last = self.entries.keys().next_back().copied();
        last.or(self.purged.map(|id| id.index))
    }

    fn check(&self, record: &Record) -> io::Result<()> {
        let Record::Entries(entries) = record else {
            return Ok(());
        };
        #[cfg(test)]
        if self.holes_allowed {
            return Ok(());
        }
        let mut last = self.last_index();
        for entry in entries {
            let index = entry.log_id.index;
            if let Some(last) = last.filter(|last| index != last + 1) {
                let text =
                    format!("entry {index} does not follow entry {last} of the manager's log");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            last = Some(index);
        }
        Ok(())
    }

    fn take(&mut self, record: Record) -> io::Result<()> {
        self.check(&record)?;
        match record {
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entries(entries) => {
                let keyed = entries.into_iter().map(|entry| (entry.log_id.index, entry));
                self.entries.extend(keyed);
            }
            Record::Truncated(from) => drop(self.entries.split_off(&from)),
            Record::Purged(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(upto);
            }
            Record::Committed(committed) => self.committed = committed,
        }
        Ok(())
    }

    /// The records of a file without the entries up to `purged`.
    fn kept_after(&self, purged: LogId<u64>) -> Vec<Record> {
        let mut records = Vec::new();
        records.extend(self.vote.map(Record::Vote));
        records.push(Record::Purged(purged));
        let entries: Vec<Entry> = self
            .entries
            .range(purged.index + 1..)
            .map(|(_, entry)| entry.clone())
            .collect();
        // In pieces, so that no record grows with the log.
        records.extend(
            entries
                .chunks(64)
                .map(|piece| Record::Entries(piece.to_vec())),
        );
        records.push(Record::Committed(self.committed));
        records
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        let memory = self.memory.lock();
        Ok(memory
            .entries
            .range(range)
            .map(|(_, entry)| entry.clone())
            .collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        let memory = self.memory.lock();
        let last = memory
            .entries
            .values()
            .next_back()
            .map(|entry| entry.log_id);
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: last.or(memory.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.record(Record::Vote(*vote), Sync::Now)
            .await
            .map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.memory.lock().vote)
    }

    async fn save_committed(
        &mut self,
        committed: Option<LogId<u64>>,
    ) -> Result<(), StorageError<u64>> {
        self.record(Record::Committed(committed), Sync::Later)
            .await
            .map_err(|error| StorageIOError::write(&error).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        Ok(self.memory.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        match self.record(Record::Entries(entries), Sync::Now).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                let fatal = StorageIOError::write_logs(&error).into();
                callback.log_io_completed(Err(error));
                Err(fatal)
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.record(Record::Truncated(log_id.index), Sync::Now)
            .await
            .map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.compact(log_id)
            .await
            .map_err(|error| StorageIOError::write_logs(&error).into())
    }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload, Membership};
    use types::id::{ChainTableId, ClientId, DiskIndex, NodeId, RequestId};

    use super::*;
    use crate::command::{Asked, Command, Seat};

    fn log_id(index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn entry(index: u64) -> Entry {
        Entry {
            log_id: log_id(index),
            payload: EntryPayload::Blank,
        }
    }

    fn indices(store: &LogStore) -> Vec<u64> {
        store.memory.lock().entries.keys().copied().collect()
    }

    #[tokio::test]
    async fn all_of_it_is_there_after_a_restart() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::real());
        let mut store = LogStore::open(&env, dir.path()).await.unwrap();
        let entries = (0..200).map(entry).collect();
        store
            .record(Record::Entries(entries), Sync::Now)
            .await
            .unwrap();
        store.save_vote(&Vote::new_committed(3, 2)).await.unwrap();
        store.truncate(log_id(190)).await.unwrap();
        store.save_committed(Some(log_id(150))).await.unwrap();
        store.purge(log_id(99)).await.unwrap();
        store
            .record(Record::Entries(vec![entry(190)]), Sync::Now)
            .await
            .unwrap();

        let mut again = LogStore::open(&env, dir.path()).await.unwrap();
        assert_eq!(indices(&again), (100..=190).collect::<Vec<u64>>());
        assert_eq!(
            again.read_vote().await.unwrap(),
            Some(Vote::new_committed(3, 2))
        );
        assert_eq!(again.read_committed().await.unwrap(), Some(log_id(150)));
        let state = again.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(log_id(99)));
        assert_eq!(state.last_log_id, Some(log_id(190)));
    }

    #[tokio::test]
    async fn an_entry_that_would_leave_a_hole_is_refused() {
        let (dir, env) = (tempfile::tempdir().unwrap(), Env::real());
        let mut store = LogStore::open(&env, dir.path()).await.unwrap();
        store
            .record(Record::Entries(vec![entry(0)]), Sync::Now)
            .await
            .unwrap();
        for wrong in [0, 2] {
            let refused = store
                .record(Record::Entries(vec![entry(wrong)]), Sync::Now)
                .await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        store.purge(log_id(10)).await.unwrap();
        assert!(
            store
                .record(Record::Entries(vec![entry(12)]), Sync::Now)
                .await
                .is_err()
        );
        store
            .record(Record::Entries(vec![entry(11)]), Sync::Now)
            .await
            .unwrap();
        assert_eq!(indices(&store), [11]);
    }

    #[test]
    fn the_bytes_of_records_are_pinned() {
        let asked = Asked {
            client: ClientId(1),
            request: RequestId(2),
        };
        let seat = Seat {
            node: NodeId(300),
            disk: DiskIndex(4),
        };
        let command = Command::CreateChains {
            table: ChainTableId(1),
            chains: vec![vec![seat]],
            asked,
        };
        let created = Entry {
            log_id: log_id(7),
            payload: EntryPayload::Normal(command),
        };
        let membership = Membership::new(vec![[1, 2].into()], None);
        let joined = Entry {
            log_id: log_id(8),
            payload: EntryPayload::Membership(membership),
        };
        let records = [
            Record::Vote(Vote::new_committed(3, 2)),
            Record::Entries(vec![created, joined]),
            Record::Truncated(9),
            Record::Purged(log_id(6)),
            Record::Committed(Some(log_id(7))),
        ];
        let hex = |bytes: Vec<u8>| -> String {
            assert!(codec::decode_body::<Record>(&bytes).is_ok());
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let encoded: Vec<String> = records
            .iter()
            .map(|record| hex(codec::encode_body(record)))
            .collect();
        let pinned = [
            "00030201",
            "01020101070102010101ac0204010201010802010201020201000200",
            "0209",
            "03010106",
            "0401010107",
        ];
        assert_eq!(encoded, pinned);
    }
}
