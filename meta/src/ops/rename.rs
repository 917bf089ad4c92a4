//! rename, with NOREPLACE and EXCHANGE (protocol N5).
//!
//! No directory may come to lie under itself. Who moves a directory to another one walks from there up to
//! the root, reading each inode for conflict, and writes the inode of what it moves: of two moves that would
//! make a circle together, one fails and sees the other's result.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    dentry::Dentry,
    id::{InodeId, ROOT_INODE},
    inode::{FileKind, Inode, InodeData},
    rpc::meta::{Rename, RenameMode, RenameRequest},
    user::Identity,
};

use super::{Context, Operation, rmdir, unlink};
use crate::{
    error::MetaError,
    permission::{self, Access},
    resolve::{self, Found},
    store,
};

/// The deepest directory that can be moved into: bounds the walk, far above what PATH_MAX lets one name.
pub const DEPTH_MAX: usize = 4096;

#[async_trait]
impl Operation for Rename {
    const RECORDED: bool = true;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &RenameRequest,
    ) -> Result<(), MetaError> {
        let who = ctx.identity();
        let old = resolve::existing_name(txn, who, request.parent, &request.name).await?;
        let new = target(txn, who, request).await?;
        match (request.mode, new) {
            (RenameMode::Exchange, Target::Taken(new)) => {
                exchange(txn, ctx, request, old, *new).await
            }
            (RenameMode::Exchange, Target::Free(_)) => Err(MetaError::NotFound {
                parent: request.new_parent,
            }),
            (RenameMode::NoReplace, Target::Taken(_)) => Err(MetaError::Exists {
                parent: request.new_parent,
            }),
            (RenameMode::Replace, Target::Taken(new)) => {
                replace(txn, ctx, request, old, *new).await
            }
            (RenameMode::Replace | RenameMode::NoReplace, Target::Free(directory)) => {
                check_move(who, request, &old)?;
                permission::check(who, &directory, Access::WRITE)?;
                check_circle(txn, request.parent, request.new_parent, &old.inode).await?;
                put(txn, ctx, request, old);
                Ok(())
            }
        }
    }
}

/// What the new name is.
enum Target {
    /// Free, in this directory.
    Free(Inode),
    /// Taken.
    Taken(Box<Found>),
}

async fn target(
    txn: &mut dyn Transaction,
    who: &Identity,
    request: &RenameRequest,
) -> Result<Target, MetaError> {
    match resolve::existing_name(txn, who, request.new_parent, &request.new_name).await {
        Ok(found) => Ok(Target::Taken(Box::new(found))),
        Err(MetaError::NotFound { .. }) => {
            let mode = ReadMode::Serializable;
            let directory = store::inode::require(txn, request.new_parent, mode).await?;
            Ok(Target::Free(directory))
        }
        Err(error) => Err(error),
    }
}

async fn replace(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    request: &RenameRequest,
    old: Found,
    new: Found,
) -> Result<(), MetaError> {
    if old.inode.id == new.inode.id {
        // POSIX: two names of one file stay both.
        return Ok(());
    }
    check_move(ctx.identity(), request, &old)?;
    permission::check_remove(ctx.identity(), &new.directory, &new.inode)?;
    check_circle(txn, request.parent, request.new_parent, &old.inode).await?;
    let inode = new.inode.id;
    let directories = [&old, &new].map(|found| found.inode.kind() == FileKind::Directory);
    match directories {
        [true, false] => return Err(MetaError::NotDirectory { inode }),
        [false, true] => return Err(MetaError::IsDirectory { inode }),
        [true, true] => rmdir::remove_empty(txn, inode).await?,
        [false, false] => unlink::drop_link(txn, ctx, new.inode, request.hold).await?,
    }
    put(txn, ctx, request, old);
    Ok(())
}

/// Moves `old` to the new name.
fn put(txn: &mut dyn Transaction, ctx: &Context<'_>, request: &RenameRequest, old: Found) {
    store::dentry::clear(txn, request.parent, &request.name);
    place(txn, ctx, request.new_parent, &request.new_name, old);
    store::directory_times::raise(txn, request.parent, ctx.now_ns);
    store::directory_times::raise(txn, request.new_parent, ctx.now_ns);
}

async fn exchange(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    request: &RenameRequest,
    old: Found,
    new: Found,
) -> Result<(), MetaError> {
    if old.inode.id == new.inode.id {
        return Ok(());
    }
    check_move(ctx.identity(), request, &old)?;
    check_move(ctx.identity(), request, &new)?;
    check_circle(txn, request.parent, request.new_parent, &old.inode).await?;
    check_circle(txn, request.new_parent, request.parent, &new.inode).await?;
    place(txn, ctx, request.new_parent, &request.new_name, old);
    place(txn, ctx, request.parent, &request.name, new);
    store::directory_times::raise(txn, request.parent, ctx.now_ns);
    store::directory_times::raise(txn, request.new_parent, ctx.now_ns);
    Ok(())
}

/// Writes a name, and what the move changes in its inode.
fn place(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    directory: InodeId,
    name: &[u8],
    found: Found,
) {
    let Found {
        mut inode, dentry, ..
    } = found;
    if let InodeData::Directory { parent, .. } = &mut inode.data {
        *parent = directory;
    }
    inode.times.ctime_ns = ctx.now_ns;
    store::inode::store(txn, &inode);
    let Dentry { inode, kind } = dentry;
    store::dentry::store(txn, directory, name, &Dentry { inode, kind });
}

/// Whether `who` may take this away from where it is. A directory that changes its `..` must be writable.
fn check_move(who: &Identity, request: &RenameRequest, found: &Found) -> Result<(), MetaError> {
    permission::check_remove(who, &found.directory, &found.inode)?;
    if found.inode.kind() == FileKind::Directory && request.parent != request.new_parent {
        permission::check(who, &found.inode, Access::WRITE)?;
    }
    Ok(())
}

/// Refuses to move a directory from `from` to `into` when that is the directory itself or lies below it.
async fn check_circle(
    txn: &mut dyn Transaction,
    from: InodeId,
    into: InodeId,
    moved: &Inode,
) -> Result<(), MetaError> {
    if moved.kind() != FileKind::Directory || from == into {
        return Ok(());
    }
    let mut at = into;
    for _ in 0..DEPTH_MAX {
        if at == moved.id {
            return Err(MetaError::InvalidArgument {
                reason: "a directory cannot be moved below itself",
            });
        }
        if at == ROOT_INODE {
            return Ok(());
        }
        let inode = store::inode::require(txn, at, ReadMode::Serializable).await?;
        let InodeData::Directory { parent, .. } = inode.data else {
            return Err(MetaError::NotDirectory { inode: at });
        };
        at = parent;
    }
    Err(MetaError::TooLong {
        what: "a path of directories",
        length: DEPTH_MAX,
    })
}
