//! POSIX permission rules (protocol N4), as Linux has them: pure functions of an identity and inodes.
//!
//! The class of the caller is the first that fits: owner, group (primary or supplementary), others. uid 0
//! may everything.

use types::{
    inode::{FileKind, Inode},
    user::Identity,
};

use crate::error::MetaError;

/// The bits that a mode can have.
pub const MODE_MASK: u32 = 0o7777;
/// setuid
pub const SET_UID: u32 = 0o4000;
/// setgid
pub const SET_GID: u32 = 0o2000;
/// The sticky bit: in such a directory only owners remove names.
pub const STICKY: u32 = 0o1000;
const GROUP_EXECUTE: u32 = 0o0010;

/// What is wanted of an inode, as permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u32);

impl Access {
    /// To read it.
    pub const READ: Self = Self(4);
    /// To write it.
    pub const WRITE: Self = Self(2);
    /// To look names up in a directory.
    pub const SEARCH: Self = Self(1);
    /// To run a file.
    pub const EXECUTE: Self = Self(1);
}

/// Whether `who` may have `access` to `inode`.
///
/// # Errors
/// AccessDenied.
pub fn check(who: &Identity, inode: &Inode, access: Access) -> Result<(), MetaError> {
    let shift = if who.uid == inode.uid {
        6
    } else if who.is_member(inode.gid) {
        3
    } else {
        0
    };
    if who.uid == 0 || (inode.mode >> shift) & access.0 == access.0 {
        return Ok(());
    }
    Err(MetaError::AccessDenied { inode: inode.id })
}

/// Whether `who` may take the name of `victim` out of `directory`.
///
/// # Errors
/// AccessDenied; NotPermitted by the sticky bit.
pub fn check_remove(who: &Identity, directory: &Inode, victim: &Inode) -> Result<(), MetaError> {
    check(who, directory, Access::WRITE)?;
    let owner = who.uid == 0 || who.uid == directory.uid || who.uid == victim.uid;
    if directory.mode & STICKY != 0 && !owner {
        return Err(MetaError::NotPermitted {
            reason: "the directory is sticky and neither it nor the file is yours",
        });
    }
    Ok(())
}

/// Owner, group and mode of something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What `who` makes in `parent` with the mode asked for. A setgid directory gives its group on, and
/// subdirectories its bit.
pub fn of_new(who: &Identity, parent: &Inode, kind: FileKind, mode: u32) -> Ownership {
    let mut mode = mode & MODE_MASK;
    let mut gid = who.gid;
    if parent.mode & SET_GID != 0 {
        gid = parent.gid;
        if kind == FileKind::Directory {
            mode |= SET_GID;
        }
    }
    let outsider = who.uid != 0 && !who.is_member(gid);
    let runs_as_group = SET_GID | GROUP_EXECUTE;
    if kind == FileKind::File && outsider && mode & runs_as_group == runs_as_group {
        mode &= !SET_GID;
    }
    let uid = who.uid;
    Ownership { uid, gid, mode }
}

/// A file's mode after its content or owner changed: it no longer runs as its owner or group.
pub fn without_set_id(inode: &Inode) -> u32 {
    if inode.kind() != FileKind::File {
        return inode.mode;
    }
    let mut mode = inode.mode & !SET_UID;
    if mode & GROUP_EXECUTE != 0 {
        mode &= !SET_GID;
    }
    mode
}

/// The mode after `who` wrote to the file; the superuser keeps the bits.
pub fn mode_after_write(who: &Identity, inode: &Inode) -> u32 {
    if who.uid == 0 {
        inode.mode
    } else {
        without_set_id(inode)
    }
}

/// chmod: the new mode.
///
/// # Errors
/// NotPermitted for all but the owner.
pub fn chmod(who: &Identity, inode: &Inode, gid: u32, mode: u32) -> Result<u32, MetaError> {
    check_owner(who, inode)?;
    let mut mode = mode & MODE_MASK;
    if who.uid != 0 && !who.is_member(gid) {
        mode &= !SET_GID;
    }
    Ok(mode)
}

/// chown: whether `who` may set these.
///
/// # Errors
/// NotPermitted: only the superuser gives files away, and the owner only to groups of his own.
pub fn check_chown(
    who: &Identity,
    inode: &Inode,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), MetaError> {
    if who.uid == 0 || (uid.is_none() && gid.is_none()) {
        return Ok(());
    }
    check_owner(who, inode)?;
    if uid.is_some_and(|uid| uid != inode.uid) {
        return Err(MetaError::NotPermitted {
            reason: "only the superuser gives files to others",
        });
    }
    if gid.is_some_and(|gid| gid != inode.gid && !who.is_member(gid)) {
        return Err(MetaError::NotPermitted {
            reason: "you are not a member of that group",
        });
    }
    Ok(())
}

/// What only the owner and the superuser may.
///
/// # Errors
/// NotPermitted.
pub fn check_owner(who: &Identity, inode: &Inode) -> Result<(), MetaError> {
    if who.uid == 0 || who.uid == inode.uid {
        return Ok(());
    }
    Err(MetaError::NotPermitted {
        reason: "only the owner may do this",
    })
}

