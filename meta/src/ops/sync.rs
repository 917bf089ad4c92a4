//! sync: takes a writer's report of the length, now and then and at fsync (protocol L3, L6). The service
//! adds the wait for stable storage.
//!
//! A report of an old truncate version is refused: its writer looks at the file again.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    inode::{Inode, InodeData},
    rpc::meta::{Sync, SyncRequest},
};

use super::{Context, Operation, shown};
use crate::{
    error::{MetaError, Need},
    length::{self, Verdict},
    permission, store,
};

#[async_trait]
impl Operation for Sync {
    const RECORDED: bool = false;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &SyncRequest,
    ) -> Result<Inode, MetaError> {
        let Some(report) = request.length else {
            let inode = store::inode::require(txn, request.inode, ReadMode::Snapshot).await?;
            return shown(txn, inode).await;
        };
        let mut inode = store::inode::require(txn, request.inode, ReadMode::Serializable).await?;
        inode.mode = permission::mode_after_write(ctx.identity(), &inode);
        inode.times.mtime_ns = ctx.now_ns;
        inode.times.ctime_ns = ctx.now_ns;
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
            Verdict::Stale => {
                return Err(MetaError::TruncateVersionMismatch {
                    inode: inode.id,
                    reported: report.truncate_version,
                    current: *truncate_version,
                });
            }
            Verdict::TooLarge => return Err(MetaError::FileTooLarge { length: report.end }),
        }
        store::inode::store(txn, &inode);
        shown(txn, inode).await
    }
}
