//! unlink: removes a name, and with the last one the file, unless somebody has it open (protocol N6).

use async_trait::async_trait;
use kv::Transaction;
use types::{
    inode::{FileKind, Inode},
    rpc::meta::{Hold, Unlink, UnlinkRequest},
};

use super::{Context, Operation, open};
use crate::{
    error::MetaError,
    permission, resolve,
    store::{self, garbage::Garbage},
};

#[async_trait]
impl Operation for Unlink {
    const RECORDED: bool = true;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &UnlinkRequest,
    ) -> Result<(), MetaError> {
        let UnlinkRequest { parent, name, hold } = request;
        let found = resolve::existing_name(txn, ctx.identity(), *parent, name).await?;
        permission::check_remove(ctx.identity(), &found.directory, &found.inode)?;
        if found.inode.kind() == FileKind::Directory {
            let inode = found.inode.id;
            return Err(MetaError::IsDirectory { inode });
        }
        store::dentry::clear(txn, *parent, name);
        store::directory_times::raise(txn, *parent, ctx.now_ns);
        drop_link(txn, ctx, found.inode, *hold).await
    }
}

/// Takes one name from an inode that is no directory.
pub(super) async fn drop_link(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    mut inode: Inode,
    hold: Option<Hold>,
) -> Result<(), MetaError> {
    inode.nlink = inode.nlink.saturating_sub(1);
    inode.times.ctime_ns = ctx.now_ns;
    if inode.nlink == 0 && inode.kind() == FileKind::Symlink {
        // Nobody has it open, and it has no chunks.
        store::inode::clear(txn, inode.id);
        store::counters::count(txn, inode.id, -1);
        return Ok(());
    }
    store::inode::store(txn, &inode);
    if inode.nlink > 0 {
        return Ok(());
    }
    match hold.filter(|hold| hold.inode == inode.id) {
        Some(hold) => open::store_session(txn, ctx, inode.id, hold.session),
        None if store::session::any(txn, inode.id, None).await? => {}
        None => ctx.queue(txn, inode.id, Garbage::Remove),
    }
    Ok(())
}