#[cfg(test)]
mod tests {
    use types::{
        id::InodeId,
        inode::{InodeData, Times},
    };

    use super::*;

    fn who(uid: u32, gid: u32, groups: &[u32]) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    fn inode(kind: FileKind, uid: u32, gid: u32, mode: u32) -> Inode {
        let data = match kind {
            FileKind::Directory => InodeData::Directory {
                parent: InodeId(1),
                layout: None,
            },
            FileKind::File | FileKind::Symlink => InodeData::File {
                length: 0,
                truncate_version: types::version::TruncateVersion(0),
                layout: types::layout::Layout {
                    table: types::id::ChainTableId(1),
                    table_version: types::version::ChainTableVersion(1),
                    chunk_size: 1 << 20,
                    stripe_size: 1,
                    base: 0,
                    seed: 0,
                },
                truncating: None,
            },
        };
        Inode {
            id: InodeId(2),
            uid,
            gid,
            mode,
            nlink: 1,
            times: Times::default(),
            data,
        }
    }

    #[test]
    fn every_mode_is_judged_by_the_first_class_that_fits() {
        let callers = [
            (who(10, 1, &[20]), 6),
            (who(11, 20, &[]), 3),
            (who(11, 1, &[5, 20]), 3),
            (who(11, 1, &[5]), 0),
        ];
        for mode in 0..0o1000 {
            let file = inode(FileKind::File, 10, 20, mode);
            for (caller, shift) in &callers {
                for access in [Access::READ, Access::WRITE, Access::SEARCH] {
                    let expected = mode >> shift & access.0 != 0;
                    assert_eq!(check(caller, &file, access).is_ok(), expected, "{mode:o}");
                    assert!(check(&who(0, 9, &[]), &file, access).is_ok());
                }
            }
        }
    }

    #[test]
    fn in_a_sticky_directory_only_owners_remove() {
        let directory = inode(FileKind::Directory, 1, 1, 0o1777);
        let file = inode(FileKind::File, 2, 2, 0o777);
        for (uid, expected) in [(0, true), (1, true), (2, true), (3, false)] {
            let result = check_remove(&who(uid, 9, &[]), &directory, &file);
            assert_eq!(result.is_ok(), expected, "uid {uid}");
        }
        let plain = inode(FileKind::Directory, 1, 1, 0o777);
        assert!(check_remove(&who(3, 9, &[]), &plain, &file).is_ok());
    }

    #[test]
    fn setgid_directories_give_their_group_on() {
        let parent = inode(FileKind::Directory, 1, 7, 0o2777);
        let file = of_new(&who(3, 9, &[]), &parent, FileKind::File, 0o100_644);
        assert_eq!((file.uid, file.gid, file.mode), (3, 7, 0o644));
        let directory = of_new(&who(3, 9, &[]), &parent, FileKind::Directory, 0o755);
        assert_eq!((directory.gid, directory.mode), (7, 0o2755));
        let runs_as_group = of_new(&who(3, 9, &[]), &parent, FileKind::File, 0o2755);
        assert_eq!(runs_as_group.mode, 0o755);
        let member = of_new(&who(3, 9, &[7]), &parent, FileKind::File, 0o2755);
        assert_eq!(member.mode, 0o2755);
    }

    #[test]
    fn only_root_gives_files_away_and_owners_only_to_their_groups() {
        let file = inode(FileKind::File, 2, 5, 0o644);
        let owner = who(2, 5, &[6]);
        assert!(check_chown(&owner, &file, Some(2), Some(6)).is_ok());
        assert!(check_chown(&owner, &file, None, Some(7)).is_err());
        assert!(check_chown(&owner, &file, Some(3), None).is_err());
        assert!(check_chown(&who(3, 5, &[]), &file, None, Some(5)).is_err());
        assert!(check_chown(&who(0, 0, &[]), &file, Some(3), Some(7)).is_ok());
    }

    #[test]
    fn chmod_by_an_outsider_of_the_group_drops_setgid() {
        let file = inode(FileKind::File, 2, 5, 0o644);
        assert_eq!(chmod(&who(2, 9, &[]), &file, 5, 0o2755), Ok(0o755));
        assert_eq!(chmod(&who(2, 5, &[]), &file, 5, 0o2755), Ok(0o2755));
        assert_eq!(chmod(&who(0, 0, &[]), &file, 5, 0o6755), Ok(0o6755));
        assert!(chmod(&who(3, 5, &[]), &file, 5, 0o755).is_err());
    }

    #[test]
    fn writing_drops_the_set_id_bits_unless_root_writes() {
        let mut file = inode(FileKind::File, 2, 5, 0o6755);
        assert_eq!(mode_after_write(&who(2, 5, &[]), &file), 0o755);
        assert_eq!(mode_after_write(&who(0, 0, &[]), &file), 0o6755);
        // Without group execute the bit means mandatory locking and stays.
        file.mode = 0o6644;
        assert_eq!(without_set_id(&file), 0o2644);
    }
}
