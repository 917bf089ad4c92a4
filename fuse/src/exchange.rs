//! What is said to meta about an open file: reports of its length, and the end of its sessions.
//!
//! The kernel must never see a length from before a write that it knows was acknowledged: it would cut its cache.
//! So attributes of a file that is written here are given out only after what was written has been reported
//! (`settled`), and conversations about one file take turns.

use std::sync::Arc;

use types::{
    id::{InodeId, SessionId},
    inode::Inode,
    rpc::meta::{Close, CloseRequest, Sync, SyncRequest},
    status::{Retry, Status, StatusCode},
    user::Identity,
};

use crate::{
    core::Core,
    handles::FileHandle,
    metrics,
    open_file::{Draft, OpenFile},
};

/// Truncates elsewhere that one report may meet before it gives up.
const TRUNCATES_MAX: u32 = 16;
/// A close is tried this often, each for the client's whole deadline. After that the session is left to expire.
const CLOSES_MAX: u32 = 10;

/// Whether an answer must be on stable storage (fsync).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    No,
}

impl Core {
    /// The attributes of an open file, with everything that was written here.
    pub(crate) async fn settled(&self, who: &Identity, file: &OpenFile) -> Result<Inode, Status> {
        let _turn = file.exchange.lock().await;
        match self.report(file, Durable::No).await? {
            Some(inode) => Ok(inode),
            None => self.fetch(who, file).await,
        }
    }

    /// Attributes that meta just gave for an inode, made right for one that is written here.
    pub(crate) async fn freshen(&self, who: &Identity, inode: Inode) -> Result<Inode, Status> {
        match self.files.get(inode.id) {
            Some(file) if file.has_writers() => self.settled(who, &file).await,
            Some(file) => {
                file.learn(&inode);
                Ok(inode)
            }
            None => Ok(inode),
        }
    }

    /// Reports what was written, if anything was.
    pub(crate) async fn flush(&self, file: &OpenFile) -> Result<(), Status> {
        if !file.is_dirty() {
            return Ok(());
        }
        let _turn = file.exchange.lock().await;
        self.report(file, Durable::No).await.map(|_inode| ())
    }

    /// Makes the file's length and attributes durable; its chunks are already.
    pub(crate) async fn make_durable(&self, handle: &FileHandle) -> Result<(), Status> {
        let file = &handle.file;
        let _turn = file.exchange.lock().await;
        if self.report(file, Durable::Yes).await?.is_some() {
            return Ok(());
        }
        self.sync_inode(&handle.identity, file.inode).await
    }

    /// Makes an inode durable that nothing was written to here since the last report: a file or a directory.
    pub(crate) async fn sync_inode(&self, who: &Identity, inode: InodeId) -> Result<(), Status> {
        let request = SyncRequest {
            inode,
            session: None,
            length: None,
            durable: true,
        };
        self.ask::<Sync>(who, &request).await.map(|_inode| ())
    }

    /// Sends a report if there is something to report. To be called in the file's turn.
    pub(crate) async fn report(
        &self,
        file: &OpenFile,
        durable: Durable,
    ) -> Result<Option<Inode>, Status> {
        for _ in 0..TRUNCATES_MAX {
            let Some(draft) = file.draft() else {
                return Ok(None);
            };
            let request = SyncRequest {
                inode: file.inode,
                session: draft.session,
                length: Some(draft.report),
                durable: durable == Durable::Yes,
            };
            match self.ask::<Sync>(&draft.identity, &request).await {
                Ok(inode) => {
                    file.reported(&draft, &inode);
                    return Ok(Some(inode));
                }
                // Truncated elsewhere: what was written since stands behind the new end.
                Err(status) if status.code == StatusCode::TruncateVersionMismatch => {
                    self.fetch(&draft.identity, file).await?;
                }
                Err(status) => return Err(report_failed(file, &draft, status)),
            }
        }
        Err(Status::new(
            StatusCode::TransactionConflict,
            format!("inode {} is truncated all the time", file.inode),
        ))
    }

    /// Ends a handle after its last use: reports, ends its session, and lets go of the file.
    pub(crate) async fn close(&self, handle: Arc<FileHandle>) {
        let (file, who) = (&handle.file, &handle.identity);
        if let Some(session) = handle.session {
            let _turn = file.exchange.lock().await;
            self.end_session(who, file.inode, session, Some(file)).await;
            file.remove_session(session);
        }
        self.let_go(who, file.inode).await;
    }

    /// One user of an open file less; after the last, the sessions that held it end.
    pub(crate) async fn let_go(&self, who: &Identity, inode: InodeId) {
        for session in self.files.release(inode) {
            self.end_session(who, inode, session, None).await;
        }
    }

    /// Ends a write session, with the last report of its file if there is one. To be called in the file's turn.
    ///
    /// Repeated until done, because a session that is left keeps the file for a minute. A report that a truncate
    /// elsewhere made useless is not repeated: meta asks the chains then.
    pub(crate) async fn end_session(
        &self,
        who: &Identity,
        inode: InodeId,
        session: SessionId,
        file: Option<&OpenFile>,
    ) {
        for _ in 0..CLOSES_MAX {
            let draft = file.and_then(OpenFile::draft);
            let request = CloseRequest {
                inode,
                session,
                length: draft.as_ref().map(|draft| draft.report),
            };
            let status = match self.ask::<Close>(who, &request).await {
                Ok(inode) => {
                    if let (Some(file), Some(draft)) = (file, draft) {
                        file.reported(&draft, &inode);
                    }
                    return;
                }
                Err(status) => status,
            };
            if status.retry() == Retry::Never {
                // The file or the session is gone, which is what was wanted.
                tracing::debug!(inode = inode.0, %status, "close");
                if let (Some(file), Some(draft)) = (file, draft) {
                    file.gone(&draft);
                }
                return;
            }
            tracing::warn!(inode = inode.0, %status, "cannot close a file yet");
        }
        tracing::error!(inode = inode.0, "gave up closing; the session will expire");
    }
}

/// A file that is gone needs no report; anything else is tried again later.
fn report_failed(file: &OpenFile, draft: &Draft, status: Status) -> Status {
    metrics::failed_report();
    match status.code {
        StatusCode::NotFound | StatusCode::Stale => file.gone(draft),
        _ => {}
    }
    status
}
