//! close: ends a write session and takes its report of the length (protocol L1 to L4).
//!
//! A report that is of no use (the file was truncated since, or the client died) leaves the length
//! unknown: the last session to end asks the chains, an earlier one leaves a mark (`store::unreported`).
//! A common close reads neither other sessions nor chains. A close of a session that is gone is a retry:
//! it changes no times and ends nothing twice.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    id::SessionId,
    inode::{Inode, InodeData},
    rpc::meta::{Close, CloseRequest, LengthReport},
};

use super::{Context, Operation, shown};
use crate::{
    error::{MetaError, Need},
    length::{self, Verdict},
    permission,
    store::{self, garbage::Garbage},
};

#[async_trait]
impl Operation for Close {
    const RECORDED: bool = false;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &CloseRequest,
    ) -> Result<Inode, MetaError> {
        let inode = store::inode::require(txn, request.inode, ReadMode::Serializable).await?;
        let ending = match request.length {
            Some(report) => Ending::Report(report),
            None => Ending::NothingWritten,
        };
        let inode = end(txn, ctx, inode, request.session, ending).await?;
        shown(txn, inode).await
    }
}

/// What a session leaves behind.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// Its writer says how far he wrote.
    Report(LengthReport),
    /// Its writer wrote nothing since the last report.
    NothingWritten,
    /// Its client is gone without a word (protocol M7).
    Lost,
}

/// Ends a session of a file; returns the inode as it is stored then.
pub async fn end(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    mut inode: Inode,
    session: SessionId,
    ending: Ending,
) -> Result<Inode, MetaError> {
    let before = inode.clone();
    let known = store::session::load(txn, inode.id, session)
        .await?
        .is_some();
    let usable = apply(ctx, &mut inode, ending, known)?;
    if known {
        store::session::clear(txn, inode.id, session);
        let unreported = store::unreported::is_set(txn, inode.id).await?;
        let uncertain = !usable || unreported;
        if inode.nlink == 0 || uncertain {
            let last = !store::session::any(txn, inode.id, Some(session)).await?;
            match (last, inode.nlink) {
                (true, 0) => ctx.queue(txn, inode.id, Garbage::Remove),
                (true, _) => take_asked_length(txn, ctx, &mut inode)?,
                (false, _) if !usable => store::unreported::set(txn, inode.id),
                (false, _) => {}
            }
        }
    }
    if inode != before {
        store::inode::store(txn, &inode);
    }
    Ok(inode)
}

/// Puts a report into the inode; false when there should have been one that is of use.
fn apply(
    ctx: &Context<'_>,
    inode: &mut Inode,
    ending: Ending,
    known: bool,
) -> Result<bool, MetaError> {
    let report = match ending {
        Ending::Report(report) => report,
        Ending::NothingWritten => return Ok(true),
        Ending::Lost => return Ok(false),
    };
    let mode = permission::mode_after_write(ctx.identity(), inode);
    let InodeData::File {
        length,
        truncate_version,
        truncating,
        ..
    } = &mut inode.data
    else {
        return Err(MetaError::InvalidArgument {
            reason: "only files have a length to report",
        });
    };
    if truncating.is_some() {
        return Err(MetaError::Needs(Need::FinishTruncate(inode.id)));
    }
    match length::judge(*length, *truncate_version, report) {
        Verdict::Length(now) => *length = now,
        Verdict::Stale => return Ok(false),
        Verdict::TooLarge => return Err(MetaError::FileTooLarge { length: report.end }),
    }
    if known {
        inode.mode = mode;
        inode.times.mtime_ns = ctx.now_ns;
        inode.times.ctime_ns = ctx.now_ns;
    }
    Ok(true)
}

/// Takes what the chains said about the length, or asks for it.
fn take_asked_length(
    txn: &mut dyn Transaction,
    ctx: &Context<'_>,
    inode: &mut Inode,
) -> Result<(), MetaError> {
    let InodeData::File {
        length,
        truncate_version,
        layout,
        truncating,
    } = &mut inode.data
    else {
        return Ok(());
    };
    if truncating.is_some() {
        return Err(MetaError::Needs(Need::FinishTruncate(inode.id)));
    }
    match ctx.asked {
        Some(asked) if asked.inode == inode.id && asked.truncate_version == *truncate_version => {
            *length = (*length).max(asked.length);
            store::unreported::clear(txn, inode.id);
            Ok(())
        }
        _ => Err(MetaError::Needs(Need::AskLength {
            inode: inode.id,
            layout: layout.clone(),
            truncate_version: *truncate_version,
        })),
    }
}
