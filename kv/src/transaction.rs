//! The two traits that every store implements. Both can be made into trait objects.
//!
//! A transaction reads from one version of the store, the one at its first read, plus its own writes. It
//! commits if nothing that it read (in `Serializable` mode) was written since. Nothing is locked; dropping
//! a transaction ends it. A `commit` future that is dropped leaves an unknown result behind, like 1021.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    error::KvError,
    key::{KeyRange, successor},
};

/// A place in the order of commits. Rises with every commit that writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitVersion(pub u64);

/// Whether what is read must stay unchanged until the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// Adds what was read to the read conflict ranges.
    Serializable,
    /// Adds nothing.
    Snapshot,
}

/// How much of a range to read, and from which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeOptions {
    /// At most this many items. A page may hold fewer although there are more: see `RangePage::more`.
    pub limit: usize,
    /// From the last key to the first.
    pub reverse: bool,
}

impl Default for RangeOptions {
    fn default() -> Self {
        Self {
            limit: usize::MAX,
            reverse: false,
        }
    }
}

/// A part of a range: the first of its items in the direction asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangePage {
    /// Keys with their values.
    pub items: Vec<(Bytes, Bytes)>,
    /// There may be more items: go on with `rest`.
    pub more: bool,
}

impl RangePage {
    /// What of `range` lies behind this page; `None` when the range was read to its end.
    pub fn rest(&self, range: &KeyRange, reverse: bool) -> Option<KeyRange> {
        if !self.more {
            return None;
        }
        let Some((last, _)) = self.items.last() else {
            return Some(range.clone());
        };
        Some(if reverse {
            KeyRange::new(range.begin.clone(), last.clone())
        } else {
            KeyRange::new(successor(last), range.end.clone())
        })
    }
}

/// What a transaction would conflict on, sorted and without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflictSets {
    /// The transaction fails when another one writes here first.
    pub reads: Vec<KeyRange>,
    /// Other transactions that read here fail.
    pub writes: Vec<KeyRange>,
}

/// A store.
#[async_trait]
pub trait Kv: Send + Sync + fmt::Debug + 'static {
    /// Starts a transaction. It reads the store as it is at its first read.
    fn begin(&self) -> Box<dyn Transaction>;

    /// Returns once everything committed before the call is on stable storage.
    ///
    /// # Errors
    /// Any `KvError` that does not concern a transaction.
    async fn sync(&self) -> Result<(), KvError>;
}

/// A transaction. A write that breaks a limit is reported by the next read or by the commit.
#[async_trait]
pub trait Transaction: Send {
    /// The value of a key, with the transaction's own writes.
    ///
    /// # Errors
    /// `TooOld`, `Unavailable`, or a permanent error.
    async fn get(&mut self, key: &[u8], mode: ReadMode) -> Result<Option<Bytes>, KvError>;

    /// A page of a range, with the transaction's own writes but without its versionstamped keys. In
    /// `Serializable` mode the part that the page covers is added to the read conflicts: keys
    /// which appear there later conflict too.
    ///
    /// # Errors
    /// As `get`.
    async fn get_range(
        &mut self,
        range: KeyRange,
        options: RangeOptions,
        mode: ReadMode,
    ) -> Result<RangePage, KvError>;

    /// Writes a key.
    fn set(&mut self, key: &[u8], value: &[u8]);

    /// Removes a key.
    fn clear(&mut self, key: &[u8]);

    /// Removes all keys in a range.
    fn clear_range(&mut self, range: KeyRange);

    /// Adds to a value, a little-endian number of 8 bytes that wraps around; a missing one is 0. Reads
    /// nothing for conflict.
    fn atomic_add(&mut self, key: &[u8], delta: i64);

    /// Raises a value, a little-endian unsigned number of 8 bytes; a missing one is 0. Reads nothing for
    /// conflict.
    fn atomic_max(&mut self, key: &[u8], value: u64);

    /// Writes the key `prefix` + versionstamp of this commit + `suffix`.
    fn set_versionstamped_key(&mut self, prefix: &[u8], suffix: &[u8], value: &[u8]);

    /// Makes the transaction fail if another one writes in `range` first.
    fn add_read_conflict(&mut self, range: KeyRange);

    /// Makes other transactions fail that have read in `range`.
    fn add_write_conflict(&mut self, range: KeyRange);

    /// The conflict sets so far, for tests that state exactly what an operation reads and writes.
    fn conflicts(&self) -> ConflictSets;

    /// Commits. Without writes and write conflicts there is nothing to do and it succeeds.
    ///
    /// # Errors
    /// `Conflict`, `TooOld`, `CommitUnknown`, `Unavailable`, or a permanent error.
    async fn commit(&mut self) -> Result<CommitVersion, KvError>;
}
