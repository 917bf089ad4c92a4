//! Handles: what the kernel's file handle numbers stand for. Numbers are never used twice.

use std::{collections::BTreeMap, sync::Arc};

use common::sync::Mutex;
use types::{
    id::SessionId,
    status::{Status, StatusCode},
    user::Identity,
};

use crate::{open_file::OpenFile, readdir::DirStream};

/// An open file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub(crate) file: Arc<OpenFile>,
    /// Set when it is open for writing.
    pub(crate) session: Option<SessionId>,
    /// Who opened it.
    pub(crate) identity: Identity,
}

/// An open directory. The kernel may ask for two parts at once; they take turns.
#[derive(Debug)]
pub(crate) struct DirHandle {
    pub(crate) stream: tokio::sync::Mutex<DirStream>,
}

#[derive(Debug)]
enum Handle {
    File(Arc<FileHandle>),
    Dir(Arc<DirHandle>),
}

/// All handles of a mount.
#[derive(Debug, Default)]
pub(crate) struct Handles(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    open: BTreeMap<u64, Handle>,
    last: u64,
}

impl Handles {
    pub(crate) fn add_file(&self, handle: FileHandle) -> u64 {
        self.0.lock().add(Handle::File(Arc::new(handle)))
    }

    pub(crate) fn add_dir(&self, stream: DirStream) -> u64 {
        let stream = tokio::sync::Mutex::new(stream);
        self.0
            .lock()
            .add(Handle::Dir(Arc::new(DirHandle { stream })))
    }

    /// # Errors
    /// When there is no such open file.
    pub(crate) fn file(&self, number: u64) -> Result<Arc<FileHandle>, Status> {
        match self.0.lock().open.get(&number) {
            Some(Handle::File(handle)) => Ok(handle.clone()),
            Some(Handle::Dir(_)) | None => Err(unknown(number)),
        }
    }

    /// # Errors
    /// When there is no such open directory.
    pub(crate) fn dir(&self, number: u64) -> Result<Arc<DirHandle>, Status> {
        match self.0.lock().open.get(&number) {
            Some(Handle::Dir(handle)) => Ok(handle.clone()),
            Some(Handle::File(_)) | None => Err(unknown(number)),
        }
    }

    /// Takes a handle off; the file it stood for, if it was one.
    pub(crate) fn remove(&self, number: u64) -> Option<Arc<FileHandle>> {
        match self.0.lock().open.remove(&number) {
            Some(Handle::File(handle)) => Some(handle),
            Some(Handle::Dir(_)) | None => None,
        }
    }

    /// Takes every handle off, at the end of the mount.
    pub(crate) fn remove_all(&self) -> Vec<Arc<FileHandle>> {
        let open = std::mem::take(&mut self.0.lock().open);
        let files = open.into_values().filter_map(|handle| match handle {
            Handle::File(handle) => Some(handle),
            Handle::Dir(_) => None,
        });
        files.collect()
    }
}

impl Table {
    fn add(&mut self, handle: Handle) -> u64 {
        self.last += 1;
        self.open.insert(self.last, handle);
        self.last
    }
}

fn unknown(number: u64) -> Status {
    let message = format!("handle {number} is not open");
    Status::new(StatusCode::BadSession, message)
}

#[cfg(test)]
mod tests {
    use types::id::InodeId;

    use super::*;

    #[test]
    fn a_number_stands_for_one_handle_and_is_not_used_again() {
        let handles = Handles::default();
        let first = handles.add_dir(DirStream::new(InodeId(1)));
        assert!(handles.dir(first).is_ok());
        assert!(handles.remove(first).is_none());
        let status = handles.dir(first).unwrap_err();
        assert_eq!(status.code, StatusCode::BadSession);
        assert_ne!(handles.add_dir(DirStream::new(InodeId(1))), first);
    }

    #[test]
    fn a_directory_is_no_file() {
        let handles = Handles::default();
        let dir = handles.add_dir(DirStream::new(InodeId(1)));
        assert!(handles.file(dir).is_err());
        assert!(handles.remove_all().is_empty());
        assert!(handles.dir(dir).is_err());
    }
}
