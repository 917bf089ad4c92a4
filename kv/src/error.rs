//! What can go wrong, and in which of FoundationDB's three classes it falls.

use std::io;

/// What a caller may do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Nothing was committed: run the transaction again.
    Retryable,
    /// The transaction may have been committed or not: run it again if that does no harm.
    RetryableMaybeCommitted,
    /// Running it again gives the same error.
    Permanent,
}

/// Why an operation of the store failed. Numbers are those of FoundationDB.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// 1020: what the transaction read was changed before it committed.
    #[error("the transaction conflicts with another one")]
    Conflict,
    /// 1007: the transaction lives longer than the store remembers.
    #[error("the transaction is too old")]
    TooOld,
    /// 1021: nobody knows whether the commit took place.
    #[error("it is unknown whether the transaction was committed")]
    CommitUnknown,
    /// The store cannot be reached at the moment (1009, 1031, 1037 and their like).
    #[error("the key-value store is not available: {reason}")]
    Unavailable {
        /// What the store said.
        reason: String,
    },
    /// 2101: the transaction exceeds `limits::TRANSACTION_BYTES_MAX`.
    #[error("the transaction is too large")]
    TooLarge,
    /// 2102: a key exceeds `limits::KEY_BYTES_MAX`.
    #[error("a key of the transaction is too long")]
    KeyTooLarge,
    /// 2103: a value exceeds `limits::VALUE_BYTES_MAX`.
    #[error("a value of the transaction is too long")]
    ValueTooLarge,
    /// 2004: a key lies in the part that belongs to the store itself.
    #[error("a key of the transaction belongs to the store itself")]
    KeyReserved,
    /// 2017: the transaction was committed before.
    #[error("the transaction was used after its commit")]
    Finished,
    /// The device has no space left for a commit. Nothing was written.
    #[error("no space is left on the device of the key-value store")]
    Full,
    /// A write or a sync failed earlier; the store refuses everything since, until it is opened again.
    #[error("the key-value store has stopped: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// The system refused a read. Nothing was written.
    #[error("cannot {action}: {detail}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The kind of the system's error.
        kind: io::ErrorKind,
        /// The system's words.
        detail: String,
    },
    /// What was read back is not what was written.
    #[error("the key-value store is damaged: {detail}")]
    Corrupt {
        /// What and where.
        detail: String,
    },
    /// The store was closed.
    #[error("the key-value store is closed")]
    Closed,
}

impl KvError {
    /// What a caller may do about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Conflict | Self::TooOld | Self::Unavailable { .. } => ErrorClass::Retryable,
            Self::CommitUnknown => ErrorClass::RetryableMaybeCommitted,
            Self::TooLarge
            | Self::KeyTooLarge
            | Self::ValueTooLarge
            | Self::KeyReserved
            | Self::Finished
            | Self::Full
            | Self::Poisoned { .. }
            | Self::Io { .. }
            | Self::Corrupt { .. }
            | Self::Closed => ErrorClass::Permanent,
        }
    }
}

/// An error of a caller that may carry one of ours, so that `transact` knows what to retry.
pub trait AsKvError {
    /// The error of the store, when that is what went wrong.
    fn as_kv_error(&self) -> Option<&KvError>;
}

impl AsKvError for KvError {
    fn as_kv_error(&self) -> Option<&KvError> {
        Some(self)
    }
}
