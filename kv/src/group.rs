//! Turns transactions that ask to commit, one after the other, into one set of changes to the store.
//!
//! Later transactions of a group are judged and computed on top of the earlier ones. The result has at most
//! one change per key, because a batch of the engine has no order among changes of one key.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included},
};

use bytes::Bytes;

use crate::{
    error::KvError,
    key::KeyRange,
    resolver::Resolver,
    transaction::CommitVersion,
    versionstamp::Versionstamp,
    write_buffer::{Pending, WriteBuffer, apply_all},
};

/// A transaction that asks to commit.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    /// Where it read; `None` when it read nothing for conflict.
    pub(crate) read_version: Option<CommitVersion>,
    pub(crate) reads: Vec<KeyRange>,
    pub(crate) writes: WriteBuffer,
}

/// The store before the group.
pub(crate) trait Base {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError>;
    fn keys(&self, range: &KeyRange) -> Result<Vec<Bytes>, KvError>;
}

/// Key -> new value, or removed.
pub(crate) type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// The group under construction.
pub(crate) struct Group<'a, B> {
    base: &'a B,
    changes: Changes,
}

impl<'a, B: Base> Group<'a, B> {
    pub(crate) fn new(base: &'a B) -> Self {
        Self {
            base,
            changes: Changes::new(),
        }
    }

    /// Adds a transaction as `version`, or says why it must not commit. After an error other than
    /// `Conflict` and `TooOld` the whole group is to be dropped.
    pub(crate) fn admit(
        &mut self,
        resolver: &mut Resolver,
        version: CommitVersion,
        request: &CommitRequest,
    ) -> Result<(), KvError> {
        if let Some(read_version) = request.read_version {
            resolver.check(read_version, &request.reads)?;
        }
        let written = self.apply(version, &request.writes)?;
        resolver.record(version, written);
        Ok(())
    }

    pub(crate) fn into_changes(self) -> Changes {
        self.changes
    }

    /// Returns where it wrote.
    fn apply(
        &mut self,
        version: CommitVersion,
        writes: &WriteBuffer,
    ) -> Result<Vec<KeyRange>, KvError> {
        let mut written = writes.conflicts().to_vec();
        for range in writes.cleared() {
            for key in self.base.keys(&range)? {
                self.changes.insert(key, None);
            }
            let bounds = (Included(range.begin.as_ref()), Excluded(range.end.as_ref()));
            for (_key, change) in self.changes.range_mut::<[u8], _>(bounds) {
                *change = None;
            }
            written.push(range);
        }
        for (key, pending) in writes.points() {
            let value = match pending {
                Pending::Set(value) => Some(value.clone()),
                Pending::Clear => None,
                Pending::Atomic(ops) => apply_all(ops, self.current(key)?),
            };
            self.changes.insert(key.clone(), value);
            written.push(KeyRange::single(key));
        }
        for stamped in writes.stamped() {
            let key = stamped.with(Versionstamp::new(version, 0));
            written.push(KeyRange::single(&key));
            self.changes.insert(key, Some(stamped.value.clone()));
        }
        Ok(written)
    }

    fn current(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{atomic::AtomicOp, resolver::ENTRIES_MAX};

    struct Stored(BTreeMap<Bytes, Bytes>);

    impl Base for Stored {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
            Ok(self.0.get(key).cloned())
        }

        fn keys(&self, range: &KeyRange) -> Result<Vec<Bytes>, KvError> {
            let inside = self.0.keys().filter(|key| range.contains(key));
            Ok(inside.cloned().collect())
        }
    }

    fn blind(write: impl FnOnce(&mut WriteBuffer)) -> CommitRequest {
        let mut writes = WriteBuffer::default();
        write(&mut writes);
        CommitRequest {
            read_version: None,
            reads: Vec::new(),
            writes,
        }
    }

    #[test]
    fn later_transactions_see_the_earlier_ones() {
        let one = Bytes::copy_from_slice(&1_u64.to_le_bytes());
        let stored = Stored(BTreeMap::from([
            ("a".into(), one),
            ("b".into(), "x".into()),
        ]));
        let mut resolver = Resolver::new(CommitVersion(0), ENTRIES_MAX);
        let mut group = Group::new(&stored);
        let requests = [
            blind(|w| w.atomic(b"a", AtomicOp::Add(2))),
            blind(|w| w.atomic(b"a", AtomicOp::Add(3))),
            blind(|w| w.set(b"c", b"new")),
            blind(|w| w.clear_range(&KeyRange::new("b", "d"))),
        ];
        for (version, request) in (1..).zip(&requests) {
            group
                .admit(&mut resolver, CommitVersion(version), request)
                .unwrap();
        }
        let late = CommitRequest {
            read_version: Some(CommitVersion(0)),
            reads: vec![KeyRange::single(b"b")],
            writes: WriteBuffer::default(),
        };
        assert_eq!(
            group.admit(&mut resolver, CommitVersion(5), &late),
            Err(KvError::Conflict)
        );
        let six = Bytes::copy_from_slice(&6_u64.to_le_bytes());
        assert_eq!(
            group.into_changes(),
            Changes::from([
                ("a".into(), Some(six)),
                ("b".into(), None),
                ("c".into(), None)
            ])
        );
    }
}
