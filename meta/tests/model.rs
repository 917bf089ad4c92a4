//! Random operations against a plain tree in memory: every answer, and everything in between.
//!
//! Writers write to chunks and report as clients do, sometimes with a version that was truncated since,
//! sometimes never. Once no session is left, the length must be that of the last write or truncate.

mod plain;

use std::collections::BTreeMap;

use types::{
    id::{InodeId, SessionId},
    inode::{FileKind, Inode},
    rpc::meta::{
        Hold, Link, LinkRequest, Mkdir, MkdirRequest, Rename, RenameMode, Rmdir, Symlink,
        SymlinkRequest, Sync, SyncRequest, Unlink,
    },
    status::StatusCode,
    user::Identity,
};

use self::plain::Plain;
use crate::{
    check::check,
    flaky::FlakyKv,
    support::{CHUNK_SIZE, ROOT, World, create, named, rename, report, unlink},
};

const STEPS: u64 = 30_000;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Beyond this a random operation rather removes than makes.
const INODES_MAX: usize = 80;

/// A write session as its client knows it.
#[derive(Clone, Debug)]
struct Writer {
    inode: InodeId,
    /// The file when it was opened.
    seen: Inode,
    /// How far it wrote, when it did.
    end: Option<u64>,
}

struct Run {
    world: World,
    plain: Plain,
    writers: BTreeMap<SessionId, Writer>,
    /// How often which operation succeeded.
    successes: BTreeMap<&'static str, u64>,
}

#[tokio::test(start_paused = true)]
async fn random_operations_do_what_a_plain_tree_does() {
    let mut run = Run {
        world: World::new().await,
        plain: Plain::new(ROOT),
        writers: BTreeMap::new(),
        successes: BTreeMap::new(),
    };
    run.steps(STEPS).await;
    // A run in which an operation hardly ever succeeds says little.
    assert_eq!(run.successes.len(), 10, "{:?}", run.successes);
    for (operation, count) in &run.successes {
        assert!(*count > 200, "{operation} succeeded {count} times");
    }
}

#[tokio::test(start_paused = true)]
async fn they_do_so_too_when_commits_have_unknown_outcomes() {
    let kv = FlakyKv::new();
    let mut run = Run {
        world: World::on(kv.clone()).await,
        plain: Plain::new(ROOT),
        writers: BTreeMap::new(),
        successes: BTreeMap::new(),
    };
    kv.set(10, 10);
    run.steps(STEPS / 5).await;
    assert!(kv.injected() > 100);
}

impl Run {
    async fn steps(&mut self, steps: u64) {
        for step in 1..=steps {
            self.step().await;
            if step % 500 == 0 {
                self.compare().await;
            }
        }
        self.end_all().await;
        self.compare().await;
    }

    fn count<T>(&mut self, operation: &'static str, result: &Result<T, StatusCode>) {
        *self.successes.entry(operation).or_default() += u64::from(result.is_ok());
    }

    fn draw(&self, below: usize) -> usize {
        usize::try_from(self.world.env.random_below(below as u64)).unwrap()
    }

