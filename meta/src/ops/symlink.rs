//! symlink. Its target is bytes that mean nothing here; readlink is a lookup.

use async_trait::async_trait;
use kv::Transaction;
use types::{
    dentry::Dentry,
    inode::{FileKind, Inode, InodeData},
    rpc::meta::{Symlink, SymlinkRequest},
};

use super::{Context, Operation};
use crate::{error::MetaError, permission, resolve, store};

/// The longest target: Linux's PATH_MAX without its NUL.
pub const TARGET_LENGTH_MAX: usize = 4095;

#[async_trait]
impl Operation for Symlink {
    const RECORDED: bool = true;
    const MAKES_INODE: bool = true;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &SymlinkRequest,
    ) -> Result<Inode, MetaError> {
        let SymlinkRequest {
            parent,
            name,
            target,
        } = request;
        check_target(target)?;
        let directory = resolve::free_name(txn, ctx.identity(), *parent, name).await?;
        let owner = permission::of_new(ctx.identity(), &directory, FileKind::Symlink, 0o777);
        let inode = Inode {
            id: ctx.fresh,
            uid: owner.uid,
            gid: owner.gid,
            mode: owner.mode,
            nlink: 1,
            times: ctx.new_times(),
            data: InodeData::Symlink {
                target: target.clone(),
            },
        };
        let dentry = Dentry {
            inode: inode.id,
            kind: FileKind::Symlink,
        };
        store::inode::store(txn, &inode);
        store::dentry::store(txn, *parent, name, &dentry);
        store::directory_times::raise(txn, *parent, ctx.now_ns);
        store::counters::count(txn, inode.id, 1);
        Ok(inode)
    }
}

fn check_target(target: &[u8]) -> Result<(), MetaError> {
    if target.len() > TARGET_LENGTH_MAX {
        return Err(MetaError::TooLong {
            what: "the target of a symlink",
            length: target.len(),
        });
    }
    if target.is_empty() || target.contains(&0) {
        return Err(MetaError::InvalidArgument {
            reason: "the target of a symlink is empty or contains NUL",
        });
    }
    Ok(())
}
