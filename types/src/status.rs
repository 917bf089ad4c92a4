//! What a request came to: a code, a message for people, and what a caller should do about it.
//!
//! Codes stand in ranges per service and are never reused. A caller decides by the code, never by the
//! message; `StatusCode::retry` says what a caller without special knowledge does.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::version::RoutingVersion;

/// What a caller should do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails again.
    Never,
    /// Fetch newer routing information (or the leader's address), then try again.
    AfterRefresh,
    /// Try again after this pause.
    After(Duration),
}

macro_rules! status_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $retry:expr;)*) => {
        /// The kind of a failure. The numbers are the wire contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum StatusCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl StatusCode {
            /// Every code, in order.
            pub const ALL: &'static [StatusCode] = &[$(StatusCode::$name,)*];

            /// The code with this number; `None` for one of a later release.
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// What a caller without special knowledge does.
            pub fn retry(self) -> Retry {
                match self {
                    $(Self::$name => $retry,)*
                }
            }
        }
    };
}

const SOON: Retry = Retry::After(Duration::from_millis(20));
const LATER: Retry = Retry::After(Duration::from_millis(200));

status_codes! {
    // 1..99: any service.
    /// A bug or a state that should not be; the message says which.
    Internal = 1, Retry::Never;
    /// The request does not make sense.
    InvalidArgument = 2, Retry::Never;
    /// The bytes of a message could not be understood.
    Malformed = 3, Retry::Never;
    /// The service, method or message version is unknown here.
    Unsupported = 4, Retry::Never;
    /// The deadline passed. The request may or may not have taken effect.
    DeadlineExceeded = 5, SOON;
    /// The peer could not be reached or the connection broke. The request may or may not have taken effect.
    Unreachable = 6, Retry::AfterRefresh;
    /// Too much is under way here.
    Overloaded = 7, SOON;
    /// The process is starting or stopping; the message says what it waits for.
    NotReady = 8, LATER;
    /// The identity may not do this.
    Unauthorized = 9, Retry::Never;
    /// The caller gave up.
    Cancelled = 10, Retry::Never;

    // 100..199: mgmtd.
    /// This mgmtd is not the leader; the detail names it when it is known.
    NotLeader = 100, Retry::AfterRefresh;
    /// No such node, target, chain or table.
    UnknownEntity = 101, Retry::AfterRefresh;
    /// The change conflicts with the cluster's state; the message says why.
    Conflict = 102, Retry::Never;
    /// A heartbeat number or boot that is older than one seen before.
    StaleHeartbeat = 103, Retry::Never;
    /// The change could not be made durable by the manager group now.
    NoQuorum = 104, LATER;

    // 200..299: storage.
    /// The request's chain version differs from the replica's.
    ChainVersionMismatch = 200, Retry::AfterRefresh;
    /// The target does not play this part in its chain now (not head, not serving).
    WrongRole = 201, Retry::AfterRefresh;
    /// The node's lease has run out.
    LeaseExpired = 202, Retry::AfterRefresh;
    /// The target is not on this node.
    UnknownTarget = 203, Retry::AfterRefresh;
    /// The chunk does not exist.
    ChunkNotFound = 204, Retry::Never;
    /// The range leaves the chunk.
    OutOfRange = 205, Retry::Never;
    /// Payload and checksum differ: damaged on the way.
    ChecksumMismatch = 206, SOON;
    /// The stored bytes do not match their checksum.
    ChunkCorrupt = 207, SOON;
    /// The disk is full.
    NoSpace = 208, Retry::Never;
    /// The disk is out of service; the message says why.
    DiskFailed = 209, Retry::AfterRefresh;
    /// The channel has an update outstanding.
    ChannelBusy = 210, SOON;
    /// The channel has moved past this sequence number.
    ChannelStale = 211, Retry::Never;
    /// A predecessor's update came with a gap: the chunk must be resynced.
    MissingUpdate = 212, LATER;
    /// Replicas of one version differ.
    ReplicaDiverged = 213, Retry::AfterRefresh;
    /// The chunk is being changed; the version asked for is not there any more.
    VersionGone = 214, SOON;

    // 300..399: meta. Their meaning is the errno of the same name.
    /// ENOENT
    NotFound = 300, Retry::Never;
    /// EEXIST
    Exists = 301, Retry::Never;
    /// ENOTDIR
    NotDirectory = 302, Retry::Never;
    /// EISDIR
    IsDirectory = 303, Retry::Never;
    /// ENOTEMPTY
    NotEmpty = 304, Retry::Never;
    /// EACCES
    AccessDenied = 305, Retry::Never;
    /// EPERM
    NotPermitted = 306, Retry::Never;
    /// ENAMETOOLONG
    NameTooLong = 307, Retry::Never;
    /// ELOOP
    TooManyLinks = 308, Retry::Never;
    /// EMLINK
    LinkLimit = 309, Retry::Never;
    /// EFBIG
    FileTooLarge = 310, Retry::Never;
    /// ESTALE: the inode was removed.
    Stale = 311, Retry::Never;
    /// EBADF: no such write session.
    BadSession = 312, Retry::Never;
    /// ENOTSUP
    NotSupported = 313, Retry::Never;
    /// A length report carried an old truncate version.
    TruncateVersionMismatch = 314, Retry::AfterRefresh;
    /// No chain table or no chain can take a new file.
    NoChains = 315, LATER;

    // 400..499: the key-value store.
    /// Too many conflicts within the deadline.
    TransactionConflict = 400, SOON;
    /// The store is out of service; the message says why.
    StoreFailed = 401, LATER;
    /// The transaction is too large.
    TransactionTooLarge = 402, Retry::Never;
}

impl Serialize for StatusCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(*self as u16)
    }
}

impl<'de> Deserialize<'de> for StatusCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A code of a later release must not break this one: it is an internal error of the peer to us.
        Ok(Self::from_number(u16::deserialize(deserializer)?).unwrap_or(Self::Internal))
    }
}

/// What comes with some codes, so that the caller can act at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// Nothing more.
    None,
    /// The sender's routing version: a stale peer refreshes at once.
    Routing(RoutingVersion),
    /// The leader's address.
    Leader(String),
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The kind, for programs.
    pub code: StatusCode,
    /// What happened, to what, why; for people.
    pub message: String,
    /// What the caller needs to act.
    pub detail: Detail,
}

impl Status {
    /// A failure without detail.
    pub fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: Detail::None,
        }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }

    /// What a caller without special knowledge does.
    pub fn retry(&self) -> Retry {
        self.code.retry()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({:?}, {})",
            self.message, self.code, self.code as u16
        )
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_codes() {
        for &code in StatusCode::ALL {
            assert_eq!(StatusCode::from_number(code as u16), Some(code));
        }
        assert_eq!(StatusCode::from_number(65_000), None);
    }

    #[test]
    fn a_code_of_a_later_release_is_an_internal_error() {
        let bytes = postcard::to_stdvec(&65_000_u16).unwrap();
        assert_eq!(
            postcard::from_bytes::<StatusCode>(&bytes).unwrap(),
            StatusCode::Internal
        );
    }
}
