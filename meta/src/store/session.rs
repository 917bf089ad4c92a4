//! `INOS` + inode id + session id (big-endian) -> `FileSession`: a file that is open for writing, or an
//! unlinked one that a handle keeps.

use kv::{KeyRange, RangeOptions, ReadMode, Transaction};
use types::{
    codec,
    id::{InodeId, SessionId},
    session::FileSession,
};

use super::{decode, inode_key};
use crate::error::MetaError;

const PREFIX: [u8; 4] = *b"INOS";

/// The key of a session.
pub fn key(inode: InodeId, session: SessionId) -> Vec<u8> {
    let mut key = inode_key(PREFIX, inode).to_vec();
    key.extend_from_slice(&session.0.to_be_bytes());
    key
}

/// All sessions of a file.
pub fn range(inode: InodeId) -> KeyRange {
    KeyRange::prefix(&inode_key(PREFIX, inode))
}

/// All sessions of all files.
pub fn range_of_all() -> KeyRange {
    KeyRange::prefix(&PREFIX)
}

/// A session.
pub async fn load(
    txn: &mut dyn Transaction,
    inode: InodeId,
    session: SessionId,
) -> Result<Option<FileSession>, MetaError> {
    let key = key(inode, session);
    let value = txn.get(&key, ReadMode::Serializable).await?;
    value.map(|value| decode(&key, &value)).transpose()
}

/// Writes a session.
pub fn store(txn: &mut dyn Transaction, session: &FileSession) {
    txn.set(&key(session.inode, session.id), &codec::encode(session));
}

/// Removes a session.
pub fn clear(txn: &mut dyn Transaction, inode: InodeId, session: SessionId) {
    txn.clear(&key(inode, session));
}

/// Whether a file has a session, other than `except`. A session that comes or goes meanwhile conflicts.
pub async fn any(
    txn: &mut dyn Transaction,
    inode: InodeId,
    except: Option<SessionId>,
) -> Result<bool, MetaError> {
    let options = RangeOptions {
        limit: 2,
        reverse: false,
    };
    let except = except.map(|session| key(inode, session));
    let mut left = Some(range(inode));
    while let Some(range) = left {
        let page = txn
            .get_range(range.clone(), options, ReadMode::Serializable)
            .await?;
        let mut keys = page.items.iter().map(|(key, _)| key.as_ref());
        if keys.any(|key| except.as_deref() != Some(key)) {
            return Ok(true);
        }
        left = page.rest(&range, false);
    }
    Ok(false)
}

/// What a value of a range of sessions says.
pub fn read(key: &[u8], value: &[u8]) -> Result<FileSession, MetaError> {
    decode(key, value)
}

#[cfg(test)]
mod tests {
    use kv::{Kv, mem::MemKv};
    use types::id::ClientId;

    use super::*;

    #[tokio::test]
    async fn a_session_is_found_until_it_is_cleared() {
        let kv = MemKv::new();
        let mut txn = kv.begin();
        let (inode, id) = (InodeId(3), SessionId(0x0a0b));
        let session = FileSession {
            id,
            inode,
            client: ClientId(4),
            opened_ns: 5,
        };
        assert_eq!(any(&mut *txn, inode, None).await, Ok(false));
        store(&mut *txn, &session);
        assert!(key(inode, id).ends_with(b"\0\0\x0a\x0b"));
        assert_eq!(load(&mut *txn, inode, id).await, Ok(Some(session)));
        assert_eq!(any(&mut *txn, inode, None).await, Ok(true));
        assert_eq!(any(&mut *txn, inode, Some(id)).await, Ok(false));
        assert_eq!(any(&mut *txn, inode, Some(SessionId(1))).await, Ok(true));
        clear(&mut *txn, inode, id);
        assert_eq!(any(&mut *txn, inode, None).await, Ok(false));
    }
}
