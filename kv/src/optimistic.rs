//! The transaction of our own stores: buffers writes, remembers reads, and asks its store to commit both.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use common::env::{Env, Instant};

use crate::{
    atomic::AtomicOp,
    error::KvError,
    group::CommitRequest,
    key::{KEY_SPACE_END, KeyRange},
    limits,
    transaction::{CommitVersion, ConflictSets, RangeOptions, RangePage, ReadMode, Transaction},
    versionstamp::Versionstamp,
    write_buffer::{Own, WriteBuffer, apply_all},
};

/// One version of a store.
pub(crate) trait Snapshot: Send + Sync + 'static {
    fn version(&self) -> CommitVersion;

    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Option<Bytes>, KvError>> + Send;

    /// As `Transaction::get_range`, of what is committed.
    fn page(
        &self,
        range: &KeyRange,
        options: RangeOptions,
    ) -> impl Future<Output = Result<RangePage, KvError>> + Send;
}

/// A store as transactions see it.
pub(crate) trait Backend: Send + Sync + 'static {
    type Snapshot: Snapshot;

    fn env(&self) -> &Env;

    /// The store as it is now. Holds every commit that was acknowledged before.
    fn snapshot(self: &Arc<Self>) -> Result<Self::Snapshot, KvError>;

    fn commit(
        &self,
        request: CommitRequest,
    ) -> impl Future<Output = Result<CommitVersion, KvError>> + Send;
}

pub(crate) struct OptimisticTransaction<B: Backend> {
    backend: Arc<B>,
    /// Taken at the first read.
    view: Option<View<B::Snapshot>>,
    reads: Vec<KeyRange>,
    read_bytes: usize,
    writes: WriteBuffer,
    /// The first write that broke a limit.
    failure: Option<KvError>,
    finished: bool,
}

struct View<S> {
    snapshot: S,
    taken: Instant,
}

impl<B: Backend> OptimisticTransaction<B> {
    pub(crate) fn new(backend: Arc<B>) -> Self {
        Self {
            backend,
            view: None,
            reads: Vec::new(),
            read_bytes: 0,
            writes: WriteBuffer::default(),
            failure: None,
            finished: false,
        }
    }

    /// Takes the snapshot if there is none.
    fn open_view(&mut self) -> Result<(), KvError> {
        self.check_usable()?;
        if self.view.is_none() {
            // The time first: the resolver's window must not move past a version that is younger.
            let taken = self.backend.env().now();
            let snapshot = self.backend.snapshot()?;
            self.view = Some(View { snapshot, taken });
        }
        self.check_age()
    }

    fn snapshot(&self) -> &B::Snapshot {
        let view = self.view.as_ref();
        &view.expect("every read opens the view first").snapshot
    }

