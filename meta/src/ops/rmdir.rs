//! rmdir: removes an empty directory. Conflicts with whoever puts a name into it: he reads its inode, which
//! is cleared here, and writes where its names are read.

use async_trait::async_trait;
use kv::Transaction;
use types::{
    id::InodeId,
    inode::FileKind,
    rpc::meta::{NameRequest, Rmdir},
};

use super::{Context, Operation};
use crate::{error::MetaError, permission, resolve, store};

#[async_trait]
impl Operation for Rmdir {
    const RECORDED: bool = true;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &NameRequest,
    ) -> Result<(), MetaError> {
        let NameRequest { parent, name } = request;
        let found = resolve::existing_name(txn, ctx.identity(), *parent, name).await?;
        let inode = found.inode.id;
        permission::check_remove(ctx.identity(), &found.directory, &found.inode)?;
        if found.inode.kind() != FileKind::Directory {
            return Err(MetaError::NotDirectory { inode });
        }
        remove_empty(txn, inode).await?;
        store::dentry::clear(txn, *parent, name);
        store::directory_times::raise(txn, *parent, ctx.now_ns);
        Ok(())
    }
}

/// Removes a directory's inode, if it has no names.
pub(super) async fn remove_empty(
    txn: &mut dyn Transaction,
    inode: InodeId,
) -> Result<(), MetaError> {
    if !store::dentry::is_empty(txn, inode).await? {
        return Err(MetaError::NotEmpty { inode });
    }
    store::inode::clear(txn, inode);
    store::directory_times::clear(txn, inode);
    store::counters::count(txn, inode, -1);
    Ok(())
}
