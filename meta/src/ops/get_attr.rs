//! getattr: an inode by its id. Works without a name too, as long as something keeps the inode.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    inode::Inode,
    rpc::meta::{GetAttr, InodeRequest},
};

use super::{Context, Operation, shown};
use crate::{error::MetaError, store};

#[async_trait]
impl Operation for GetAttr {
    const RECORDED: bool = false;

    async fn run(
        txn: &mut dyn Transaction,
        _ctx: &Context<'_>,
        request: &InodeRequest,
    ) -> Result<Inode, MetaError> {
        let inode = store::inode::require(txn, request.inode, ReadMode::Snapshot).await?;
        shown(txn, inode).await
    }
}
