//! Operations whose result depends on the value at commit time: they read nothing for conflict.

use bytes::Bytes;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    /// Wrapping addition.
    Add(i64),
    /// The greater of both, unsigned.
    Max(u64),
}

impl AtomicOp {
    /// The new value. A value of another length than 8 bytes is cut or filled up with zeros, as in
    /// FoundationDB.
    pub(crate) fn apply(self, old: Option<&[u8]>) -> Bytes {
        let mut number = [0; 8];
        if let Some(old) = old {
            let length = old.len().min(number.len());
            number[..length].copy_from_slice(&old[..length]);
        }
        let old = u64::from_le_bytes(number);
        let new = match self {
            Self::Add(delta) => old.wrapping_add_signed(delta),
            Self::Max(other) => old.max(other),
        };
        Bytes::copy_from_slice(&new.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_length_are_numbers() {
        assert_eq!(AtomicOp::Add(-1).apply(None).as_ref(), [0xff; 8]);
        assert_eq!(
            AtomicOp::Add(1).apply(Some(&[0xff])).as_ref(),
            256_u64.to_le_bytes()
        );
        assert_eq!(
            AtomicOp::Add(1)
                .apply(Some(&[1, 0, 0, 0, 0, 0, 0, 0, 9]))
                .as_ref(),
            2_u64.to_le_bytes()
        );
        assert_eq!(
            AtomicOp::Max(7).apply(Some(&9_u64.to_le_bytes())).as_ref(),
            9_u64.to_le_bytes()
        );
    }
}
