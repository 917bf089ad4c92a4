//! An ordered, strictly serializable, transactional key-value store behind one trait.
//!
//! It knows bytes, not inodes. The rules are those of FoundationDB (optimistic, a read version, conflict
//! ranges, versionstamps, commits with an unknown result, 5 seconds, 10 MB), so that FoundationDB itself
//! can be one of the implementations: `mem` lives in memory, `embedded` on the disk of one machine.

pub mod key;
pub mod limits;
pub mod versionstamp;

pub mod error;
pub mod retry;
pub mod transaction;

mod atomic;
mod group;
mod metrics;
mod optimistic;
mod resolver;
mod write_buffer;

pub mod embedded;
pub mod faulty;
pub mod mem;

pub mod conformance;

pub use error::{AsKvError, ErrorClass, KvError};
pub use key::KeyRange;
pub use retry::transact;
pub use transaction::{
    CommitVersion, ConflictSets, Kv, RangeOptions, RangePage, ReadMode, Transaction,
};
pub use versionstamp::Versionstamp;
