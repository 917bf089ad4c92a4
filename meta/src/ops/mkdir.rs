//! mkdir. The new directory inherits the layout of the one above.

use async_trait::async_trait;
use kv::Transaction;
use types::{
    dentry::Dentry,
    inode::{FileKind, Inode, InodeData},
    rpc::meta::{Mkdir, MkdirRequest},
};

use super::{Context, Operation};
use crate::{error::MetaError, permission, resolve, store};

/// The link count of every directory (ADR 0004).
pub const DIRECTORY_NLINK: u32 = 1;

#[async_trait]
impl Operation for Mkdir {
    const RECORDED: bool = true;
    const MAKES_INODE: bool = true;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &MkdirRequest,
    ) -> Result<Inode, MetaError> {
        let MkdirRequest { parent, name, mode } = request;
        let directory = resolve::free_name(txn, ctx.identity(), *parent, name).await?;
        let owner = permission::of_new(ctx.identity(), &directory, FileKind::Directory, *mode);
        let layout = match directory.data {
            InodeData::Directory { layout, .. } => layout,
            InodeData::File { .. } | InodeData::Symlink { .. } => None,
        };
        let inode = Inode {
            id: ctx.fresh,
            uid: owner.uid,
            gid: owner.gid,
            mode: owner.mode,
            nlink: DIRECTORY_NLINK,
            times: ctx.new_times(),
            data: InodeData::Directory {
                parent: *parent,
                layout,
            },
        };
        let dentry = Dentry {
            inode: inode.id,
            kind: FileKind::Directory,
        };
        store::inode::store(txn, &inode);
        store::dentry::store(txn, *parent, name, &dentry);
        store::directory_times::raise(txn, *parent, ctx.now_ns);
        store::counters::count(txn, inode.id, 1);
        Ok(inode)
    }
}
