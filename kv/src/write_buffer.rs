//! What a transaction has written and not yet committed, and how reads see through it.
//!
//! Invariant: a key in `points` overrides `cleared`; the cleared ranges neither overlap nor touch.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use bytes::Bytes;

use crate::{
    atomic::AtomicOp,
    key::{KeyRange, successor},
    versionstamp::Versionstamp,
};

/// What a commit does to one key.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    Set(Bytes),
    Clear,
    /// Applied in this order to whatever the store holds then.
    Atomic(Vec<AtomicOp>),
}

/// A key that is complete only at commit.
#[derive(Clone, Debug)]
pub(crate) struct StampedKey {
    pub(crate) prefix: Bytes,
    pub(crate) suffix: Bytes,
    pub(crate) value: Bytes,
}

impl StampedKey {
    pub(crate) fn with(&self, stamp: Versionstamp) -> Bytes {
        self.filled(stamp.0)
    }

    /// Every key that it may become.
    fn range(&self) -> KeyRange {
        let last = self.filled([0xff; Versionstamp::LENGTH]);
        KeyRange::new(self.filled([0; Versionstamp::LENGTH]), successor(&last))
    }

    fn filled(&self, stamp: [u8; Versionstamp::LENGTH]) -> Bytes {
        [self.prefix.as_ref(), &stamp, self.suffix.as_ref()]
            .concat()
            .into()
    }
}