    fn name(&self) -> &'static str {
        NAMES[self.draw(NAMES.len())]
    }

    /// A name, more often than not one that is there.
    fn name_in(&self, parent: InodeId) -> String {
        let names = self.plain.names_of(parent);
        match self.draw(3) {
            0 => self.name().to_owned(),
            _ if names.is_empty() => self.name().to_owned(),
            _ => names[self.draw(names.len())].clone(),
        }
    }

    /// Any inode of a kind that has a name; sometimes of another kind.
    fn any(&self, kind: FileKind) -> InodeId {
        let all = self.plain.named(match self.draw(20) {
            0 => None,
            _ => Some(kind),
        });
        match all.is_empty() {
            true => ROOT,
            false => all[self.draw(all.len())],
        }
    }

    async fn step(&mut self) {
        let crowded = self.plain.count() > INODES_MAX;
        match self.draw(if crowded { 70 } else { 100 }) {
            0..10 => self.unlink().await,
            10..18 => self.rmdir().await,
            18..30 => self.rename().await,
            30..38 => self.open().await,
            38..50 => self.write().await,
            50..60 => self.close().await,
            60..65 => self.truncate().await,
            65..70 => self.look().await,
            70..79 => self.mkdir().await,
            79..87 => self.create().await,
            87..91 => self.symlink().await,
            _ => self.link().await,
        }
    }

    async fn create(&mut self) {
        let (parent, name) = (self.any(FileKind::Directory), self.name());
        let mut request = create(parent, name);
        request.exclusive = self.draw(3) == 0;
        let session = (self.draw(2) == 0).then(|| self.world.session());
        request.session = session;
        let exclusive = request.exclusive;
        let result = self.world.create(request).await;
        self.count("create", &result);
        let made = result.as_ref().map(|reply| (reply.inode.id, reply.created));
        let expected = self
            .plain
            .create(parent, name, exclusive, made.ok().map(|made| made.0));
        assert_eq!(made.map_err(|code| *code), expected);
        if let (Ok(reply), Some(session)) = (result, session) {
            self.opened(session, reply.inode);
        }
    }

    fn opened(&mut self, session: SessionId, seen: Inode) {
        self.plain.hold(seen.id, 1);
        let writer = Writer {
            inode: seen.id,
            seen,
            end: None,
        };
        self.writers.insert(session, writer);
    }

    async fn mkdir(&mut self) {
        let (parent, name) = (self.any(FileKind::Directory), self.name());
        let request = MkdirRequest {
            parent,
            name: name.into(),
            mode: 0o755,
        };
        let result = self.world.run::<Mkdir>(request).await;
        self.count("mkdir", &result);
        let made = result.map(|inode| inode.id);
        let expected = self
            .plain
            .make(parent, name, FileKind::Directory, made.ok());
        assert_eq!(made, expected);
    }

    async fn symlink(&mut self) {
        let (parent, name) = (self.any(FileKind::Directory), self.name());
        let request = SymlinkRequest {
            parent,
            name: name.into(),
            target: b"target".to_vec(),
        };
        let result = self.world.run::<Symlink>(request).await;
        self.count("symlink", &result);
        let made = result.map(|inode| inode.id);
        let expected = self.plain.make(parent, name, FileKind::Symlink, made.ok());
        assert_eq!(made, expected);
    }

    async fn link(&mut self) {
        let inode = self.any(FileKind::File);
        let (parent, name) = (self.any(FileKind::Directory), self.name());
        let request = LinkRequest {
            inode,
            parent,
            name: name.into(),
        };
        let result = self.world.run::<Link>(request).await;
        self.count("link", &result);
        let expected = self.plain.link(inode, parent, name);
        assert_eq!(result.map(|inode| inode.nlink), expected);
    }

    /// A hold of what a name leads to, now and then.
    fn hold(&self, parent: InodeId, name: &str) -> Option<Hold> {
        let inode = self.plain.find(parent, name)?;
        let session = self.world.session();
        (self.draw(4) == 0).then_some(Hold { inode, session })
    }

    /// The inode that an operation took the last name from was held.
    async fn held(&mut self, hold: Option<Hold>) {
        if let Some(hold) = hold
            && self.plain.is_nameless(hold.inode)
        {
            let seen = self.world.get(hold.inode).await.unwrap();
            self.opened(hold.session, seen);
        }
    }

    async fn unlink(&mut self) {
        let parent = self.any(FileKind::Directory);
        let name = &self.name_in(parent);
        let mut request = unlink(parent, name);
        request.hold = self.hold(parent, name);
        let hold = request.hold;
        let result = self.world.run::<Unlink>(request).await;
        self.count("unlink", &result);
        assert_eq!(result, self.plain.unlink(parent, name));
        self.held(hold.filter(|_| result.is_ok())).await;
    }

    async fn rmdir(&mut self) {
        let parent = self.any(FileKind::Directory);
        let name = &self.name_in(parent);
        let result = self.world.run::<Rmdir>(named(parent, name)).await;
        self.count("rmdir", &result);
        assert_eq!(result, self.plain.rmdir(parent, name));
    }

    async fn rename(&mut self) {
        let from = self.any(FileKind::Directory);
        let name = &self.name_in(from);
        let (to, new_name) = (self.any(FileKind::Directory), self.name());
        let mode = match self.draw(5) {
            0 => RenameMode::NoReplace,
            1 => RenameMode::Exchange,
            _ => RenameMode::Replace,
        };
        let mut request = rename((from, name), (to, new_name), mode);
        request.hold = self.hold(to, new_name);
        let hold = request.hold;
        let result = self.world.run::<Rename>(request).await;
        self.count("rename", &result);
        let expected = self.plain.rename((from, name), (to, new_name), mode);
        assert_eq!(result, expected, "{from} {name} {to} {new_name} {mode:?}");
        self.held(hold.filter(|_| result.is_ok())).await;
    }

    async fn open(&mut self) {
        let inode = match self.draw(10) {
            0 => self.plain.nameless().unwrap_or(ROOT),
            _ => self.any(FileKind::File),
        };
        let result = self.world.open(inode).await;
        self.count("open", &result);
        let opened = result.as_ref().map(|_| ()).map_err(|code| *code);
        assert_eq!(opened, self.plain.open(inode));
        if let Ok((session, seen)) = result {
            self.opened(session, seen);
        }
    }

    fn any_writer(&self) -> Option<SessionId> {
        let sessions: Vec<_> = self.writers.keys().copied().collect();
        (!sessions.is_empty()).then(|| sessions[self.draw(sessions.len())])
    }

    /// Writes through a session, and sometimes reports.
    async fn write(&mut self) {
        let Some(session) = self.any_writer() else {
            return;
        };
        let end = self.draw(4 * CHUNK_SIZE as usize) as u64;
        let writer = self.writers.get_mut(&session).unwrap();
        let layout = writer.seen.layout().unwrap();
        self.world.chunks.write(writer.inode, layout, end);
        self.plain.write(writer.inode, end);
        writer.end = Some(writer.end.unwrap_or(0).max(end));
        let writer = writer.clone();
        if self.draw(2) == 0 {
            self.sync(session, &writer).await;
        }
    }

    async fn sync(&self, session: SessionId, writer: &Writer) {
        let end = writer.end.unwrap_or(0);
        let request = SyncRequest {
            inode: writer.inode,
            session: Some(session),
            length: Some(report(end, &writer.seen)),
            durable: false,
        };
        match self.world.run::<Sync>(request).await {
            Ok(inode) => {
                assert!(end <= inode.length());
                assert!(inode.length() <= self.plain.length(writer.inode));
            }
            Err(code) => assert_eq!(code, StatusCode::TruncateVersionMismatch),
        }
    }

    async fn close(&mut self) {
        let Some(session) = self.any_writer() else {
            return;
        };
        let writer = self.writers.remove(&session).unwrap();
        if self.draw(8) == 0 {
            let caller = self.world.caller(&Identity::root());
            let deadline = self.world.deadline();
            let namespace = &self.world.namespace;
            let ended = namespace.end_lost_session(&caller, deadline, writer.inode, session);
            ended.await.unwrap();
        } else {
            let length = writer.end.map(|end| report(end, &writer.seen));
            let closed = self.world.close(writer.inode, session, length).await;
            assert_eq!(closed.unwrap().id, writer.inode);
        }
        self.plain.hold(writer.inode, -1);
    }

    async fn truncate(&mut self) {
        let inode = self.any(FileKind::File);
        let length = self.draw(4 * CHUNK_SIZE as usize) as u64;
        let result = self.world.truncate(inode, length).await;
        self.count("truncate", &result);
        let expected = self.plain.truncate(inode, length);
        assert_eq!(result.map(|inode| inode.length()), expected);
    }

    async fn look(&mut self) {
        let (parent, name) = (self.any(FileKind::Directory), self.name());
        let found = self.world.lookup(parent, name).await;
        self.count("lookup", &found);
        let expected = self.plain.lookup(parent, name);
        assert_eq!(found.map(|inode| inode.id), expected);
        if self.draw(3) == 0 {
            self.world.collector().collect().await;
            self.plain.collect();
        }
    }

    async fn end_all(&mut self) {
        while !self.writers.is_empty() {
            self.close().await;
        }
        self.world.collector().collect().await;
        self.plain.collect();
    }

    /// Everything is what the plain tree says.
    async fn compare(&self) {
        for (inode, node) in self.plain.nodes() {
            let found = self.world.get(*inode).await.unwrap();
            assert_eq!(found.kind(), node.kind);
            if node.kind == FileKind::File {
                assert_eq!(found.nlink, node.nlink);
                match node.holders {
                    // Nobody can open it any more: its length is not asked for, only its removal.
                    0 if node.nlink == 0 => {}
                    0 => assert_eq!(found.length(), node.length, "{found:?}"),
                    _ => assert!(found.length() <= node.length),
                }
            }
            if node.kind == FileKind::Directory {
                let names = self.world.names(*inode).await;
                assert!(names.iter().eq(node.names.keys()));
            }
        }
        check(&*self.world.kv).await;
    }
}
