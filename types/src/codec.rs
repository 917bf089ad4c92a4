//! Versioned encodings: two bytes of version (little-endian), then postcard (its specification:
//! postcard.jamesmunns.com/wire-format). A change of a persisted type raises its version and keeps a decoder of the old one.

use serde::{Serialize, de::DeserializeOwned};

/// A type with a persisted or wire form.
pub trait Versioned: Serialize + DeserializeOwned {
    /// The version that is written.
    const VERSION: u16;
}

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Cut short.
    #[error("encoding cut short at {length} bytes")]
    Truncated {
        /// How many bytes there were.
        length: usize,
    },
    /// Written by another release.
    #[error("encoding has version {found}, this release reads {expected}")]
    Version {
        /// The version found.
        found: u16,
        /// The version this release knows.
        expected: u16,
    },
    /// The body does not decode.
    #[error("encoding is damaged: {reason}")]
    Body {
        /// What the decoder said.
        reason: String,
    },
}

/// The versioned bytes of `value`.
///
/// # Panics
/// Never for our types: postcard fails only for sequences of unknown length.
pub fn encode<T: Versioned>(value: &T) -> Vec<u8> {
    let bytes = T::VERSION.to_le_bytes().to_vec();
    postcard::to_extend(value, bytes).expect("types of this crate have known lengths")
}

/// Reads what `encode` wrote.
///
/// # Errors
/// When the bytes are cut, damaged, followed by others, or of another version.
pub fn decode<T: Versioned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let Some((version, body)) = bytes.split_first_chunk::<2>() else {
        return Err(DecodeError::Truncated {
            length: bytes.len(),
        });
    };
    let found = u16::from_le_bytes(*version);
    if found != T::VERSION {
        return Err(DecodeError::Version {
            found,
            expected: T::VERSION,
        });
    }
    decode_body(body)
}

/// Encodes without a version, for bodies whose version travels elsewhere (RPC frames).
///
/// # Panics
/// As `encode`.
pub fn encode_body<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("types of this crate have known lengths")
}

/// Reads what `encode_body` wrote. Bytes that follow are refused: they would be fields we do not know.
///
/// # Errors
/// When the bytes are cut, damaged or followed by others.
pub fn decode_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes::<T>(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::Body {
            reason: format!("{} bytes too many", rest.len()),
        }),
        Err(error) => Err(DecodeError::Body {
            reason: error.to_string(),
        }),
    }
}

macro_rules! versioned {
    ($($name:ty = $version:literal;)*) => {$(
        impl Versioned for $name {
            const VERSION: u16 = $version;
        }
    )*};
}

versioned! {
    crate::inode::Inode = 1;
    crate::dentry::Dentry = 1;
    crate::session::FileSession = 1;
    crate::routing::RoutingInfo = 1;
}
