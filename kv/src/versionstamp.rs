//! Versionstamps: ten bytes that the store fills in at commit, greater than those of every earlier commit.
//!
//! Eight bytes commit version, two bytes place within a batch of that version, both big-endian, so that
//! the order of stamps as bytes is the order of commits. Our own stores give each transaction a version
//! of its own and leave the place at zero.

use crate::transaction::CommitVersion;

/// The ten bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Versionstamp(pub [u8; Versionstamp::LENGTH]);

impl Versionstamp {
    /// How many bytes a stamp takes in a key.
    pub const LENGTH: usize = 10;

    /// The stamp of a commit.
    pub fn new(version: CommitVersion, place: u16) -> Self {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&version.0.to_be_bytes());
        bytes[8..].copy_from_slice(&place.to_be_bytes());
        Self(bytes)
    }

    /// Takes a stamp off the front of a part of a key; `None` when that is too short.
    pub fn split(key: &[u8]) -> Option<(Self, &[u8])> {
        let (bytes, rest) = key.split_first_chunk()?;
        Some((Self(*bytes), rest))
    }

    /// The version in it.
    pub fn version(self) -> CommitVersion {
        let [v0, v1, v2, v3, v4, v5, v6, v7, _, _] = self.0;
        CommitVersion(u64::from_be_bytes([v0, v1, v2, v3, v4, v5, v6, v7]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let stamp = Versionstamp::new(CommitVersion(0x0102_0304_0506_0708), 0x090a);
        assert_eq!(stamp.0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(stamp.version(), CommitVersion(0x0102_0304_0506_0708));
        let (read, rest) = Versionstamp::split(b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0arest")
            .expect("long enough");
        assert_eq!((read, rest), (stamp, &b"rest"[..]));
        assert_eq!(Versionstamp::split(b"short"), None);
    }
}
