//! lookup: the inode a name leads to. Reads one version of the store and conflicts with nothing.

use async_trait::async_trait;
use kv::{ReadMode, Transaction};
use types::{
    inode::Inode,
    rpc::meta::{Lookup, NameRequest},
};

use super::{Context, Operation, shown};
use crate::{error::MetaError, resolve, store};

#[async_trait]
impl Operation for Lookup {
    const RECORDED: bool = false;

    async fn run(
        txn: &mut dyn Transaction,
        ctx: &Context<'_>,
        request: &NameRequest,
    ) -> Result<Inode, MetaError> {
        let NameRequest { parent, name } = request;
        resolve::check_name(name)?;
        resolve::directory(txn, ctx.identity(), *parent, ReadMode::Snapshot).await?;
        let dentry = store::dentry::load(txn, *parent, name, ReadMode::Snapshot).await?;
        let dentry = dentry.ok_or(MetaError::NotFound { parent: *parent })?;
        let inode = store::inode::require(txn, dentry.inode, ReadMode::Snapshot).await?;
        shown(txn, inode).await
    }
}
