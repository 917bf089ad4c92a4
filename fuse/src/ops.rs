//! The operations, as methods of `Core`, one file per family.

pub(crate) mod attr;
pub(crate) mod create;
pub(crate) mod dir;
pub(crate) mod file;
pub(crate) mod link;
pub(crate) mod lookup;
pub(crate) mod rename;
pub(crate) mod statfs;
