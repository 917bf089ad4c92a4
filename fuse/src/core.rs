//! What the operations of a mount share.

use client::Client;
use common::env::Env;
use types::{
    id::SessionId,
    inode::Inode,
    rpc::{
        Rpc,
        meta::{GetAttr, InodeRequest},
    },
    status::Status,
    user::Identity,
};

use crate::{
    background::Background,
    handles::Handles,
    inode_table::InodeTable,
    open_file::{OpenFile, OpenFiles},
};

/// The state of a mount. The operations in `ops/` are its methods.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) client: Client,
    pub(crate) inodes: InodeTable,
    pub(crate) files: OpenFiles,
    pub(crate) handles: Handles,
    pub(crate) background: Background,
}

impl Core {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            inodes: InodeTable::default(),
            files: OpenFiles::default(),
            handles: Handles::default(),
            background: Background::default(),
        }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.client.env
    }

    /// Asks a metadata server.
    pub(crate) async fn ask<M: Rpc>(
        &self,
        who: &Identity,
        request: &M::Request,
    ) -> Result<M::Response, Status> {
        self.client.meta.call::<M>(who, request).await
    }

    pub(crate) fn new_session(&self) -> SessionId {
        SessionId(self.env().random_u128())
    }

    /// The inode as meta knows it now.
    pub(crate) async fn fetch(&self, who: &Identity, file: &OpenFile) -> Result<Inode, Status> {
        let request = InodeRequest { inode: file.inode };
        let inode = self.ask::<GetAttr>(who, &request).await?;
        file.learn(&inode);
        Ok(inode)
    }
}

#[cfg(test)]
mod tests;
