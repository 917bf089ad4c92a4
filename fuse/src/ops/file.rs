//! open, read, write, flush, release, fsync.

use std::sync::Arc;

use common::buf::{RegisteredBuf, SharedBuf};
use fuser::FopenFlags;
use types::{
    id::{InodeId, SessionId},
    inode::Inode,
    rpc::meta::{Open, OpenRequest},
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{core::Core, handles::FileHandle, inode_table::ContentStamp};

/// The kernel opens a program to run it with this flag (FMODE_EXEC): that needs no right to read.
const OPEN_EXEC: i32 = 0x20;

/// What an open asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
    Execute,
}

impl Access {
    /// From open(2)'s flags.
    pub(crate) fn of(flags: i32) -> Self {
        match flags & libc::O_ACCMODE {
            libc::O_WRONLY => Self::Write,
            libc::O_RDWR => Self::ReadWrite,
            _ if flags & OPEN_EXEC != 0 => Self::Execute,
            _ => Self::Read,
        }
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }
}

/// An open file as the kernel is told of it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) handle: u64,
    pub(crate) flags: FopenFlags,
}

impl Core {
    pub(crate) async fn open(
        &self,
        who: &Identity,
        inode: InodeId,
        flags: i32,
    ) -> Result<Opened, Status> {
        let access = Access::of(flags);
        let session = access.writes().then(|| self.new_session());
        let request = OpenRequest {
            inode,
            read: access.reads(),
            session,
        };
        let inode = self.ask::<Open>(who, &request).await?;
        self.opened(who, &inode, session, flags)
    }

    /// Makes a handle of a file that meta has opened.
    pub(crate) fn opened(
        &self,
        who: &Identity,
        inode: &Inode,
        session: Option<SessionId>,
        flags: i32,
    ) -> Result<Opened, Status> {
        let file = self.files.acquire(inode).ok_or_else(|| {
            let message = format!("inode {} is no file", inode.id);
            Status::new(StatusCode::IsDirectory, message)
        })?;
        if let Some(session) = session {
            file.add_session(session, who);
        }
        let cached = self.inodes.is_cached(inode.id, ContentStamp::of(inode));
        let handle = self.handles.add_file(FileHandle {
            file,
            session,
            identity: who.clone(),
        });
        let mut told = FopenFlags::empty();
        if flags & libc::O_DIRECT != 0 {
            told |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        } else if cached {
            told |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        if session.is_none() {
            // Closing it has nothing to tell.
            told |= FopenFlags::FOPEN_NOFLUSH;
        }
        Ok(Opened {
            handle,
            flags: told,
        })
    }

    /// The bytes of a range, fewer at the end of the file; `None` behind it.
    pub(crate) async fn read(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
    ) -> Result<Option<RegisteredBuf>, Status> {
        let handle = self.handles.file(handle)?;
        let file = &handle.file;
        let left = file.length().saturating_sub(offset);
        let length = usize::try_from(left.min(u64::from(size))).unwrap_or_default();
        if length == 0 {
            return Ok(None);
        }
        let buf = self.client.endpoint.buffers().allocate(length);
        let storage = &self.client.storage;
        let (result, buf) = storage.read(file.inode, &file.layout, offset, buf).await;
        result.map(|()| Some(buf))
    }

    /// Writes; on success the bytes are durable on every serving replica.
    pub(crate) async fn write(
        &self,
        handle: u64,
        offset: u64,
        data: SharedBuf,
    ) -> Result<(), Status> {
        let handle = self.handles.file(handle)?;
        if handle.session.is_none() {
            let message = "the file is not open for writing";
            return Err(Status::new(StatusCode::BadSession, message));
        }
        let file = &handle.file;
        let end = offset + data.len() as u64;
        let _shared = file.order.read().await;
        let storage = &self.client.storage;
        storage
            .write(file.inode, &file.layout, offset, data)
            .await?;
        file.wrote(end);
        Ok(())
    }

    /// close(2): what was written becomes visible to those who open the file from now on.
    pub(crate) async fn flush_handle(&self, handle: u64) -> Result<(), Status> {
        let handle = self.handles.file(handle)?;
        self.flush(&handle.file).await
    }

    /// The last close: nobody waits for it, so it goes on in the background.
    pub(crate) fn release(self: &Arc<Self>, handle: u64) {
        let Some(handle) = self.handles.remove(handle) else {
            return;
        };
        let core = self.clone();
        self.background.start(self.env(), "close", async move {
            core.close(handle).await;
        });
    }

    pub(crate) async fn fsync(&self, handle: u64) -> Result<(), Status> {
        let handle = self.handles.file(handle)?;
        self.make_durable(&handle).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_open_say_what_it_is_for() {
        assert_eq!(Access::of(libc::O_RDONLY), Access::Read);
        assert_eq!(Access::of(libc::O_RDONLY | OPEN_EXEC), Access::Execute);
        assert_eq!(Access::of(libc::O_WRONLY | libc::O_TRUNC), Access::Write);
        assert_eq!(Access::of(libc::O_RDWR | libc::O_APPEND), Access::ReadWrite);
        assert!(!Access::Execute.reads() && !Access::Execute.writes());
        assert!(!Access::Write.reads() && Access::Write.writes());
    }
}
