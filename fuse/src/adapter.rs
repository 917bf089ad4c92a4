//! Between fuser and `Core`: takes what an operation needs out of the borrowed request, runs it as a task, answers.
//!
//! fuser's threads only read requests; they wait when too many are under way, and for nothing else. What the kernel
//! can do by itself is answered ENOSYS, so that it never asks again: extended attributes (not there yet), access
//! checks (default_permissions), seeking holes, copying ranges.

use std::{
    ffi::OsStr,
    future::Future,
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::{runtime::Handle, sync::Semaphore};
use types::{
    dentry::NAME_LENGTH_MAX, inode::Inode, rpc::meta::AttrChange, status::Status, user::Identity,
};

use crate::{
    attr,
    core::Core,
    errno,
    groups::Groups,
    metrics,
    ops::{dir::ListContent, rename::Place, statfs},
    options::MountOptions,
};

/// The largest request the kernel sends: what one chunk takes at a time.
const REQUEST_BYTES: u32 = 1 << 20;
/// Inode ids are never used twice, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// See the module's text.
pub(crate) struct Adapter {
    core: Arc<Core>,
    runtime: Handle,
    permits: Arc<Semaphore>,
    groups: Groups,
    cache: Duration,
    background_max: u16,
}

impl Adapter {
    /// Must be called on the runtime that shall run the operations.
    pub(crate) fn new(core: Arc<Core>, permits: Arc<Semaphore>, options: &MountOptions) -> Self {
        Self {
            core,
            runtime: Handle::current(),
            permits,
            groups: Groups::default(),
            cache: options.cache,
            background_max: options.background_max,
        }
    }

    fn caller(&self, request: &Request) -> Identity {
        let (uid, gid, pid) = (request.uid(), request.gid(), request.pid());
        self.groups.identity(self.core.env(), uid, gid, pid)
    }

    /// Runs an operation to its end, apart from the thread that read the request.
    fn run<F, W>(&self, operation: &'static str, work: W)
    where
        W: FnOnce(Arc<Core>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => Ok(permit),
            Err(_) => self.runtime.block_on(self.permits.clone().acquire_owned()),
        };
        let env = self.core.env().clone();
        let future = work(self.core.clone());
        let _context = self.runtime.enter();
        let timer = env.clone();
        let _task = env.spawn(operation, async move {
            let started = timer.now();
            future.await;
            metrics::request(operation, timer.now().saturating_duration_since(started));
            drop(permit);
        });
    }

    /// An operation that answers with an inode under a name: the kernel remembers it once more.
    fn run_entry<F, W>(&self, operation: &'static str, reply: ReplyEntry, work: W)
    where
        W: FnOnce(Arc<Core>) -> F + Send + 'static,
        F: Future<Output = Result<Inode, Status>> + Send + 'static,
    {
        let cache = self.cache;
        self.run(operation, move |core| async move {
            match work(core.clone()).await {
                Ok(inode) => {
                    // Before the answer: the kernel may forget it right after.
                    core.inodes.remember(inode.id);
                    reply.entry(&cache, &attr::of(&inode), GENERATION);
                }
                Err(status) => reply.error(errno::of(operation, &status)),
            }
        });
    }

    fn run_attr<F, W>(&self, operation: &'static str, reply: ReplyAttr, work: W)
    where
        W: FnOnce(Arc<Core>) -> F + Send + 'static,
        F: Future<Output = Result<Inode, Status>> + Send + 'static,
    {
        let cache = self.cache;
        self.run(operation, move |core| async move {
            match work(core).await {
                Ok(inode) => reply.attr(&cache, &attr::of(&inode)),
                Err(status) => reply.error(errno::of(operation, &status)),
            }
        });
    }

    fn run_empty<F, W>(&self, operation: &'static str, reply: ReplyEmpty, work: W)
    where
        W: FnOnce(Arc<Core>) -> F + Send + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        self.run(operation, move |core| async move {
            match work(core).await {
                Ok(()) => reply.ok(),
                Err(status) => reply.error(errno::of(operation, &status)),
            }
        });
    }
}

fn bytes(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each setter that finds its value too large names the nearest one that is not.
        if let Err(nearest) = config.set_max_write(REQUEST_BYTES) {
            let _set = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(REQUEST_BYTES) {
            let _set = config.set_max_readahead(nearest);
        }
        let _set = config.set_max_background(self.background_max);
        // A kernel that lacks one works without it.
        for capability in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Meta takes setuid and setgid away at a report, a truncate and a chown.
            InitFlags::FUSE_HANDLE_KILLPRIV,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "not offered by this kernel");
            }
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (who, parent, name) = (self.caller(request), attr::id(parent), bytes(name));
        self.run_entry("lookup", reply, move |core| async move {
            core.lookup(&who, parent, name).await
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, count: u64) {
        self.core.inodes.forget(attr::id(inode), count);
    }

    fn getattr(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let (who, inode) = (self.caller(request), attr::id(inode));
        self.run_attr("getattr", reply, move |core| async move {
            core.get_attr(&who, inode).await
        });
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (who, inode) = (self.caller(request), attr::id(inode));
        let change = AttrChange {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            length: size,
            atime: atime.map(attr::set_time),
            mtime: mtime.map(attr::set_time),
        };
        let handle = handle.map(|handle| handle.0);
        self.run_attr("setattr", reply, move |core| async move {
            core.set_attr(&who, inode, change, handle).await
        });
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let (who, inode) = (self.caller(request), attr::id(inode));
        self.run("readlink", move |core| async move {
            match core.read_link(&who, inode).await {
                Ok(target) => reply.data(&target),
                Err(status) => reply.error(errno::of("readlink", &status)),
            }
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let (who, parent, name) = (self.caller(request), attr::id(parent), bytes(name));
        self.run_entry("mknod", reply, move |core| async move {
            core.make_node(&who, parent, name, mode & !umask).await
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (who, parent, name) = (self.caller(request), attr::id(parent), bytes(name));
        self.run_entry("mkdir", reply, move |core| async move {
            core.mkdir(&who, parent, name, mode & !umask).await
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, parent, name) = (self.caller(request), attr::id(parent), bytes(name));
        self.run_empty("unlink", reply, move |core| async move {
            core.unlink(&who, parent, name).await
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, parent, name) = (self.caller(request), attr::id(parent), bytes(name));
        self.run_empty("rmdir", reply, move |core| async move {
            core.rmdir(&who, parent, name).await
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (who, parent, name) = (self.caller(request), attr::id(parent), bytes(name));
        let target = bytes(target.as_os_str());
        self.run_entry("symlink", reply, move |core| async move {
            core.symlink(&who, parent, name, target).await
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let who = self.caller(request);
        let place = |parent, name| Place {
            parent: attr::id(parent),
            name: bytes(name),
        };
        let (from, to) = (place(parent, name), place(new_parent, new_name));
        self.run_empty("rename", reply, move |core| async move {
            core.rename(&who, from, to, flags).await
        });
    }

    fn link(
        &self,
        request: &Request,
        inode: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (who, inode) = (self.caller(request), attr::id(inode));
        let (parent, name) = (attr::id(parent), bytes(name));
        self.run_entry("link", reply, move |core| async move {
            core.link(&who, inode, parent, name).await
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (who, inode) = (self.caller(request), attr::id(inode));
        self.run("open", move |core| async move {
            match core.open(&who, inode, flags.0).await {
                Ok(opened) => reply.opened(FileHandle(opened.handle), opened.flags),
                Err(status) => reply.error(errno::of("open", &status)),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.run("read", move |core| async move {
            match core.read(handle.0, offset, size).await {
                Ok(Some(buf)) => reply.data(&buf),
                Ok(None) => reply.data(&[]),
                Err(status) => reply.error(errno::of("read", &status)),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The only copy on the way: the bytes belong to the thread that read the request.
        let data = self.core.client.endpoint.buffers().copy_from(data).freeze();
        self.run("write", move |core| async move {
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            match core.write(handle.0, offset, data).await {
                Ok(()) => reply.written(size),
                Err(status) => reply.error(errno::of("write", &status)),
            }
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.run_empty("flush", reply, move |core| async move {
            core.flush_handle(handle.0).await
        });
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _context = self.runtime.enter();
        self.core.release(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.run_empty("fsync", reply, move |core| async move {
            core.fsync(handle.0).await
        });
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.core.open_dir(attr::id(inode));
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let who = self.caller(request);
        self.run("readdir", move |core| async move {
            match core.list(&who, handle.0, offset, ListContent::Names).await {
                Ok(entries) => {
                    for entry in entries {
                        let name = OsStr::from_bytes(&entry.name);
                        let (number, kind) = (attr::number(entry.inode), attr::kind(entry.kind));
                        if reply.add(number, entry.next, kind, name) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(status) => reply.error(errno::of("readdir", &status)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (who, cache) = (self.caller(request), self.cache);
        self.run("readdirplus", move |core| async move {
            let listed = core.list(&who, handle.0, offset, ListContent::Attributes);
            let entries = match listed.await {
                Ok(entries) => entries,
                Err(status) => return reply.error(errno::of("readdirplus", &status)),
            };
            for entry in entries {
                let attributes = match &entry.attributes {
                    Some(inode) => attr::of(inode),
                    None => attr::of_dot(entry.inode),
                };
                let (number, name) = (attributes.ino, OsStr::from_bytes(&entry.name));
                if reply.add(number, entry.next, name, &cache, &attributes, GENERATION) {
                    break;
                }
                // The kernel counts every entry but the dots as a lookup.
                if entry.attributes.is_some() {
                    core.inodes.remember(entry.inode);
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _dir = self.core.handles.remove(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (who, inode) = (self.caller(request), attr::id(inode));
        self.run_empty("fsyncdir", reply, move |core| async move {
            core.fsync_dir(&who, inode).await
        });
    }

    fn statfs(&self, request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let who = self.caller(request);
        self.run("statfs", move |core| async move {
            match core.stat_fs(&who).await {
                Ok(space) => reply.statfs(
                    space.blocks,
                    space.free,
                    space.free,
                    space.inodes,
                    space.inodes_free,
                    statfs::FRAGMENT,
                    u32::try_from(NAME_LENGTH_MAX).unwrap_or(u32::MAX),
                    statfs::FRAGMENT,
                ),
                Err(status) => reply.error(errno::of("statfs", &status)),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (who, parent, name) = (self.caller(request), attr::id(parent), bytes(name));
        let cache = self.cache;
        self.run("create", move |core| async move {
            match core.create(&who, parent, name, mode & !umask, flags).await {
                Ok((inode, opened)) => {
                    core.inodes.remember(inode.id);
                    let handle = FileHandle(opened.handle);
                    let attributes = attr::of(&inode);
                    reply.created(&cache, &attributes, GENERATION, handle, opened.flags);
                }
                Err(status) => reply.error(errno::of("create", &status)),
            }
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let who = self.caller(request);
        self.run_empty("fallocate", reply, move |core| async move {
            core.allocate(&who, handle.0, offset, length, mode).await
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _name: &OsStr,
        _size: u32,
        reply: ReplyXattr,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _inode: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _inode_in: INodeNo,
        _handle_in: FileHandle,
        _offset_in: u64,
        _inode_out: INodeNo,
        _handle_out: FileHandle,
        _offset_out: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