/// What a transaction's own writes say about a key.
pub(crate) enum Own<'a> {
    /// All: nothing needs to be read.
    Value(Option<Bytes>),
    /// How it changes.
    Atomic(&'a [AtomicOp]),
    Nothing,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct WriteBuffer {
    points: BTreeMap<Bytes, Pending>,
    /// Begin -> end.
    cleared: BTreeMap<Bytes, Bytes>,
    stamped: Vec<StampedKey>,
    conflicts: Vec<KeyRange>,
    bytes: usize,
}

impl WriteBuffer {
    /// True when a commit would change nothing and nobody would conflict with it.
    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty()
            && self.cleared.is_empty()
            && self.stamped.is_empty()
            && self.conflicts.is_empty()
    }

    /// The size that counts against `limits::TRANSACTION_BYTES_MAX`. Overwriting does not give back.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when the transaction takes something away.
    pub(crate) fn removes(&self) -> bool {
        !self.cleared.is_empty()
            || self
                .points
                .values()
                .any(|pending| matches!(pending, Pending::Clear))
    }

    pub(crate) fn points(&self) -> impl Iterator<Item = (&Bytes, &Pending)> {
        self.points.iter()
    }

    pub(crate) fn cleared(&self) -> impl Iterator<Item = KeyRange> + '_ {
        self.cleared
            .iter()
            .map(|(begin, end)| KeyRange::new(begin.clone(), end.clone()))
    }

    pub(crate) fn stamped(&self) -> &[StampedKey] {
        &self.stamped
    }

    pub(crate) fn conflicts(&self) -> &[KeyRange] {
        &self.conflicts
    }

    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) {
        self.bytes += key.len() + value.len();
        let pending = Pending::Set(Bytes::copy_from_slice(value));
        self.points.insert(Bytes::copy_from_slice(key), pending);
    }

    pub(crate) fn clear(&mut self, key: &[u8]) {
        self.bytes += key.len();
        self.points
            .insert(Bytes::copy_from_slice(key), Pending::Clear);
    }

    pub(crate) fn atomic(&mut self, key: &[u8], op: AtomicOp) {
        self.bytes += key.len() + 8;
        let known = match self.own(key) {
            Own::Value(value) => Some(value),
            Own::Atomic(_) | Own::Nothing => None,
        };
        let key = Bytes::copy_from_slice(key);
        if let Some(value) = known {
            let pending = Pending::Set(op.apply(value.as_deref()));
            self.points.insert(key, pending);
            return;
        }
        let unknown = || Pending::Atomic(Vec::new());
        if let Pending::Atomic(ops) = self.points.entry(key).or_insert_with(unknown) {
            ops.push(op);
        }
    }

    pub(crate) fn clear_range(&mut self, range: &KeyRange) {
        if range.is_empty() {
            return;
        }
        self.bytes += range.begin.len() + range.end.len();
        let doomed: Vec<Bytes> = self
            .points_in(range)
            .map(|(key, _pending)| key.clone())
            .collect();
        for key in doomed {
            self.points.remove(&key);
        }
        let mut merged = range.clone();
        let touching: Vec<(Bytes, Bytes)> = self
            .cleared
            .range::<[u8], _>((Unbounded, Included(range.end.as_ref())))
            .rev()
            .take_while(|(_begin, end)| **end >= range.begin)
            .map(|(begin, end)| (begin.clone(), end.clone()))
            .collect();
        for (begin, end) in touching {
            self.cleared.remove(&begin);
            merged.begin = merged.begin.min(begin);
            merged.end = merged.end.max(end);
        }
        self.cleared.insert(merged.begin, merged.end);
    }

    pub(crate) fn set_stamped(&mut self, prefix: &[u8], suffix: &[u8], value: &[u8]) {
        self.bytes += prefix.len() + Versionstamp::LENGTH + suffix.len() + value.len();
        self.stamped.push(StampedKey {
            prefix: Bytes::copy_from_slice(prefix),
            suffix: Bytes::copy_from_slice(suffix),
            value: Bytes::copy_from_slice(value),
        });
    }

    pub(crate) fn add_conflict(&mut self, range: KeyRange) {
        if !range.is_empty() {
            self.bytes += range.begin.len() + range.end.len();
            self.conflicts.push(range);
        }
    }

    /// Everywhere that a commit may write, sorted and without repetition.
    pub(crate) fn conflict_ranges(&self) -> Vec<KeyRange> {
        let mut ranges: Vec<KeyRange> = self.points.keys().map(|k| KeyRange::single(k)).collect();
        ranges.extend(self.cleared());
        ranges.extend(self.stamped.iter().map(StampedKey::range));
        ranges.extend(self.conflicts.iter().cloned());
        ranges.sort();
        ranges.dedup();
        ranges
    }

    pub(crate) fn own(&self, key: &[u8]) -> Own<'_> {
        match self.points.get(key) {
            Some(Pending::Set(value)) => Own::Value(Some(value.clone())),
            Some(Pending::Clear) => Own::Value(None),
            Some(Pending::Atomic(ops)) => Own::Atomic(ops),
            None if self.is_cleared(key) => Own::Value(None),
            None => Own::Nothing,
        }
    }

    /// True when the transaction wrote anything in `range`.
    pub(crate) fn touches(&self, range: &KeyRange) -> bool {
        self.points_in(range).next().is_some()
            || self
                .cleared
                .range::<[u8], _>((Unbounded, Excluded(range.end.as_ref())))
                .next_back()
                .is_some_and(|(_begin, end)| *end > range.begin)
    }

    /// What the transaction sees in `range` where the store holds `items`.
    pub(crate) fn overlay(
        &self,
        range: &KeyRange,
        items: Vec<(Bytes, Bytes)>,
    ) -> BTreeMap<Bytes, Bytes> {
        let mut seen: BTreeMap<Bytes, Bytes> = items
            .into_iter()
            .filter(|(key, _value)| !self.is_cleared(key))
            .collect();
        for (key, pending) in self.points_in(range) {
            match pending {
                Pending::Set(value) => {
                    seen.insert(key.clone(), value.clone());
                }
                Pending::Clear => {
                    seen.remove(key);
                }
                Pending::Atomic(ops) => {
                    if let Some(value) = apply_all(ops, seen.get(key).cloned()) {
                        seen.insert(key.clone(), value);
                    }
                }
            }
        }
        seen
    }

    fn points_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &Pending)> {
        let bounds = (!range.is_empty())
            .then(|| (Included(range.begin.as_ref()), Excluded(range.end.as_ref())));
        bounds
            .into_iter()
            .flat_map(|bounds| self.points.range::<[u8], _>(bounds))
    }

    fn is_cleared(&self, key: &[u8]) -> bool {
        self.cleared
            .range::<[u8], _>((Unbounded, Included(key)))
            .next_back()
            .is_some_and(|(_begin, end)| key < end.as_ref())
    }
}

