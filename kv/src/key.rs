//! Keys and ranges of keys. Keys are byte strings in their natural order; ranges are half-open.
//!
//! Keys from 0xFF on belong to the store itself, as in FoundationDB: a user's range ends there.

use std::fmt;

use bytes::Bytes;

/// Where the keys of users end. No user key starts with this byte.
pub const KEY_SPACE_END: &[u8] = b"\xff";

/// All keys from `begin` up to but without `end`. Empty when `begin >= end`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    /// The first key in the range.
    pub begin: Bytes,
    /// The first key after it.
    pub end: Bytes,
}

impl KeyRange {
    /// The keys in `begin..end`.
    pub fn new(begin: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self {
            begin: begin.into(),
            end: end.into(),
        }
    }

    /// Every key that a user may write.
    pub fn all() -> Self {
        Self::new(Bytes::new(), KEY_SPACE_END)
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            begin: Bytes::copy_from_slice(prefix),
            end: prefix_end(prefix),
        }
    }

    /// One key.
    pub fn single(key: &[u8]) -> Self {
        Self {
            begin: Bytes::copy_from_slice(key),
            end: successor(key),
        }
    }

    /// True when no key lies in the range.
    pub fn is_empty(&self) -> bool {
        self.begin >= self.end
    }

    /// True when `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.begin.as_ref() <= key && key < self.end.as_ref()
    }

    /// True when some key could lie in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.begin < other.end && other.begin < self.end
    }

    /// The keys in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self {
            begin: self.begin.clone().max(other.begin.clone()),
            end: self.end.clone().min(other.end.clone()),
        }
    }

    /// True when the range holds exactly its first key.
    pub fn is_single(&self) -> bool {
        self.end.len() == self.begin.len() + 1
            && self.end.starts_with(&self.begin)
            && self.end.last() == Some(&0)
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            write!(f, "[{:?}]", self.begin)
        } else {
            write!(f, "[{:?}..{:?})", self.begin, self.end)
        }
    }
}

/// The smallest key greater than `key`.
pub fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The first key after all those that start with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    let Some(last) = kept else {
        return Bytes::from_static(KEY_SPACE_END);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

/// Appends a number so that the order of keys is the order of numbers.
pub fn push_u32(key: &mut Vec<u8>, number: u32) {
    key.extend_from_slice(&number.to_be_bytes());
}

/// Appends a number so that the order of keys is the order of numbers.
pub fn push_u64(key: &mut Vec<u8>, number: u64) {
    key.extend_from_slice(&number.to_be_bytes());
}

/// Takes off what `push_u32` appended; `None` when the key is too short.
pub fn split_u32(key: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = key.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

/// Takes off what `push_u64` appended; `None` when the key is too short.
pub fn split_u64(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = key.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_holds_exactly_the_keys_with_that_prefix() {
        let range = KeyRange::prefix(b"a\xff");
        for inside in [&b"a\xff"[..], b"a\xff\x00", b"a\xff\xff\xff"] {
            assert!(range.contains(inside), "{inside:?}");
        }
        for outside in [&b"a"[..], b"a\xfe\xff", b"b", b""] {
            assert!(!range.contains(outside), "{outside:?}");
        }
        assert_eq!(KeyRange::prefix(b""), KeyRange::all());
    }

    #[test]
    fn nothing_lies_between_a_key_and_its_successor() {
        let range = KeyRange::single(b"k");
        assert!(range.is_single() && range.contains(b"k"));
        assert!(!range.contains(b"k\x00") && !range.contains(b"j\xff"));
        assert!(!KeyRange::new(&b"a"[..], &b"c"[..]).is_single());
    }

    #[test]
    fn touching_and_empty_ranges_do_not_overlap() {
        let range = |begin: &'static str, end: &'static str| KeyRange::new(begin, end);
        assert!(!range("a", "b").overlaps(&range("b", "c")));
        assert!(range("a", "c").overlaps(&range("b", "d")));
        assert!(!range("b", "b").overlaps(&range("a", "c")));
        assert!(range("a", "b").intersection(&range("b", "c")).is_empty());
    }

    #[test]
    fn encoded_numbers_keep_their_order() {
        let encode = |number| {
            let mut key = Vec::new();
            push_u64(&mut key, number);
            key
        };
        assert!(encode(255) < encode(256) && encode(u64::MAX) > encode(1 << 63));
        assert_eq!(split_u64(&encode(77)), Some((77, &b""[..])));
        assert_eq!(split_u32(b"\x00\x00\x01\x00x"), Some((256, &b"x"[..])));
        assert_eq!(split_u32(b"\x00"), None);
    }
}
