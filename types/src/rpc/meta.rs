//! What the metadata service is asked. Names are bytes (Linux knows no encoding). Mutating requests are
//! idempotent under retry with the same `Caller::request` (protocol N2).

use serde::{Deserialize, Serialize};

use crate::{
    dentry::Dentry,
    id::{InodeId, SessionId},
    inode::Inode,
    layout::Layout,
    rpc::methods,
    version::TruncateVersion,
};

methods! { Meta:
    /// lookup: the inode a name leads to.
    Lookup = 1, "meta.lookup", NameRequest => Inode;
    /// stat.
    GetAttr = 2, "meta.get_attr", InodeRequest => Inode;
    /// chmod, chown, utimensat, truncate.
    SetAttr = 3, "meta.set_attr", SetAttrRequest => Inode;
    /// open(O_CREAT): makes a file, or opens the one that is there unless `exclusive`.
    Create = 4, "meta.create", CreateRequest => CreateReply;
    /// Opens a file; for writing it stores a session.
    Open = 5, "meta.open", OpenRequest => Inode;
    /// Ends a write session with the final length.
    Close = 6, "meta.close", CloseRequest => Inode;
    /// Reports a length (periodic, durable for fsync).
    Sync = 7, "meta.sync", SyncRequest => Inode;
    /// mkdir.
    Mkdir = 8, "meta.mkdir", MkdirRequest => Inode;
    /// symlink.
    Symlink = 9, "meta.symlink", SymlinkRequest => Inode;
    /// link.
    Link = 10, "meta.link", LinkRequest => Inode;
    /// unlink.
    Unlink = 11, "meta.unlink", UnlinkRequest => ();
    /// rmdir.
    Rmdir = 12, "meta.rmdir", NameRequest => ();
    /// rename.
    Rename = 13, "meta.rename", RenameRequest => ();
    /// A page of a directory, with attributes when asked for.
    ReadDir = 14, "meta.read_dir", ReadDirRequest => ReadDirReply;
    /// statfs.
    StatFs = 15, "meta.stat_fs", () => StatFsReply;
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRequest {
    /// The directory.
    pub parent: InodeId,
    /// The name in it.
    pub name: Vec<u8>,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeRequest {
    /// Which.
    pub inode: InodeId,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The server's present.
    Now,
    /// Nanoseconds since 1970.
    At(u64),
}

/// Which attributes to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length: truncates or extends.
    pub length: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

/// Changes attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttrRequest {
    /// Of which inode.
    pub inode: InodeId,
    /// What.
    pub change: AttrChange,
    /// The write session through which the file is open, when it is (ftruncate needs no permission).
    pub session: Option<SessionId>,
}

/// Makes or opens a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The directory.
    pub parent: InodeId,
    /// The name.
    pub name: Vec<u8>,
    /// Permission bits, after the umask.
    pub mode: u32,
    /// O_EXCL: an existing name is an error.
    pub exclusive: bool,
    /// Opens it for writing under this session.
    pub session: Option<SessionId>,
    /// Instead of the directory's layout.
    pub layout: Option<Layout>,
}

/// The file made or found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateReply {
    /// The file.
    pub inode: Inode,
    /// Whether this request made it.
    pub created: bool,
}

/// Opens a file. O_TRUNC is a `SetAttr` that follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Which.
    pub inode: InodeId,
    /// For reading: the read permission is checked.
    pub read: bool,
    /// For writing, under this session.
    pub session: Option<SessionId>,
}

/// What a writer knows of a file's length (protocol L3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthReport {
    /// Highest written end offset.
    pub end: u64,
    /// The truncate version the writer saw.
    pub truncate_version: TruncateVersion,
}

/// Ends a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseRequest {
    /// The file.
    pub inode: InodeId,
    /// The session.
    pub session: SessionId,
    /// The writer's report; `None` when it wrote nothing. Also sets mtime and ctime.
    pub length: Option<LengthReport>,
}

/// Reports a length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// The file.
    pub inode: InodeId,
    /// The session; `None` for a handle opened for reading (fsync of which is legal).
    pub session: Option<SessionId>,
    /// The writer's report; `None` when it wrote nothing since the last.
    pub length: Option<LengthReport>,
    /// Answer only once everything is on stable storage (fsync).
    pub durable: bool,
}

/// Makes a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MkdirRequest {
    /// The directory above.
    pub parent: InodeId,
    /// The name.
    pub name: Vec<u8>,
    /// Permission bits, after the umask.
    pub mode: u32,
}

/// Makes a symlink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymlinkRequest {
    /// The directory.
    pub parent: InodeId,
    /// The name.
    pub name: Vec<u8>,
    /// Where it points.
    pub target: Vec<u8>,
}

/// Gives an inode one more name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRequest {
    /// The inode; not a directory.
    pub inode: InodeId,
    /// The directory of the new name.
    pub parent: InodeId,
    /// The new name.
    pub name: Vec<u8>,
}

/// Keeps an inode that loses its last name until the session is closed: the caller has it open (N6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The inode the caller has open; ignored when the name leads elsewhere by now.
    pub inode: InodeId,
    /// The session to store if this takes the last name.
    pub session: SessionId,
}

/// Removes a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlinkRequest {
    /// The directory.
    pub parent: InodeId,
    /// The name.
    pub name: Vec<u8>,
    /// Keep the inode for a handle.
    pub hold: Option<Hold>,
}

/// What rename does about the new name (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces what is there.
    Replace,
    /// RENAME_NOREPLACE: an existing new name is an error.
    NoReplace,
    /// RENAME_EXCHANGE: both names must exist and change places.
    Exchange,
}

/// Renames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameRequest {
    /// The old directory.
    pub parent: InodeId,
    /// The old name.
    pub name: Vec<u8>,
    /// The new directory.
    pub new_parent: InodeId,
    /// The new name.
    pub new_name: Vec<u8>,
    /// What to do about the new name.
    pub mode: RenameMode,
    /// Keep the inode that is replaced for a handle.
    pub hold: Option<Hold>,
}

/// Asks for a page of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDirRequest {
    /// The directory.
    pub inode: InodeId,
    /// Names after this one; empty for the start. A stable cursor: entries come in byte order of names.
    pub after: Vec<u8>,
    /// How many entries at most.
    pub limit: u32,
    /// With inodes (readdirplus).
    pub attributes: bool,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Where it leads.
    pub dentry: Dentry,
    /// The inode, when asked for and not removed meanwhile.
    pub inode: Option<Inode>,
}

/// A page of a directory; `.` and `..` are the client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadDirReply {
    /// In byte order of names.
    pub entries: Vec<ReadDirEntry>,
    /// Whether there are more.
    pub more: bool,
    /// The directory above, for `..`.
    pub parent: InodeId,
}

/// What statfs(2) shows, in usable bytes: divided by the replica count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatFsReply {
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes free.
    pub free_bytes: u64,
    /// Inodes handed out and not removed, approximately.
    pub inode_count: u64,
}
