//! Files that are open here: how long each is known to be, how far it was written, and what must be told to meta.
//!
//! One `OpenFile` per inode, shared by all its handles, so that what one handle wrote another reads. It lives until
//! its last handle is closed and that close was told to meta.
//!
//! Locks, taken in this order: `order` (writes share it, a truncate has it alone), `exchange` (each conversation
//! with meta about this file, so that answers do not overtake one another), then the view, never across an await.

use std::{collections::BTreeMap, sync::Arc};

use common::sync::Mutex;
use types::{
    id::{InodeId, SessionId},
    inode::{Inode, InodeData},
    layout::Layout,
    rpc::meta::LengthReport,
    user::Identity,
    version::TruncateVersion,
};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) inode: InodeId,
    pub(crate) layout: Layout,
    pub(crate) order: tokio::sync::RwLock<()>,
    pub(crate) exchange: tokio::sync::Mutex<()>,
    view: Mutex<View>,
}

#[derive(Debug)]
struct View {
    /// As meta last said.
    length: u64,
    truncate_version: TruncateVersion,
    /// Highest end of writes since the last report that was taken; 0 when there were none.
    end: u64,
    /// Writes so far, and how many of them the last report covered.
    written: u64,
    reported: u64,
    /// Open for writing, and by whom.
    sessions: BTreeMap<SessionId, Identity>,
    /// Sessions that keep the file after its last name went.
    holds: Vec<SessionId>,
}

/// A report to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) session: Option<SessionId>,
    pub(crate) identity: Identity,
    pub(crate) report: LengthReport,
    /// How many writes it covers.
    written: u64,
}

impl OpenFile {
    fn new(inode: InodeId, layout: Layout) -> Self {
        Self {
            inode,
            layout,
            order: tokio::sync::RwLock::new(()),
            exchange: tokio::sync::Mutex::new(()),
            view: Mutex::new(View {
                length: 0,
                truncate_version: TruncateVersion(0),
                end: 0,
                written: 0,
                reported: 0,
                sessions: BTreeMap::new(),
                holds: Vec::new(),
            }),
        }
    }

    /// Up to where reads find content.
    pub(crate) fn length(&self) -> u64 {
        let view = self.view.lock();
        view.length.max(view.end)
    }

    /// Whether somebody here may write it.
    pub(crate) fn has_writers(&self) -> bool {
        let view = self.view.lock();
        !view.sessions.is_empty() || view.written != view.reported
    }

    /// Whether there are writes that meta does not know of.
    pub(crate) fn is_dirty(&self) -> bool {
        let view = self.view.lock();
        view.written != view.reported
    }

    /// A write up to `end` was acknowledged by the chunks.
    pub(crate) fn wrote(&self, end: u64) {
        let mut view = self.view.lock();
        view.end = view.end.max(end);
        view.written += 1;
    }

    /// Takes over what meta said. An answer that is older than one before changes nothing.
    pub(crate) fn learn(&self, inode: &Inode) {
        self.view.lock().learn(inode);
    }

    /// The file was cut or grown here: what was written before counts no more.
    pub(crate) fn truncated(&self, inode: &Inode) {
        let mut view = self.view.lock();
        view.end = 0;
        view.reported = view.written;
        view.learn(inode);
    }

    /// What to report; `None` when meta knows everything.
    pub(crate) fn draft(&self) -> Option<Draft> {
        let view = self.view.lock();
        let writer = view.sessions.first_key_value();
        (view.written != view.reported).then(|| Draft {
            session: writer.map(|(session, _)| *session),
            identity: writer.map(|(_, who)| who.clone()).unwrap_or_default(),
            report: LengthReport {
                end: view.end,
                truncate_version: view.truncate_version,
            },
            written: view.written,
        })
    }

    /// The report was taken, and meta answered with the inode.
    pub(crate) fn reported(&self, draft: &Draft, inode: &Inode) {
        let mut view = self.view.lock();
        view.learn(inode);
        view.covered(draft);
    }

    /// The file is gone: nobody wants the report any more.
    pub(crate) fn gone(&self, draft: &Draft) {
        self.view.lock().covered(draft);
    }

    pub(crate) fn add_session(&self, session: SessionId, who: &Identity) {
        self.view.lock().sessions.insert(session, who.clone());
    }

    pub(crate) fn remove_session(&self, session: SessionId) {
        self.view.lock().sessions.remove(&session);
    }

    pub(crate) fn add_hold(&self, session: SessionId) {
        self.view.lock().holds.push(session);
    }
}

impl View {
    fn learn(&mut self, inode: &Inode) {
        let InodeData::File {
            truncate_version, ..
        } = inode.data
        else {
            return;
        };
        if truncate_version > self.truncate_version {
            self.truncate_version = truncate_version;
            self.length = inode.length();
        } else if truncate_version == self.truncate_version {
            // At an equal truncate version a length never shrinks (protocol L3): a shorter one is older.
            self.length = self.length.max(inode.length());
        }
    }

    fn covered(&mut self, draft: &Draft) {
        self.reported = self.reported.max(draft.written);
        if self.reported == self.written {
            self.end = 0;
        }
    }
}

/// All files that are open here.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles(Mutex<BTreeMap<InodeId, Slot>>);

#[derive(Debug)]
struct Slot {
    file: Arc<OpenFile>,
    references: u64,
}

