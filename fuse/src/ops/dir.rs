//! mkdir, rmdir, opendir, readdir, fsyncdir.

use types::{
    id::InodeId,
    inode::{FileKind, Inode},
    rpc::meta::{Mkdir, MkdirRequest, NameRequest, ReadDir, ReadDirEntry, Rmdir},
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{
    core::Core,
    readdir::{DOTS, DirStream, Step},
};

/// An entry of a listing.
#[derive(Debug)]
pub(crate) struct ListEntry {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: InodeId,
    pub(crate) kind: FileKind,
    /// When it was asked for.
    pub(crate) attributes: Option<Inode>,
    /// Where the next one is.
    pub(crate) next: u64,
}

/// What a listing shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListContent {
    Names,
    Attributes,
}

impl ListContent {
    /// About as many as one answer to the kernel holds.
    fn entries_max(self) -> usize {
        match self {
            Self::Names => 512,
            Self::Attributes => 128,
        }
    }
}

impl Core {
    pub(crate) async fn mkdir(
        &self,
        who: &Identity,
        parent: InodeId,
        name: Vec<u8>,
        mode: u32,
    ) -> Result<Inode, Status> {
        let request = MkdirRequest {
            parent,
            name,
            mode: mode & 0o7777,
        };
        self.ask::<Mkdir>(who, &request).await
    }

    pub(crate) async fn rmdir(
        &self,
        who: &Identity,
        parent: InodeId,
        name: Vec<u8>,
    ) -> Result<(), Status> {
        self.ask::<Rmdir>(who, &NameRequest { parent, name }).await
    }

    pub(crate) fn open_dir(&self, inode: InodeId) -> u64 {
        self.handles.add_dir(DirStream::new(inode))
    }

    /// Some entries from `number` on; none at the end.
    pub(crate) async fn list(
        &self,
        who: &Identity,
        handle: u64,
        number: u64,
        content: ListContent,
    ) -> Result<Vec<ListEntry>, Status> {
        let handle = self.handles.dir(handle)?;
        let mut stream = handle.stream.lock().await;
        if number == 0 {
            stream.rewind();
        }
        let mut wanted = number.max(DOTS);
        let mut entries = Vec::new();
        loop {
            self.load(who, &mut stream, wanted, content).await?;
            if wanted == number.max(DOTS) {
                entries.extend(dots(&stream).into_iter().filter(|dot| dot.next > number));
            }
            let some = stream.entries(wanted).iter().take(content.entries_max());
            let mut found = 0;
            for (entry, next) in some.zip(wanted + 1..) {
                found += 1;
                entries.extend(self.list_entry(who, entry, next, content).await?);
            }
            // Nothing is the end to the kernel: go on when all that were found here have just been removed.
            if found == 0 || !entries.is_empty() {
                return Ok(entries);
            }
            wanted += found;
        }
    }

    /// Brings entry `wanted` into the stream, unless the directory ends before it.
    async fn load(
        &self,
        who: &Identity,
        stream: &mut DirStream,
        wanted: u64,
        content: ListContent,
    ) -> Result<(), Status> {
        let attributes = content == ListContent::Attributes;
        while let Step::Fetch(request) = stream.step(wanted, attributes) {
            let reply = self.ask::<ReadDir>(who, &request).await?;
            if !stream.accept(&request, reply) {
                break;
            }
        }
        Ok(())
    }

    async fn list_entry(
        &self,
        who: &Identity,
        entry: &ReadDirEntry,
        next: u64,
        content: ListContent,
    ) -> Result<Option<ListEntry>, Status> {
        let attributes = match (&entry.inode, content) {
            (Some(inode), ListContent::Attributes) => {
                match self.freshen(who, inode.clone()).await {
                    Ok(inode) => Some(inode),
                    Err(status)
                        if matches!(status.code, StatusCode::NotFound | StatusCode::Stale) =>
                    {
                        return Ok(None);
                    }
                    Err(status) => return Err(status),
                }
            }
            // Removed between its name and its inode: not there any more.
            (None, ListContent::Attributes) => return Ok(None),
            (_, ListContent::Names) => None,
        };
        Ok(Some(ListEntry {
            name: entry.name.clone(),
            inode: entry.dentry.inode,
            kind: entry.dentry.kind,
            attributes,
            next,
        }))
    }

    /// fsync of a directory: its names are on stable storage.
    pub(crate) async fn fsync_dir(&self, who: &Identity, inode: InodeId) -> Result<(), Status> {
        self.sync_inode(who, inode).await
    }
}

/// `.` and `..`, once a page is there.
fn dots(stream: &DirStream) -> [ListEntry; 2] {
    let dot = |name: &[u8], inode, next| ListEntry {
        name: name.to_vec(),
        inode,
        kind: FileKind::Directory,
        attributes: None,
        next,
    };
    let parent = stream.parent().unwrap_or(stream.inode);
    [dot(b".", stream.inode, 1), dot(b"..", parent, DOTS)]
}
