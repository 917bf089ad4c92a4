//! The mount: Linux file system calls, answered from metadata servers and chunks.
//!
//! fuser's threads read requests from the kernel and hand each to a task (`adapter`); the task does the work
//! (`core`, `ops/`) and answers. What is known locally: which inodes the kernel remembers (`inode_table`), which
//! files are open here and how far they were written (`open_file`), and handles (`handles`).
//!
//! Invariants: a write is acknowledged only after the chunks are durable; a length is told to the kernel only after
//! the metadata server has it (`exchange`); only `errno` knows errno.

mod adapter;
mod attr;
mod background;
mod core;
mod errno;
mod exchange;
mod groups;
mod handles;
mod inode_table;
mod metrics;
mod mount;
mod mount_point;
mod open_file;
mod ops;
mod options;
mod readdir;
mod reporter;

pub use crate::{
    mount::{Mount, MountError, unmount, unmount_lazy},
    options::{MountOptions, OptionError},
};