/// The value after all of `ops`.
pub(crate) fn apply_all(ops: &[AtomicOp], value: Option<Bytes>) -> Option<Bytes> {
    ops.iter()
        .fold(value, |value, op| Some(op.apply(value.as_deref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(begin: &'static str, end: &'static str) -> KeyRange {
        KeyRange::new(begin, end)
    }

    fn value(buffer: &WriteBuffer, key: &str) -> Option<Option<Bytes>> {
        match buffer.own(key.as_bytes()) {
            Own::Value(value) => Some(value),
            Own::Atomic(_) | Own::Nothing => None,
        }
    }

    #[test]
    fn the_last_write_of_a_key_counts() {
        let mut buffer = WriteBuffer::default();
        buffer.set(b"b", b"1");
        buffer.clear_range(&range("a", "c"));
        assert_eq!(value(&buffer, "b"), Some(None));
        buffer.set(b"b", b"2");
        assert_eq!(value(&buffer, "b"), Some(Some(Bytes::from_static(b"2"))));
        assert_eq!(value(&buffer, "a"), Some(None));
        assert_eq!(value(&buffer, "c"), None);
        buffer.clear(b"b");
        assert_eq!(value(&buffer, "b"), Some(None));
    }

    #[test]
    fn cleared_ranges_merge_when_they_touch() {
        let mut buffer = WriteBuffer::default();
        buffer.clear_range(&range("a", "c"));
        buffer.clear_range(&range("e", "g"));
        assert_eq!(buffer.cleared().count(), 2);
        buffer.clear_range(&range("c", "e"));
        assert_eq!(buffer.cleared().collect::<Vec<_>>(), [range("a", "g")]);
        buffer.clear_range(&range("b", "d"));
        assert_eq!(buffer.cleared().collect::<Vec<_>>(), [range("a", "g")]);
        buffer.clear_range(&range("z", "a"));
        assert_eq!(buffer.cleared().count(), 1);
    }

    #[test]
    fn an_atomic_operation_on_a_known_value_is_a_value() {
        let mut buffer = WriteBuffer::default();
        buffer.atomic(b"x", AtomicOp::Add(1));
        assert!(matches!(buffer.own(b"x"), Own::Atomic([AtomicOp::Add(1)])));
        buffer.clear_range(&range("x", "y"));
        buffer.atomic(b"x", AtomicOp::Add(2));
        buffer.atomic(b"x", AtomicOp::Max(1));
        assert_eq!(
            value(&buffer, "x"),
            Some(Some(Bytes::copy_from_slice(&2_u64.to_le_bytes())))
        );
    }

    #[test]
    fn the_overlay_shows_own_writes_over_the_store() {
        let mut buffer = WriteBuffer::default();
        assert!(!buffer.touches(&range("a", "z")));
        buffer.clear_range(&range("b", "d"));
        buffer.set(b"c", b"own");
        buffer.clear(b"e");
        assert!(buffer.touches(&range("a", "c")) && !buffer.touches(&range("f", "z")));
        let stored = ["a", "b", "e", "f"].map(|key| {
            (
                Bytes::from_static(key.as_bytes()),
                Bytes::from_static(b"old"),
            )
        });
        let seen = buffer.overlay(&range("a", "z"), stored.to_vec());
        let seen: Vec<(&[u8], &[u8])> = seen.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            seen,
            [
                (&b"a"[..], &b"old"[..]),
                (&b"c"[..], &b"own"[..]),
                (&b"f"[..], &b"old"[..])
            ]
        );
    }

    #[test]
    fn write_conflicts_cover_every_write() {
        let mut buffer = WriteBuffer::default();
        buffer.set(b"k", b"");
        buffer.set(b"k", b"again");
        buffer.set_stamped(b"p", b"s", b"");
        buffer.add_conflict(range("q", "r"));
        let ranges = buffer.conflict_ranges();
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges[0], KeyRange::single(b"k"));
        let stamped = buffer.stamped()[0].with(Versionstamp([7; 10]));
        assert!(ranges[1].contains(&stamped));
        assert_eq!(ranges[2], range("q", "r"));
    }
}
