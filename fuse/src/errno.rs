//! From a status to what a system call returns. The only place that knows errno.

use fuser::Errno;
use types::status::{Status, StatusCode};

/// The errno of a failure. A failure that has none of its own is EIO, and is logged with its message, because the
/// application only sees a number.
pub(crate) fn of(operation: &'static str, status: &Status) -> Errno {
    let errno = of_code(status.code);
    if errno == Errno::EIO {
        tracing::warn!(operation, %status, "failed");
    } else {
        tracing::debug!(operation, %status, "refused");
    }
    errno
}

fn of_code(code: StatusCode) -> Errno {
    match code {
        StatusCode::InvalidArgument | StatusCode::OutOfRange => Errno::EINVAL,
        StatusCode::Unsupported | StatusCode::NotSupported => Errno::ENOTSUP,
        StatusCode::Unauthorized | StatusCode::AccessDenied => Errno::EACCES,
        StatusCode::Cancelled => Errno::EINTR,
        StatusCode::Conflict | StatusCode::TransactionConflict => Errno::EBUSY,
        StatusCode::NoSpace | StatusCode::NoChains => Errno::ENOSPC,
        StatusCode::NotFound => Errno::ENOENT,
        StatusCode::Exists => Errno::EEXIST,
        StatusCode::NotDirectory => Errno::ENOTDIR,
        StatusCode::IsDirectory => Errno::EISDIR,
        StatusCode::NotEmpty => Errno::ENOTEMPTY,
        StatusCode::NotPermitted => Errno::EPERM,
        StatusCode::NameTooLong => Errno::ENAMETOOLONG,
        StatusCode::TooManyLinks => Errno::ELOOP,
        StatusCode::LinkLimit => Errno::EMLINK,
        StatusCode::FileTooLarge => Errno::EFBIG,
        StatusCode::Stale => Errno::ESTALE,
        StatusCode::BadSession => Errno::EBADF,
        StatusCode::Internal
        | StatusCode::Malformed
        | StatusCode::DeadlineExceeded
        | StatusCode::Unreachable
        | StatusCode::Overloaded
        | StatusCode::NotReady
        | StatusCode::NotLeader
        | StatusCode::UnknownEntity
        | StatusCode::StaleHeartbeat
        | StatusCode::NoQuorum
        | StatusCode::ChainVersionMismatch
        | StatusCode::WrongRole
        | StatusCode::LeaseExpired
        | StatusCode::UnknownTarget
        | StatusCode::ChunkNotFound
        | StatusCode::ChecksumMismatch
        | StatusCode::ChunkCorrupt
        | StatusCode::DiskFailed
        | StatusCode::ChannelBusy
        | StatusCode::ChannelStale
        | StatusCode::MissingUpdate
        | StatusCode::ReplicaDiverged
        | StatusCode::VersionGone
        | StatusCode::TruncateVersionMismatch
        | StatusCode::StoreFailed
        | StatusCode::TransactionTooLarge => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_namespace_keep_the_meaning_of_their_name() {
        for (code, errno) in [
            (StatusCode::NotFound, libc::ENOENT),
            (StatusCode::Exists, libc::EEXIST),
            (StatusCode::NotDirectory, libc::ENOTDIR),
            (StatusCode::IsDirectory, libc::EISDIR),
            (StatusCode::NotEmpty, libc::ENOTEMPTY),
            (StatusCode::AccessDenied, libc::EACCES),
            (StatusCode::NotPermitted, libc::EPERM),
            (StatusCode::NameTooLong, libc::ENAMETOOLONG),
            (StatusCode::TooManyLinks, libc::ELOOP),
            (StatusCode::LinkLimit, libc::EMLINK),
            (StatusCode::FileTooLarge, libc::EFBIG),
            (StatusCode::Stale, libc::ESTALE),
            (StatusCode::BadSession, libc::EBADF),
            (StatusCode::NotSupported, libc::ENOTSUP),
            (StatusCode::NoSpace, libc::ENOSPC),
        ] {
            assert_eq!(of_code(code).code(), errno, "{code:?}");
        }
    }

    #[test]
    fn trouble_of_the_cluster_is_an_input_output_error() {
        for code in [
            StatusCode::Unreachable,
            StatusCode::DeadlineExceeded,
            StatusCode::Internal,
            StatusCode::ChunkCorrupt,
        ] {
            assert_eq!(of_code(code), Errno::EIO, "{code:?}");
        }
    }
}
