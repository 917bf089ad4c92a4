//! CRC32C (Castagnoli; RFC 3720 appendix B.4): of payloads on the wire, of blocks at rest, of headers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The CRC32C of some bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checksum(pub u32);

impl Checksum {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32c::crc32c(bytes))
    }

    /// The checksum of what `self` covers followed by `bytes`.
    #[must_use]
    pub fn append(self, bytes: &[u8]) -> Self {
        Self(crc32c::crc32c_append(self.0, bytes))
    }

    /// The checksum of what `self` covers followed by the `length` bytes that `next` covers.
    #[must_use]
    pub fn combine(self, next: Checksum, length: usize) -> Self {
        Self(crc32c::crc32c_combine(self.0, next.0, length))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_standard() {
        assert_eq!(Checksum::of(b"123456789"), Checksum(0xe306_9283));
        let combined = Checksum::of(b"12345").combine(Checksum::of(b"6789"), 4);
        assert_eq!(combined, Checksum(0xe306_9283));
        assert_eq!(Checksum::of(b"12345").append(b"6789"), combined);
    }
}
