//! Sessions: an open-for-write in meta, and a client's lease with mgmtd.

use serde::{Deserialize, Serialize};

use crate::id::{ClientId, InodeId, SessionId};

/// One open-for-write of a file. While one exists the file's length is a lower bound and its data stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSession {
    /// Its identity.
    pub id: SessionId,
    /// The file.
    pub inode: InodeId,
    /// Who holds it.
    pub client: ClientId,
    /// When it was opened, nanoseconds since 1970; for people.
    pub opened_ns: u64,
}

/// A client's lease with mgmtd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSession {
    /// Which client.
    pub client: ClientId,
    /// What it calls itself: host, program, mount point.
    pub description: String,
}
