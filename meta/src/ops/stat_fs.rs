//! statfs: the namespace's part, the count of inodes. The service adds the space.

use async_trait::async_trait;
use kv::Transaction;
use types::rpc::meta::{StatFs, StatFsReply};

use super::{Context, Operation};
use crate::{error::MetaError, store};

#[async_trait]
impl Operation for StatFs {
    const RECORDED: bool = false;

    async fn run(
        txn: &mut dyn Transaction,
        _ctx: &Context<'_>,
        _request: &(),
    ) -> Result<StatFsReply, MetaError> {
        Ok(StatFsReply {
            inode_count: store::counters::inode_count(txn).await?,
            ..StatFsReply::default()
        })
    }
}