    fn check_usable(&self) -> Result<(), KvError> {
        if self.finished {
            return Err(KvError::Finished);
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn check_age(&self) -> Result<(), KvError> {
        let now = self.backend.env().now();
        match &self.view {
            Some(view) if now.duration_since(view.taken) > limits::TRANSACTION_AGE_MAX => {
                Err(KvError::TooOld)
            }
            _ => Ok(()),
        }
    }

    fn note_read(&mut self, range: KeyRange, mode: ReadMode) {
        if mode == ReadMode::Serializable && !range.is_empty() {
            self.read_bytes += range.begin.len() + range.end.len();
            self.reads.push(range);
        }
    }

    fn fail(&mut self, error: KvError) {
        self.failure.get_or_insert(error);
    }

    /// Runs `write` if the key and value are legal.
    fn write(&mut self, key: &[u8], value: &[u8], write: impl FnOnce(&mut WriteBuffer)) {
        if let Err(error) = check_key(key) {
            self.fail(error);
        } else if value.len() > limits::VALUE_BYTES_MAX {
            self.fail(KvError::ValueTooLarge);
        } else {
            write(&mut self.writes);
        }
    }

    /// The pages of the store under the transaction's own writes, until the limit is reached.
    async fn merged_page(
        &self,
        range: &KeyRange,
        options: RangeOptions,
    ) -> Result<RangePage, KvError> {
        if !self.writes.touches(range) {
            return self.snapshot().page(range, options).await;
        }
        let mut items = Vec::new();
        let mut left = range.clone();
        loop {
            let stored = self.snapshot().page(&left, options).await?;
            let rest = stored.rest(&left, options.reverse);
            let covered = match &rest {
                None => left.clone(),
                Some(rest) if options.reverse => KeyRange::new(rest.end.clone(), left.end.clone()),
                Some(rest) => KeyRange::new(left.begin.clone(), rest.begin.clone()),
            };
            let seen = self.writes.overlay(&covered, stored.items);
            let wanted = options.limit - items.len();
            let cut = seen.len() > wanted;
            if options.reverse {
                items.extend(seen.into_iter().rev().take(wanted));
            } else {
                items.extend(seen.into_iter().take(wanted));
            }
            // A page without any item gives no cursor, so go on until there is one or an end.
            match rest {
                Some(rest) if !cut && items.is_empty() => left = rest,
                rest => {
                    let more = cut || rest.is_some();
                    return Ok(RangePage { items, more });
                }
            }
        }
    }
}

#[async_trait]
impl<B: Backend> Transaction for OptimisticTransaction<B> {
    async fn get(&mut self, key: &[u8], mode: ReadMode) -> Result<Option<Bytes>, KvError> {
        check_key(key)?;
        self.open_view()?;
        let base = match self.writes.own(key) {
            Own::Value(value) => return Ok(value),
            Own::Atomic(_) | Own::Nothing => self.snapshot().get(key).await?,
        };
        self.note_read(KeyRange::single(key), mode);
        match self.writes.own(key) {
            Own::Atomic(ops) => Ok(apply_all(ops, base)),
            Own::Value(_) | Own::Nothing => Ok(base),
        }
    }

    async fn get_range(
        &mut self,
        range: KeyRange,
        options: RangeOptions,
        mode: ReadMode,
    ) -> Result<RangePage, KvError> {
        check_range(&range)?;
        self.open_view()?;
        if range.is_empty() || options.limit == 0 {
            return Ok(RangePage {
                items: Vec::new(),
                more: !range.is_empty(),
            });
        }
        let page = self.merged_page(&range, options).await?;
        let covered = match page.rest(&range, options.reverse) {
            None => range,
            Some(rest) if options.reverse => KeyRange::new(rest.end, range.end),
            Some(rest) => KeyRange::new(range.begin, rest.begin),
        };
        self.note_read(covered, mode);
        Ok(page)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.write(key, value, |writes| writes.set(key, value));
    }

    fn clear(&mut self, key: &[u8]) {
        self.write(key, &[], |writes| writes.clear(key));
    }

    fn clear_range(&mut self, range: KeyRange) {
        match check_range(&range) {
            Ok(()) => self.writes.clear_range(&range),
            Err(error) => self.fail(error),
        }
    }

    fn atomic_add(&mut self, key: &[u8], delta: i64) {
        self.write(key, &[], |writes| writes.atomic(key, AtomicOp::Add(delta)));
    }

    fn atomic_max(&mut self, key: &[u8], value: u64) {
        self.write(key, &[], |writes| writes.atomic(key, AtomicOp::Max(value)));
    }

    fn set_versionstamped_key(&mut self, prefix: &[u8], suffix: &[u8], value: &[u8]) {
        let length = prefix.len() + Versionstamp::LENGTH + suffix.len();
        if length > limits::KEY_BYTES_MAX {
            self.fail(KvError::KeyTooLarge);
        } else if prefix.is_empty() {
            // Such a key would begin with the version, which may grow into the store's own keys.
            self.fail(KvError::KeyReserved);
        } else {
            self.write(prefix, value, |writes| {
                writes.set_stamped(prefix, suffix, value);
            });
        }
    }

    fn add_read_conflict(&mut self, range: KeyRange) {
        match check_range(&range).and_then(|()| self.open_view()) {
            Ok(()) => self.note_read(range, ReadMode::Serializable),
            Err(error) => self.fail(error),
        }
    }

    fn add_write_conflict(&mut self, range: KeyRange) {
        match check_range(&range) {
            Ok(()) => self.writes.add_conflict(range),
            Err(error) => self.fail(error),
        }
    }

    fn conflicts(&self) -> ConflictSets {
        let mut reads = self.reads.clone();
        reads.sort();
        reads.dedup();
        ConflictSets {
            reads,
            writes: self.writes.conflict_ranges(),
        }
    }

    async fn commit(&mut self) -> Result<CommitVersion, KvError> {
        self.check_usable()?;
        self.finished = true;
        let read_version = self.view.as_ref().map(|view| view.snapshot.version());
        if self.writes.is_empty() {
            return Ok(read_version.unwrap_or_default());
        }
        self.check_age()?;
        if self.writes.bytes() + self.read_bytes > limits::TRANSACTION_BYTES_MAX {
            return Err(KvError::TooLarge);
        }
        let request = CommitRequest {
            read_version,
            reads: std::mem::take(&mut self.reads),
            writes: std::mem::take(&mut self.writes),
        };
        self.backend.commit(request).await
    }
}

fn check_key(key: &[u8]) -> Result<(), KvError> {
    if key.len() > limits::KEY_BYTES_MAX {
        Err(KvError::KeyTooLarge)
    } else if key >= KEY_SPACE_END {
        Err(KvError::KeyReserved)
    } else {
        Ok(())
    }
}

/// The end of a range may be the end of all keys, or the successor of the longest key.
fn check_range(range: &KeyRange) -> Result<(), KvError> {
    if range.begin.len() > limits::KEY_BYTES_MAX || range.end.len() > limits::KEY_BYTES_MAX + 1 {
        Err(KvError::KeyTooLarge)
    } else if range.end.as_ref() > KEY_SPACE_END {
        Err(KvError::KeyReserved)
    } else {
        Ok(())
    }
}
