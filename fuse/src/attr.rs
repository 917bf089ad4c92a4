//! Between our inodes and the kernel's attributes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use types::{
    id::InodeId,
    inode::{FileKind, Inode},
    rpc::meta::SetTime,
};

/// What stat(2) calls the preferred size of an I/O. C programs allocate a buffer of it per open file, so it is not
/// the chunk's size.
const BLOCK_SIZE: u32 = 128 << 10;

/// The unit of `st_blocks`.
const SECTOR: u64 = 512;

/// The kernel's attributes of an inode.
pub(crate) fn of(inode: &Inode) -> FileAttr {
    let length = inode.length();
    FileAttr {
        ino: number(inode.id),
        size: length,
        blocks: length.div_ceil(SECTOR),
        atime: time(inode.times.atime_ns),
        mtime: time(inode.times.mtime_ns),
        ctime: time(inode.times.ctime_ns),
        crtime: time(inode.times.btime_ns),
        kind: kind(inode.kind()),
        perm: permissions(inode.mode),
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Attributes of `.` and `..` in a listing, of which the kernel takes only the number.
pub(crate) fn of_dot(inode: InodeId) -> FileAttr {
    FileAttr {
        ino: number(inode),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The kernel's number of an inode is our id; the root is 1 on both sides.
pub(crate) fn number(inode: InodeId) -> INodeNo {
    INodeNo(inode.0)
}

/// Our id of a kernel's number.
pub(crate) fn id(number: INodeNo) -> InodeId {
    InodeId(number.0)
}

/// The kernel's kind.
pub(crate) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
    }
}

/// A time as the metadata server takes it. Times before 1970 become 1970: they are stored without a sign.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            SetTime::At(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
        }
    }
}

fn time(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use types::inode::{InodeData, Times};

    use super::*;

    #[test]
    fn an_inode_shows_as_what_it_is() {
        let inode = Inode {
            id: InodeId(9),
            uid: 3,
            gid: 4,
            mode: 0o4755,
            nlink: 2,
            times: Times {
                mtime_ns: 1_500_000_000_123_456_789,
                ..Times::default()
            },
            data: InodeData::Symlink {
                target: vec![b'x'; 513],
            },
        };
        let attr = of(&inode);
        assert_eq!((attr.ino.0, attr.size, attr.blocks), (9, 513, 2));
        assert_eq!((attr.perm, attr.nlink), (0o4755, 2));
        assert_eq!((attr.uid, attr.gid), (3, 4));
        assert_eq!(attr.kind, FileType::Symlink);
        let since = attr.mtime.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(since.as_nanos(), 1_500_000_000_123_456_789);
    }

    #[test]
    fn times_go_both_ways_and_never_below_zero() {
        let at = |time| set_time(TimeOrNow::SpecificTime(time));
        assert_eq!(at(time(77)), SetTime::At(77));
        assert_eq!(at(UNIX_EPOCH - Duration::from_secs(5)), SetTime::At(0));
        assert_eq!(set_time(TimeOrNow::Now), SetTime::Now);
    }

    #[test]
    fn the_root_is_the_kernels_root() {
        assert_eq!(number(types::id::ROOT_INODE), INodeNo::ROOT);
    }
}
