//! From a directory and a name to inodes, with the checks that every operation on names begins with.
//!
//! The order of checks is that of Linux: search permission, existence, write permission. A directory that
//! is gone is `Stale`, upon which the Linux VFS walks the path again.

use kv::{ReadMode, Transaction};
use types::{
    dentry::{Dentry, NAME_LENGTH_MAX},
    id::InodeId,
    inode::{FileKind, Inode},
    user::Identity,
};

use crate::{
    error::MetaError,
    permission::{self, Access},
    store,
};

/// Whether a name can stand in a directory.
///
/// # Errors
/// TooLong, InvalidArgument.
pub fn check_name(name: &[u8]) -> Result<(), MetaError> {
    let invalid = |reason| Err(MetaError::InvalidArgument { reason });
    if name.len() > NAME_LENGTH_MAX {
        return Err(MetaError::TooLong {
            what: "a name",
            length: name.len(),
        });
    }
    match name {
        b"" => invalid("a name is empty"),
        b"." | b".." => invalid("`.` and `..` are no names of a directory's own"),
        _ if name.contains(&b'/') || name.contains(&0) => invalid("a name contains / or NUL"),
        _ => Ok(()),
    }
}

/// The directory, in which `who` may look names up.
///
/// # Errors
/// Stale, NotDirectory, AccessDenied.
pub async fn directory(
    txn: &mut dyn Transaction,
    who: &Identity,
    inode: InodeId,
    mode: ReadMode,
) -> Result<Inode, MetaError> {
    let directory = store::inode::require(txn, inode, mode).await?;
    if directory.kind() != FileKind::Directory {
        return Err(MetaError::NotDirectory { inode });
    }
    permission::check(who, &directory, Access::SEARCH)?;
    Ok(directory)
}

/// The directory in which `who` may make `name`, which does not exist. Conflicts when it comes into
/// being, or when the directory's inode changes.
///
/// # Errors
/// As `directory`, `check_name`; Exists.
pub async fn free_name(
    txn: &mut dyn Transaction,
    who: &Identity,
    parent: InodeId,
    name: &[u8],
) -> Result<Inode, MetaError> {
    check_name(name)?;
    let directory = directory(txn, who, parent, ReadMode::Serializable).await?;
    let dentry = store::dentry::load(txn, parent, name, ReadMode::Serializable).await?;
    if dentry.is_some() {
        return Err(MetaError::Exists { parent });
    }
    permission::check(who, &directory, Access::WRITE)?;
    Ok(directory)
}

/// A name with the directory it is in and the inode it leads to.
#[derive(Clone, Debug)]
pub struct Found {
    /// The directory.
    pub directory: Inode,
    /// What the name says.
    pub dentry: Dentry,
    /// What it leads to.
    pub inode: Inode,
}

/// An existing name. Conflicts when it changes, or one of the two inodes.
///
/// # Errors
/// As `directory`, `check_name`; NotFound.
pub async fn existing_name(
    txn: &mut dyn Transaction,
    who: &Identity,
    parent: InodeId,
    name: &[u8],
) -> Result<Found, MetaError> {
    check_name(name)?;
    let directory = directory(txn, who, parent, ReadMode::Serializable).await?;
    let dentry = store::dentry::load(txn, parent, name, ReadMode::Serializable).await?;
    let dentry = dentry.ok_or(MetaError::NotFound { parent })?;
    let inode = store::inode::require(txn, dentry.inode, ReadMode::Serializable).await?;
    Ok(Found {
        directory,
        dentry,
        inode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_linux_allows() {
        let longest = [b'x'; NAME_LENGTH_MAX];
        for name in [&b"a"[..], b"...", b"\xff\xfe", b" ", b"..a", &longest] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            let error = check_name(name).unwrap_err();
            assert!(
                matches!(error, MetaError::InvalidArgument { .. }),
                "{name:?}"
            );
        }
        let error = check_name(&[b'x'; NAME_LENGTH_MAX + 1]).unwrap_err();
        assert!(matches!(error, MetaError::TooLong { length: 256, .. }));
    }
}
