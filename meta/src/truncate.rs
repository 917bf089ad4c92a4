//! The part of a truncate that works on chunks (protocol L5).
//!
//! | step | state in the store | who refuses what |
//! | --- | --- | --- |
//! | `ops::set_attr` | intent, truncate version + 1, garbage entry | reports, opens for writing and truncates wait for the end |
//! | chunks beyond removed, boundary chunk cut | as before | as before |
//! | last transaction | length, truncate version + 1, no intent, no entry | reports of both older versions are refused |
//!
//! Everybody else sees the file as before until the last transaction: who saw the new length and wrote
//! on that could lose his bytes to the removal. A crash between the steps is finished by the garbage
//! collector or by the next who needs the file; every step can be repeated while the intent stands.
//!
//! Invariant: of one file's truncates one works at a time, and to its end, because a removal that went on
//! after the intent is gone could hit new bytes. Today one server owns the store, so a lock here is enough.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use common::{env::Env, sync::Mutex};
use kv::{Kv, ReadMode, Transaction, transact};
use tokio::sync::OwnedMutexGuard;
use types::{
    chunk::ChunkId,
    id::InodeId,
    inode::{Inode, InodeData, TruncateIntent},
    layout::Layout,
    version::TruncateVersion,
};

use crate::{
    chunks::Chunks,
    error::MetaError,
    length,
    store::{self, garbage::Entry},
};

/// For the transactions here, which must not fail because the work on chunks took long.
const TRANSACTION_TIME: Duration = Duration::from_secs(10);

/// Finishes truncates.
#[derive(Debug)]
pub struct Truncates {
    env: Env,
    kv: Arc<dyn Kv>,
    chunks: Arc<dyn Chunks>,
    locks: InodeLocks,
}

/// A truncate that was found in an inode.
#[derive(Clone)]
struct Pending {
    intent: TruncateIntent,
    version: TruncateVersion,
    layout: Layout,
}

impl Truncates {
    /// Works on these chunks.
    pub fn new(env: &Env, kv: Arc<dyn Kv>, chunks: Arc<dyn Chunks>) -> Self {
        Self {
            env: env.clone(),
            kv,
            chunks,
            locks: InodeLocks::default(),
        }
    }

    /// Finishes the truncate of a file, if there is one, and clears its garbage entry when the caller
    /// knows it. Returns the inode afterwards.
    ///
    /// # Errors
    /// Stale; when the store or storage fails: the truncate stays to be finished.
    pub async fn finish(&self, inode: InodeId, entry: Option<Entry>) -> Result<Inode, MetaError> {
        let _working = self.locks.lock(inode).await;
        let deadline = self.env.now() + TRANSACTION_TIME;
        let found = transact(&self.env, &*self.kv, deadline, |txn| {
            Box::pin(store::inode::require(txn, inode, ReadMode::Snapshot))
        })
        .await?;
        let pending = pending(&found);
        if let Some(pending) = &pending {
            self.cut(inode, pending).await?;
        }
        if pending.is_none() && entry.is_none() {
            return Ok(found);
        }
        let now_ns = self.env.wall().0;
        let deadline = self.env.now() + TRANSACTION_TIME;
        transact(&self.env, &*self.kv, deadline, |txn| {
            Box::pin(complete(txn, inode, pending.clone(), entry, now_ns))
        })
        .await
    }

    async fn cut(&self, inode: InodeId, pending: &Pending) -> Result<(), MetaError> {
        let cut = length::cut(pending.intent.length, &pending.layout);
        if let Some(from_index) = cut.remove_from {
            self.chunks
                .remove(inode, &pending.layout, from_index)
                .await?;
        }
        if let Some((index, length)) = cut.boundary {
            let chunk = ChunkId { inode, index };
            self.chunks
                .truncate_chunk(&pending.layout, chunk, length)
                .await?;
        }
        Ok(())
    }
}

fn pending(inode: &Inode) -> Option<Pending> {
    match &inode.data {
        InodeData::File {
            truncating: Some(intent),
            truncate_version,
            layout,
            ..
        } => Some(Pending {
            intent: *intent,
            version: *truncate_version,
            layout: layout.clone(),
        }),
        InodeData::File { .. } | InodeData::Directory { .. } | InodeData::Symlink { .. } => None,
    }
}

/// The last transaction: the length is what the intent says, and nobody is behind it any more.
async fn complete(
    txn: &mut dyn Transaction,
    inode: InodeId,
    done: Option<Pending>,
    entry: Option<Entry>,
    now_ns: u64,
) -> Result<Inode, MetaError> {
    let mut found = store::inode::require(txn, inode, ReadMode::Serializable).await?;
    if let Some(entry) = entry {
        store::garbage::clear(txn, entry);
    }
    let Some(done) = done else {
        return Ok(found);
    };
    if let InodeData::File {
        length,
        truncate_version,
        truncating,
        ..
    } = &mut found.data
        && *truncating == Some(done.intent)
        && *truncate_version == done.version
    {
        *length = done.intent.length;
        *truncate_version = TruncateVersion(truncate_version.0 + 1);
        *truncating = None;
        found.times.ctime_ns = found.times.ctime_ns.max(now_ns);
        store::unreported::clear(txn, inode);
        store::inode::store(txn, &found);
    }
    Ok(found)
}

/// One lock for each file that somebody works on.
#[derive(Debug, Default)]
struct InodeLocks(Mutex<BTreeMap<InodeId, Weak<tokio::sync::Mutex<()>>>>);

impl InodeLocks {
    async fn lock(&self, inode: InodeId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            locks
                .get(&inode)
                .and_then(Weak::upgrade)
                .unwrap_or_else(|| {
                    let lock = Arc::default();
                    locks.insert(inode, Arc::downgrade(&lock));
                    lock
                })
        };
        lock.lock_owned().await
    }
}
