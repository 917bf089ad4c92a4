//! link, symlink, readlink, unlink.

use types::{
    id::InodeId,
    inode::{Inode, InodeData},
    rpc::meta::{
        GetAttr, Hold, InodeRequest, Link, LinkRequest, Lookup, NameRequest, Symlink,
        SymlinkRequest, Unlink, UnlinkRequest,
    },
    status::{Status, StatusCode},
    user::Identity,
};

use crate::core::Core;

impl Core {
    pub(crate) async fn link(
        &self,
        who: &Identity,
        inode: InodeId,
        parent: InodeId,
        name: Vec<u8>,
    ) -> Result<Inode, Status> {
        let request = LinkRequest {
            inode,
            parent,
            name,
        };
        let inode = self.ask::<Link>(who, &request).await?;
        self.freshen(who, inode).await
    }

    pub(crate) async fn symlink(
        &self,
        who: &Identity,
        parent: InodeId,
        name: Vec<u8>,
        target: Vec<u8>,
    ) -> Result<Inode, Status> {
        let request = SymlinkRequest {
            parent,
            name,
            target,
        };
        self.ask::<Symlink>(who, &request).await
    }

    pub(crate) async fn read_link(
        &self,
        who: &Identity,
        inode: InodeId,
    ) -> Result<Vec<u8>, Status> {
        match self
            .ask::<GetAttr>(who, &InodeRequest { inode })
            .await?
            .data
        {
            InodeData::Symlink { target } => Ok(target),
            InodeData::File { .. } | InodeData::Directory { .. } => {
                let message = format!("inode {inode} is no symlink");
                Err(Status::new(StatusCode::InvalidArgument, message))
            }
        }
    }

    pub(crate) async fn unlink(
        &self,
        who: &Identity,
        parent: InodeId,
        name: Vec<u8>,
    ) -> Result<(), Status> {
        let hold = self.hold(who, parent, &name).await;
        let request = UnlinkRequest { parent, name, hold };
        let result = self.ask::<Unlink>(who, &request).await;
        self.unhold(who, hold).await;
        result
    }

    /// A hold for the file a name leads to, when it is open here: its content must stay readable after the name is
    /// gone (protocol N6). The file stays in the table until `unhold`, so that the hold cannot be forgotten.
    pub(crate) async fn hold(&self, who: &Identity, parent: InodeId, name: &[u8]) -> Option<Hold> {
        if self.files.is_empty() {
            return None;
        }
        let request = NameRequest {
            parent,
            name: name.to_vec(),
        };
        // Whatever is wrong with the name, the operation itself will say it.
        let inode = self.ask::<Lookup>(who, &request).await.ok()?;
        self.files.get(inode.id)?;
        let session = self.new_session();
        self.files.acquire(&inode)?.add_hold(session);
        Some(Hold {
            inode: inode.id,
            session,
        })
    }

    /// The operation that needed the hold is over.
    pub(crate) async fn unhold(&self, who: &Identity, hold: Option<Hold>) {
        if let Some(hold) = hold {
            self.let_go(who, hold.inode).await;
        }
    }
}
