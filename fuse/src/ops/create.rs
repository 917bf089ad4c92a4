//! create (open with O_CREAT), mknod.

use types::{
    id::{InodeId, SessionId},
    inode::Inode,
    rpc::meta::{AttrChange, Create, CreateRequest, SetAttr, SetAttrRequest},
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{
    core::Core,
    ops::file::{Access, Opened},
};

impl Core {
    /// Makes a file, or opens the one that is there, and opens it.
    pub(crate) async fn create(
        &self,
        who: &Identity,
        parent: InodeId,
        name: Vec<u8>,
        mode: u32,
        flags: i32,
    ) -> Result<(Inode, Opened), Status> {
        let session = Access::of(flags).writes().then(|| self.new_session());
        let request = CreateRequest {
            parent,
            name,
            mode: mode & 0o7777,
            exclusive: flags & libc::O_EXCL != 0,
            session,
            layout: None,
        };
        let reply = self.ask::<Create>(who, &request).await?;
        let mut inode = reply.inode;
        // The kernel takes a file that came out of create for a new one and does not cut it.
        if !reply.created && flags & libc::O_TRUNC != 0 && inode.length() > 0 {
            let request = SetAttrRequest {
                inode: inode.id,
                change: AttrChange {
                    length: Some(0),
                    ..AttrChange::default()
                },
                session,
            };
            let cut = self.ask::<SetAttr>(who, &request).await;
            inode = self.or_end(who, request.inode, session, cut).await?;
        }
        if !reply.created {
            let id = inode.id;
            let fresh = self.freshen(who, inode).await;
            inode = self.or_end(who, id, session, fresh).await?;
        }
        // Last, because from here on only a release by the kernel gives the handle back.
        let opened = self.opened(who, &inode, session, flags)?;
        Ok((inode, opened))
    }

    /// Passes a result on; ends the session after a failure, since the kernel will not hear of a handle.
    async fn or_end<T>(
        &self,
        who: &Identity,
        inode: InodeId,
        session: Option<SessionId>,
        result: Result<T, Status>,
    ) -> Result<T, Status> {
        if result.is_err()
            && let Some(session) = session
        {
            self.end_session(who, inode, session, None).await;
        }
        result
    }

    /// mknod: regular files only; they are not opened.
    pub(crate) async fn make_node(
        &self,
        who: &Identity,
        parent: InodeId,
        name: Vec<u8>,
        mode: u32,
    ) -> Result<Inode, Status> {
        let kind = mode & libc::S_IFMT;
        if kind != libc::S_IFREG && kind != 0 {
            return Err(Status::new(
                StatusCode::NotSupported,
                "only regular files can be made: no devices, fifos or sockets",
            ));
        }
        let request = CreateRequest {
            parent,
            name,
            mode: mode & 0o7777,
            exclusive: true,
            session: None,
            layout: None,
        };
        Ok(self.ask::<Create>(who, &request).await?.inode)
    }
}
