//! The operations: one file each, one serializable transaction each (protocol N1).
//!
//! An operation speaks only with its transaction; everything else it needs is in its `Context`, fixed
//! before the first try. So it can be run again after a conflict, and tests can state which keys it reads
//! and writes (`tests/conflicts.rs`). What it needs from outside on the way it asks for with `Need`.

pub mod close;
pub mod create;
pub mod get_attr;
pub mod link;
pub mod lookup;
pub mod mkdir;
pub mod open;
pub mod read_dir;
pub mod rename;
pub mod rmdir;
pub mod set_attr;
pub mod stat_fs;
pub mod symlink;
pub mod sync;
pub mod unlink;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use kv::Transaction;
use types::{
    id::InodeId,
    inode::{Inode, InodeData, Times},
    routing::RoutingInfo,
    rpc::{Caller, Rpc},
    user::Identity,
    version::TruncateVersion,
};

use crate::{
    chain_picker::ChainPicker,
    error::MetaError,
    store::{
        self,
        garbage::{Entry, Garbage},
    },
};

/// An operation on the namespace.
#[async_trait]
pub trait Operation: Rpc {
    /// Whether the result is stored, so that a retry of the same request gets it (protocol N2). Operations
    /// without it do no harm when they run twice.
    const RECORDED: bool;
    /// Whether it may make an inode.
    const MAKES_INODE: bool = false;

    /// Runs in `txn`, which the caller commits.
    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &Self::Request,
    ) -> Result<Self::Response, MetaError>;
}

/// What an operation knows of the world: the same in every try of one request.
#[derive(Debug)]
pub struct Context<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// The wall clock, for times in inodes.
    pub now_ns: u64,
    /// The id of the inode it may make.
    pub fresh: InodeId,
    /// A random number, for layouts.
    pub seed: u64,
    /// The cluster's map.
    pub routing: Arc<RoutingInfo>,
    /// Makes layouts.
    pub picker: &'a ChainPicker,
    /// The answer to `Need::AskLength`.
    pub asked: Option<AskedLength>,
    /// Set when an inode to remove was queued, so that the collector wakes.
    pub queued: AtomicBool,
}

/// What the chains said about a file's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedLength {
    /// The file.
    pub inode: InodeId,
    /// The version it had when they were asked.
    pub truncate_version: TruncateVersion,
    /// Its length.
    pub length: u64,
}

impl Context<'_> {
    /// On whose behalf.
    pub fn identity(&self) -> &Identity {
        &self.caller.identity
    }

    /// The times of something new.
    fn new_times(&self) -> Times {
        Times {
            atime_ns: self.now_ns,
            mtime_ns: self.now_ns,
            ctime_ns: self.now_ns,
            btime_ns: self.now_ns,
        }
    }

    /// Queues garbage.
    fn queue(&self, txn: &mut dyn Transaction, inode: InodeId, garbage: Garbage) {
        let entry = Entry {
            queued_ns: self.now_ns,
            inode,
            garbage,
        };
        store::garbage::store(txn, entry);
        if garbage == Garbage::Remove {
            self.queued.store(true, Ordering::Relaxed);
        }
    }
}

/// An inode as clients see it: a directory with the times of its content; a truncate that has not ended
/// has not happened.
async fn shown(txn: &mut dyn Transaction, inode: Inode) -> Result<Inode, MetaError> {
    let mut inode = store::directory_times::merge(txn, inode).await?;
    if let InodeData::File { truncating, .. } = &mut inode.data {
        *truncating = None;
    }
    Ok(inode)
}
