//! readdir: a page of a directory in byte order of names, with attributes when asked for (protocol N8).
//! Reads one version of the store and conflicts with nothing.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    id::InodeId,
    inode::{FileKind, InodeData},
    rpc::meta::{ReadDir, ReadDirEntry, ReadDirReply, ReadDirRequest},
};

use super::{Context, Operation, shown};
use crate::{
    error::MetaError,
    permission::{self, Access},
    store,
};

/// Entries per page. With the longest names and targets a reply has 5 MiB, below the limit of a frame.
pub const PAGE_MAX: usize = 1024;

#[async_trait]
impl Operation for ReadDir {
    const RECORDED: bool = false;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &ReadDirRequest,
    ) -> Result<ReadDirReply, MetaError> {
        let directory = store::inode::require(txn, request.inode, ReadMode::Snapshot).await?;
        let InodeData::Directory { parent, .. } = directory.data else {
            let inode = request.inode;
            return Err(MetaError::NotDirectory { inode });
        };
        if request.after.is_empty() {
            // POSIX checks at opendir, not at each page.
            permission::check(ctx.identity(), &directory, Access::READ)?;
        }
        let limit = usize::try_from(request.limit).unwrap_or(PAGE_MAX);
        let limit = limit.clamp(1, PAGE_MAX);
        let (named, more) = store::dentry::list(txn, request.inode, &request.after, limit).await?;
        let mut entries = Vec::with_capacity(named.len());
        for (name, dentry) in named {
            let inode = match request.attributes {
                true => attributes(txn, dentry.inode, dentry.kind).await?,
                false => None,
            };
            entries.push(ReadDirEntry {
                name,
                dentry,
                inode,
            });
        }
        Ok(ReadDirReply {
            entries,
            more,
            parent,
        })
    }
}

async fn attributes(
    txn: &mut dyn Transaction,
    inode: InodeId,
    kind: FileKind,
) -> Result<Option<types::inode::Inode>, MetaError> {
    let found = store::inode::load(txn, inode, ReadMode::Snapshot).await?;
    match found {
        Some(inode) if inode.kind() == kind => Ok(Some(shown(txn, inode).await?)),
        _ => Ok(None),
    }
}
