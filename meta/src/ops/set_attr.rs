//! setattr: chmod, chown, utimensat, truncate, also several at once.
//!
//! A truncate that must cut chunks (`length::plan`) ends here with an intent in the inode and in the
//! garbage queue; `truncate` does the rest. The reply then still carries the intent: the service sees it
//! and finishes before it answers, also when the request is a retry.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    id::InodeId,
    inode::{FileKind, Inode, InodeData, TruncateIntent},
    layout::FILE_LENGTH_MAX,
    rpc::meta::{AttrChange, SetAttr, SetAttrRequest, SetTime},
    user::Identity,
    version::TruncateVersion,
};

use super::{Context, Operation};
use crate::{
    error::{MetaError, Need},
    length::{self, Plan},
    permission::{self, Access},
    store::{self, garbage::Garbage},
};

#[async_trait]
impl Operation for SetAttr {
    const RECORDED: bool = true;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &SetAttrRequest,
    ) -> Result<Inode, MetaError> {
        let change = &request.change;
        let mut inode = store::inode::require(txn, request.inode, ReadMode::Serializable).await?;
        let opened = match request.session {
            Some(session) => store::session::load(txn, inode.id, session)
                .await?
                .is_some_and(|session| session.client == ctx.caller.client),
            None => false,
        };
        check_times(ctx.identity(), &inode, change, opened)?;
        permission::check_chown(ctx.identity(), &inode, change.uid, change.gid)?;
        if let Some(wanted) = change.length {
            check_length(ctx.identity(), &inode, wanted, opened)?;
            set_length(txn, ctx, &mut inode, wanted).await?;
        }
        set_owner_and_mode(ctx.identity(), &mut inode, change)?;
        set_times(&mut inode, change, ctx.now_ns);
        if change.mtime.is_some() && inode.kind() == FileKind::Directory {
            store::directory_times::clear(txn, inode.id);
        }
        store::inode::store(txn, &inode);
        store::directory_times::merge(txn, inode).await
    }
}

/// To set a time needs ownership; to set the present needs the right to write.
fn check_times(
    who: &Identity,
    inode: &Inode,
    change: &AttrChange,
    opened: bool,
) -> Result<(), MetaError> {
    let times = [change.atime, change.mtime];
    if times.iter().all(Option::is_none) || who.uid == 0 || who.uid == inode.uid {
        return Ok(());
    }
    let touched = times == [Some(SetTime::Now); 2];
    let with_truncate = change.length.is_some() && times == [None, Some(SetTime::Now)];
    if !touched && !with_truncate {
        return permission::check_owner(who, inode);
    }
    if opened {
        return Ok(());
    }
    permission::check(who, inode, Access::WRITE)
}

fn check_length(who: &Identity, inode: &Inode, wanted: u64, opened: bool) -> Result<(), MetaError> {
    match inode.kind() {
        FileKind::File => {}
        FileKind::Directory => return Err(MetaError::IsDirectory { inode: inode.id }),
        FileKind::Symlink => {
            return Err(MetaError::InvalidArgument {
                reason: "a symlink has no length to set",
            });
        }
    }
    if wanted > FILE_LENGTH_MAX {
        return Err(MetaError::FileTooLarge { length: wanted });
    }
    if opened {
        return Ok(());
    }
    permission::check(who, inode, Access::WRITE)
}

async fn set_length(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    inode: &mut Inode,
    wanted: u64,
) -> Result<(), MetaError> {
    let exact = is_exact(txn, inode.id).await?;
    inode.mode = permission::mode_after_write(ctx.identity(), inode);
    inode.times.mtime_ns = ctx.now_ns;
    let InodeData::File {
        length,
        truncate_version,
        truncating,
        ..
    } = &mut inode.data
    else {
        return Ok(());
    };
    if truncating.is_some() {
        return Err(MetaError::Needs(Need::FinishTruncate(inode.id)));
    }
    match length::plan(*length, exact, wanted) {
        Plan::Nothing => return Ok(()),
        Plan::Grow => *length = wanted,
        Plan::Cut => {
            *truncating = Some(TruncateIntent { length: wanted });
            ctx.queue(txn, inode.id, Garbage::Truncate);
        }
    }
    *truncate_version = TruncateVersion(truncate_version.0 + 1);
    Ok(())
}

/// Whether the stored length is the length (protocol L2).
async fn is_exact(txn: &mut dyn Transaction, inode: InodeId) -> Result<bool, MetaError> {
    let open = store::session::any(txn, inode, None).await?;
    Ok(!open && !store::unreported::is_set(txn, inode).await?)
}

fn set_owner_and_mode(
    who: &Identity,
    inode: &mut Inode,
    change: &AttrChange,
) -> Result<(), MetaError> {
    let gid = change.gid.unwrap_or(inode.gid);
    let mode = match change.mode {
        Some(mode) => permission::chmod(who, inode, gid, mode)?,
        None if change.uid.is_some() || change.gid.is_some() => permission::without_set_id(inode),
        None => inode.mode,
    };
    inode.mode = mode;
    inode.uid = change.uid.unwrap_or(inode.uid);
    inode.gid = gid;
    Ok(())
}

fn set_times(inode: &mut Inode, change: &AttrChange, now_ns: u64) {
    let time = |time| match time {
        SetTime::Now => now_ns,
        SetTime::At(ns) => ns,
    };
    if let Some(atime) = change.atime {
        inode.times.atime_ns = time(atime);
    }
    if let Some(mtime) = change.mtime {
        inode.times.mtime_ns = time(mtime);
    }
    if *change != AttrChange::default() {
        inode.times.ctime_ns = now_ns;
    }
}
