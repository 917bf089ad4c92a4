//! When two replicas hold the same (protocol W10), and what a failed attempt to pass a change on means.

use types::{
    checksum::Checksum, rpc::storage::ForwardReply, status::StatusCode, version::ChunkVersion,
};

/// A version as one replica made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) version: ChunkVersion,
    pub(crate) length: u32,
    pub(crate) checksum: Checksum,
}

/// Two replicas made different content of one version. It is never committed by the one that notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this replica made {mine:?}, its successor {theirs:?}")]
pub(crate) struct Divergence {
    pub(crate) mine: Outcome,
    pub(crate) theirs: Outcome,
}

/// Whether the successor's answer is about the same content as one's own.
pub(crate) fn check_agreement(mine: Outcome, reply: &ForwardReply) -> Result<(), Divergence> {
    let theirs = Outcome {
        version: reply.commit_version,
        length: reply.length,
        checksum: reply.checksum,
    };
    if mine == theirs {
        Ok(())
    } else {
        Err(Divergence { mine, theirs })
    }
}

/// What a failed attempt to pass a change on says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The change was not made, and trying again will not help.
    Final,
    /// The change was not made; the map or the successor's state has to change first.
    NotMade,
    /// The successor needs the whole chunk.
    NeedsWhole,
    /// The change may have been made.
    Unknown,
}

/// Classifies a successor's refusal. A successor answers `NoSpace` only when it is sure that neither it nor
/// anyone behind it keeps the change.
pub(crate) fn classify(code: StatusCode) -> Failure {
    match code {
        StatusCode::NoSpace | StatusCode::OutOfRange | StatusCode::InvalidArgument => {
            Failure::Final
        }
        StatusCode::ChainVersionMismatch
        | StatusCode::WrongRole
        | StatusCode::LeaseExpired
        | StatusCode::UnknownTarget
        | StatusCode::NotReady
        | StatusCode::Overloaded
        | StatusCode::ChecksumMismatch => Failure::NotMade,
        StatusCode::MissingUpdate => Failure::NeedsWhole,
        // Everything else, also what a later release adds: assume the worst.
        _ => Failure::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use types::version::ChainVersion;

    use super::*;

    #[test]
    fn any_difference_is_a_divergence() {
        let mine = Outcome {
            version: ChunkVersion(3),
            length: 10,
            checksum: Checksum(5),
        };
        let reply = ForwardReply {
            length: 10,
            commit_version: ChunkVersion(3),
            chain_version: ChainVersion(1),
            checksum: Checksum(5),
        };
        assert_eq!(check_agreement(mine, &reply), Ok(()));
        for other in [
            ForwardReply {
                length: 11,
                ..reply.clone()
            },
            ForwardReply {
                commit_version: ChunkVersion(4),
                ..reply.clone()
            },
            ForwardReply {
                checksum: Checksum(6),
                ..reply.clone()
            },
        ] {
            assert!(check_agreement(mine, &other).is_err());
        }
    }

    #[test]
    fn only_clear_refusals_count_as_not_made() {
        for &code in StatusCode::ALL {
            let unclear = [
                StatusCode::Unreachable,
                StatusCode::DeadlineExceeded,
                StatusCode::Internal,
                StatusCode::Cancelled,
                StatusCode::ReplicaDiverged,
                StatusCode::DiskFailed,
                StatusCode::ChunkCorrupt,
            ];
            if unclear.contains(&code) {
                assert_eq!(classify(code), Failure::Unknown, "{code:?}");
            }
        }
        assert_eq!(classify(StatusCode::NoSpace), Failure::Final);
        assert_eq!(classify(StatusCode::WrongRole), Failure::NotMade);
        assert_eq!(classify(StatusCode::MissingUpdate), Failure::NeedsWhole);
    }
}
