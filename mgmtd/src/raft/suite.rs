//! openraft's own conformance suite against our log and state machine.

use std::sync::Arc;

use common::env::Env;
use openraft::{
    StorageError, StorageIOError,
    testing::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::{
    TypeConfig, log_store::LogStore, snapshot_store::SnapshotStore, state_machine::StateMachine,
};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Arc<TempDir>> for Builder {
    async fn build(&self) -> Result<(Arc<TempDir>, LogStore, StateMachine), StorageError<u64>> {
        let fail = |error: std::io::Error| StorageError::from(StorageIOError::read(&error));
        let dir = Arc::new(tempfile::tempdir().map_err(fail)?);
        let env = Env::real();
        let log = LogStore::open(&env, dir.path()).await.map_err(fail)?;
        log.allow_holes();
        let snapshots = SnapshotStore::open(&env, dir.path()).await.map_err(fail)?;
        let machine = StateMachine::open(&env, snapshots).await.map_err(fail)?;
        Ok((dir, log, machine))
    }
}

#[test]
fn the_store_passes_the_suite_of_openraft() {
    Suite::test_all(Builder).unwrap();
}
