//! An ordered store of records with atomic, durable batches, behind one trait.
//!
//! `fjall` is real, `mem` models what a loss of power leaves. It knows bytes; what they mean is the business of
//! `chunk_meta`.

pub mod fjall;
pub mod mem;

use std::{fmt::Debug, path::PathBuf};

use async_trait::async_trait;

/// One change of a batch: a key, and its new value or `None` to remove it.
pub type RecordChange = (Vec<u8>, Option<Vec<u8>>);

/// The record store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} the records in {}: {reason}", path.display())]
pub struct MetaStoreError {
    /// What was tried.
    pub action: &'static str,
    /// Where.
    pub path: PathBuf,
    /// What the store said.
    pub reason: String,
}

/// The records of one disk.
#[async_trait]
pub trait MetaStore: Debug + Send + Sync + 'static {
    /// Shows every record whose key starts with `prefix`, in the order of keys. Blocks: not for async threads.
    ///
    /// # Errors
    /// When records cannot be read.
    fn scan(&self, prefix: u8, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), MetaStoreError>;

    /// One record. Blocks: not for async threads.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MetaStoreError>;

    /// Applies the changes, whose keys differ, all or none; they are durable on return. One call at a time. After
    /// an error the store takes no more writes and must be opened anew.
    async fn write(&self, changes: Vec<RecordChange>) -> Result<(), MetaStoreError>;

    /// Ends what is under way.
    async fn close(&self);
}
