//! Why an operation on the namespace failed, and what that means to a client.
//!
//! `Needs` is no failure: it is how an operation, which only speaks with the key-value store, asks the
//! service for something from outside (`service` gets it and runs the operation again).

use kv::{AsKvError, KvError};
use types::{
    codec::DecodeError,
    id::InodeId,
    layout::Layout,
    status::{Status, StatusCode},
    version::TruncateVersion,
};

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// ENOENT
    #[error("there is no such name in directory {parent}")]
    NotFound {
        /// The directory.
        parent: InodeId,
    },
    /// EEXIST
    #[error("the name exists in directory {parent}")]
    Exists {
        /// The directory.
        parent: InodeId,
    },
    /// ENOTDIR
    #[error("inode {inode} is not a directory")]
    NotDirectory {
        /// What is no directory.
        inode: InodeId,
    },
    /// EISDIR
    #[error("inode {inode} is a directory")]
    IsDirectory {
        /// The directory.
        inode: InodeId,
    },
    /// ENOTEMPTY
    #[error("directory {inode} is not empty")]
    NotEmpty {
        /// The directory.
        inode: InodeId,
    },
    /// EACCES
    #[error("the permission bits of inode {inode} do not allow this")]
    AccessDenied {
        /// Whose bits.
        inode: InodeId,
    },
    /// EPERM
    #[error("not permitted: {reason}")]
    NotPermitted {
        /// Which rule forbids it.
        reason: &'static str,
    },
    /// ENAMETOOLONG
    #[error("{length} bytes are too many for {what}")]
    TooLong {
        /// A name or the target of a symlink.
        what: &'static str,
        /// How many there were.
        length: usize,
    },
    /// EINVAL
    #[error("{reason}")]
    InvalidArgument {
        /// What is wrong with the request.
        reason: &'static str,
    },
    /// EMLINK
    #[error("inode {inode} has too many names")]
    LinkLimit {
        /// Which.
        inode: InodeId,
    },
    /// EFBIG
    #[error("{length} bytes are more than a file can have")]
    FileTooLarge {
        /// The length asked for.
        length: u64,
    },
    /// ESTALE: a caller that came by a path walks it again.
    #[error("inode {inode} does not exist any more")]
    Stale {
        /// Which.
        inode: InodeId,
    },
    /// The report belongs to a length that was truncated since.
    #[error(
        "inode {inode} was truncated since: the report has version {reported}, the file {current}"
    )]
    TruncateVersionMismatch {
        /// The file.
        inode: InodeId,
        /// The version the writer saw.
        reported: TruncateVersion,
        /// The file's.
        current: TruncateVersion,
    },
    /// No chain can take a new file.
    #[error("no chain table has chains; create chains first")]
    NoChains,
    /// What is stored does not decode.
    #[error("the record {key} is damaged: {source}")]
    Corrupt {
        /// The key, for people.
        key: String,
        /// What is wrong with the value.
        source: DecodeError,
    },
    /// The store failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// Storage or the manager failed.
    #[error(transparent)]
    Remote(#[from] Status),
    /// Not a failure: see the module's text.
    #[error("the operation needs more: {0:?}")]
    Needs(Need),
}

/// What an operation needs from outside before it can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// A truncate that somebody began must be finished first.
    FinishTruncate(InodeId),
    /// The chains must be asked for the length of a file.
    AskLength {
        /// The file.
        inode: InodeId,
        /// Where its chunks are.
        layout: Layout,
        /// The version that the answer belongs to.
        truncate_version: TruncateVersion,
    },
}

impl AsKvError for MetaError {
    fn as_kv_error(&self) -> Option<&KvError> {
        match self {
            Self::Kv(error) => Some(error),
            _ => None,
        }
    }
}

impl From<MetaError> for Status {
    fn from(error: MetaError) -> Self {
        let code = match &error {
            MetaError::NotFound { .. } => StatusCode::NotFound,
            MetaError::Exists { .. } => StatusCode::Exists,
            MetaError::NotDirectory { .. } => StatusCode::NotDirectory,
            MetaError::IsDirectory { .. } => StatusCode::IsDirectory,
            MetaError::NotEmpty { .. } => StatusCode::NotEmpty,
            MetaError::AccessDenied { .. } => StatusCode::AccessDenied,
            MetaError::NotPermitted { .. } => StatusCode::NotPermitted,
            MetaError::TooLong { .. } => StatusCode::NameTooLong,
            MetaError::InvalidArgument { .. } => StatusCode::InvalidArgument,
            MetaError::LinkLimit { .. } => StatusCode::LinkLimit,
            MetaError::FileTooLarge { .. } => StatusCode::FileTooLarge,
            MetaError::Stale { .. } => StatusCode::Stale,
            MetaError::TruncateVersionMismatch { .. } => StatusCode::TruncateVersionMismatch,
            MetaError::NoChains => StatusCode::NoChains,
            MetaError::Corrupt { .. } => StatusCode::Internal,
            // Only seen when the deadline passed before the need was met.
            MetaError::Needs(_) => StatusCode::DeadlineExceeded,
            MetaError::Kv(error) => kv_code(error),
            MetaError::Remote(status) => return status.clone(),
        };
        Status::new(code, error.to_string())
    }
}

fn kv_code(error: &KvError) -> StatusCode {
    match error {
        KvError::Conflict | KvError::TooOld => StatusCode::TransactionConflict,
        // The deadline passed before a try told whether an earlier one had taken effect.
        KvError::CommitUnknown => StatusCode::DeadlineExceeded,
        KvError::Unavailable { .. }
        | KvError::Poisoned { .. }
        | KvError::Io { .. }
        | KvError::Corrupt { .. }
        | KvError::Closed => StatusCode::StoreFailed,
        KvError::TooLarge => StatusCode::TransactionTooLarge,
        KvError::Full => StatusCode::NoSpace,
        KvError::KeyTooLarge
        | KvError::ValueTooLarge
        | KvError::KeyReserved
        | KvError::Finished => StatusCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_store_is_enospc_and_a_conflict_is_tried_again() {
        let code = |error: KvError| Status::from(MetaError::from(error)).code;
        assert_eq!(code(KvError::Full), StatusCode::NoSpace);
        assert_eq!(code(KvError::Conflict), StatusCode::TransactionConflict);
        assert_eq!(code(KvError::CommitUnknown), StatusCode::DeadlineExceeded);
    }

    #[test]
    fn a_failure_of_storage_passes_unchanged() {
        let status = Status::new(StatusCode::Unreachable, "no route");
        assert_eq!(Status::from(MetaError::from(status.clone())), status);
    }
}
