//! link: one more name for a file or symlink.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    dentry::Dentry,
    inode::{FileKind, Inode},
    rpc::meta::{Link, LinkRequest},
};

use super::{Context, Operation, shown};
use crate::{error::MetaError, resolve, store};

/// How many names an inode can have: what every stat(2) can show as a signed number.
pub const NLINK_MAX: u32 = i32::MAX as u32;

#[async_trait]
impl Operation for Link {
    const RECORDED: bool = true;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &LinkRequest,
    ) -> Result<Inode, MetaError> {
        let LinkRequest {
            inode,
            parent,
            name,
        } = request;
        let mut inode = store::inode::require(txn, *inode, ReadMode::Serializable).await?;
        if inode.kind() == FileKind::Directory {
            return Err(MetaError::NotPermitted {
                reason: "a directory has one name",
            });
        }
        resolve::free_name(txn, ctx.identity(), *parent, name).await?;
        if inode.nlink == 0 {
            return Err(MetaError::NotFound { parent: *parent });
        }
        if inode.nlink >= NLINK_MAX {
            return Err(MetaError::LinkLimit { inode: inode.id });
        }
        inode.nlink += 1;
        inode.times.ctime_ns = ctx.now_ns;
        let dentry = Dentry {
            inode: inode.id,
            kind: inode.kind(),
        };
        store::inode::store(txn, &inode);
        store::dentry::store(txn, *parent, name, &dentry);
        store::directory_times::raise(txn, *parent, ctx.now_ns);
        shown(txn, inode).await
    }
}
