//! open: checks permissions; for writing it stores a session (protocol L1). Opens of one file commute.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    id::{InodeId, SessionId},
    inode::{FileKind, Inode, InodeData},
    rpc::meta::{Open, OpenRequest},
    session::FileSession,
    user::Identity,
};

use super::{Context, Operation, shown};
use crate::{
    error::{MetaError, Need},
    permission::{self, Access},
    store,
};

#[async_trait]
impl Operation for Open {
    const RECORDED: bool = false;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &OpenRequest,
    ) -> Result<Inode, MetaError> {
        let mode = match request.session {
            Some(_) => ReadMode::Serializable,
            None => ReadMode::Snapshot,
        };
        let inode = store::inode::require(txn, request.inode, mode).await?;
        if request.read {
            check_read(ctx.identity(), &inode)?;
        }
        if let Some(session) = request.session {
            match inode.kind() {
                FileKind::File => {}
                FileKind::Directory => return Err(MetaError::IsDirectory { inode: inode.id }),
                FileKind::Symlink => {
                    return Err(MetaError::InvalidArgument {
                        reason: "a symlink is not opened for writing",
                    });
                }
            }
            permission::check(ctx.identity(), &inode, Access::WRITE)?;
            begin_session(txn, ctx, &inode, session).await?;
        }
        shown(txn, inode).await
    }
}

/// To read a file needs the right to read or to run it: execve(2) opens files for reading and does not say
/// so. Who may not read is told apart where that is known, in the client's kernel; NFS servers do the same.
pub(super) fn check_read(who: &Identity, inode: &Inode) -> Result<(), MetaError> {
    let read = permission::check(who, inode, Access::READ);
    if inode.kind() == FileKind::File && read.is_err() {
        return permission::check(who, inode, Access::EXECUTE);
    }
    read
}

/// Opens a file that exists for writing, once nothing is in the way.
///
/// An inode without names and without sessions is garbage for good; nothing brings it back. That is what
/// lets the collector work without a transaction around it.
pub(super) async fn begin_session(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    inode: &Inode,
    session: SessionId,
) -> Result<(), MetaError> {
    if let InodeData::File {
        truncating: Some(_),
        ..
    } = inode.data
    {
        return Err(MetaError::Needs(Need::FinishTruncate(inode.id)));
    }
    if inode.nlink == 0 && !store::session::any(txn, inode.id, None).await? {
        return Err(MetaError::Stale { inode: inode.id });
    }
    store_session(txn, ctx, inode.id, session);
    Ok(())
}

/// Writes a session of the caller.
pub(super) fn store_session(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    inode: InodeId,
    id: SessionId,
) {
    let session = FileSession {
        id,
        inode,
        client: ctx.caller.client,
        opened_ns: ctx.now_ns,
    };
    store::session::store(txn, &session);
}