impl OpenFiles {
    /// One more user of the file. `None` when the inode is no file.
    pub(crate) fn acquire(&self, inode: &Inode) -> Option<Arc<OpenFile>> {
        let layout = inode.layout()?;
        let mut files = self.0.lock();
        let slot = files.entry(inode.id).or_insert_with(|| Slot {
            file: Arc::new(OpenFile::new(inode.id, layout.clone())),
            references: 0,
        });
        slot.references += 1;
        slot.file.learn(inode);
        Some(slot.file.clone())
    }

    /// One user less; after the last, returns the sessions that held the file.
    pub(crate) fn release(&self, inode: InodeId) -> Vec<SessionId> {
        let mut files = self.0.lock();
        let Some(slot) = files.get_mut(&inode) else {
            return Vec::new();
        };
        slot.references -= 1;
        if slot.references > 0 {
            return Vec::new();
        }
        let held = std::mem::take(&mut slot.file.view.lock().holds);
        files.remove(&inode);
        held
    }

    pub(crate) fn get(&self, inode: InodeId) -> Option<Arc<OpenFile>> {
        self.0.lock().get(&inode).map(|slot| slot.file.clone())
    }

    /// Whether no file is open here.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// The files with something to report.
    pub(crate) fn dirty(&self) -> Vec<Arc<OpenFile>> {
        let files = self.0.lock();
        let all = files.values().map(|slot| &slot.file);
        all.filter(|file| file.is_dirty()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use types::{
        id::ChainTableId,
        inode::{Times, TruncateIntent},
        version::ChainTableVersion,
    };

    use super::*;

    fn inode(length: u64, version: u64) -> Inode {
        Inode {
            id: InodeId(7),
            uid: 0,
            gid: 0,
            mode: 0o644,
            nlink: 1,
            times: Times::default(),
            data: InodeData::File {
                length,
                truncate_version: TruncateVersion(version),
                layout: Layout {
                    table: ChainTableId(1),
                    table_version: ChainTableVersion(1),
                    chunk_size: 1 << 20,
                    stripe_size: 1,
                    base: 0,
                    seed: 0,
                },
                truncating: None,
            },
        }
    }

    fn open(inode: &Inode) -> (OpenFiles, Arc<OpenFile>) {
        let files = OpenFiles::default();
        let file = files.acquire(inode).unwrap();
        (files, file)
    }

    #[test]
    fn what_was_written_here_is_read_here_before_it_is_reported() {
        let (_, file) = open(&inode(10, 0));
        assert_eq!((file.length(), file.is_dirty()), (10, false));
        file.wrote(25);
        file.wrote(20);
        assert_eq!((file.length(), file.is_dirty()), (25, true));
        // An answer from before the write does not hide it.
        file.learn(&inode(10, 0));
        assert_eq!(file.length(), 25);
    }

    #[test]
    fn a_report_covers_only_the_writes_before_it() {
        let (_, file) = open(&inode(0, 0));
        assert_eq!(file.draft(), None);
        file.wrote(5);
        let draft = file.draft().unwrap();
        assert_eq!(draft.report.end, 5);
        file.wrote(9);
        file.reported(&draft, &inode(5, 0));
        assert!(file.is_dirty());
        let draft = file.draft().unwrap();
        assert_eq!(draft.report.end, 9);
        file.reported(&draft, &inode(9, 0));
        assert_eq!(
            (file.length(), file.is_dirty(), file.draft()),
            (9, false, None)
        );
    }

    #[test]
    fn a_truncate_elsewhere_ends_what_was_reported_before() {
        let (_, file) = open(&inode(0, 0));
        file.wrote(100);
        let draft = file.draft().unwrap();
        file.reported(&draft, &inode(100, 0));
        file.learn(&inode(3, 1));
        assert_eq!(file.length(), 3);
        // A late answer from before it changes nothing.
        file.learn(&inode(100, 0));
        assert_eq!(file.length(), 3);
        file.wrote(8);
        assert_eq!(
            file.draft().unwrap().report,
            LengthReport {
                end: 8,
                truncate_version: TruncateVersion(1)
            }
        );
    }

    #[test]
    fn a_truncate_here_forgets_unreported_writes() {
        let (_, file) = open(&inode(0, 0));
        file.wrote(100);
        let mut cut = inode(100, 1);
        if let InodeData::File { truncating, .. } = &mut cut.data {
            *truncating = Some(TruncateIntent { length: 4 });
        }
        file.truncated(&cut);
        assert_eq!((file.length(), file.is_dirty()), (4, false));
    }

    #[test]
    fn a_file_lives_until_its_last_user_and_then_gives_its_holds_back() {
        let (files, file) = open(&inode(0, 0));
        let again = files.acquire(&inode(4, 0)).unwrap();
        assert!(Arc::ptr_eq(&file, &again));
        assert_eq!(file.length(), 4);
        file.add_hold(SessionId(3));
        assert!(files.release(InodeId(7)).is_empty());
        assert!(files.get(InodeId(7)).is_some());
        assert_eq!(files.release(InodeId(7)), [SessionId(3)]);
        assert!(files.is_empty());
        assert!(files.release(InodeId(7)).is_empty());
    }

    #[test]
    fn reports_go_out_under_a_session_of_a_writer() {
        let (files, file) = open(&inode(0, 0));
        assert!(!file.has_writers());
        let who = Identity {
            uid: 12,
            ..Identity::default()
        };
        file.add_session(SessionId(8), &who);
        assert!(file.has_writers() && files.dirty().is_empty());
        file.wrote(1);
        let draft = file.draft().unwrap();
        assert_eq!((draft.session, draft.identity), (Some(SessionId(8)), who));
        assert_eq!(files.dirty().len(), 1);
        file.remove_session(SessionId(8));
        assert!(file.has_writers());
    }
}
