//! The first start of a namespace: its root directory.

use std::time::Duration;

use common::env::Env;
use kv::{Kv, ReadMode, Transaction, transact};
use types::{
    id::ROOT_INODE,
    inode::{Inode, InodeData, Times},
};

use crate::{error::MetaError, ops::mkdir::DIRECTORY_NLINK, store};

/// For the one transaction here.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes the root directory if there is none: everybody may read it, root writes.
///
/// # Errors
/// When the store fails.
pub async fn ensure_root(env: &Env, kv: &dyn Kv) -> Result<(), MetaError> {
    let now_ns = env.wall().0;
    transact(env, kv, env.now() + LIMIT, |txn| {
        Box::pin(make_root(txn, now_ns))
    })
    .await
}

async fn make_root(txn: &mut dyn Transaction, now_ns: u64) -> Result<(), MetaError> {
    let found = store::inode::load(txn, ROOT_INODE, ReadMode::Serializable).await?;
    if found.is_some() {
        return Ok(());
    }
    let root = Inode {
        id: ROOT_INODE,
        uid: 0,
        gid: 0,
        mode: 0o755,
        nlink: DIRECTORY_NLINK,
        times: Times {
            atime_ns: now_ns,
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            btime_ns: now_ns,
        },
        data: InodeData::Directory {
            parent: ROOT_INODE,
            layout: None,
        },
    };
    store::inode::store(txn, &root);
    store::counters::count(txn, ROOT_INODE, 1);
    Ok(())
}
