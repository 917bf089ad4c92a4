//! Records in memory that forget what was not durable when the power fails.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use common::{env::Env, sync::Mutex};

use super::{MetaStore, MetaStoreError, RecordChange};
use crate::device::mem::PowerSwitch;

/// A record store in memory. Clones are the same store.
#[derive(Clone, Debug)]
pub struct MemStore {
    power: Arc<PowerSwitch>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    unsynced: Option<Vec<RecordChange>>,
    batches: u64,
}

impl State {
    fn apply(&mut self, changes: Vec<RecordChange>) {
        for (key, value) in changes {
            match value {
                Some(value) => self.durable.insert(key, value),
                None => self.durable.remove(&key),
            };
        }
    }
}

impl MemStore {
    /// An empty store.
    pub fn new(power: Arc<PowerSwitch>) -> Self {
        Self {
            power,
            state: Arc::default(),
        }
    }

    /// The store as it may be found after a loss of power: the batch under way is there or not.
    #[must_use]
    pub fn crash(&self, env: &Env, power: Arc<PowerSwitch>) -> Self {
        let mut state = std::mem::take(&mut *self.state.lock());
        if let Some(changes) = state.unsynced.take()
            && env.random_below(2) == 0
        {
            state.apply(changes);
        }
        Self {
            power,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The store as it is found when only the process was killed.
    #[must_use]
    pub fn kill(&self, env: &Env, power: Arc<PowerSwitch>) -> Self {
        // Of a batch under way a process leaves as much as a loss of power.
        self.crash(env, power)
    }

    /// Batches written so far.
    pub fn batch_count(&self) -> u64 {
        self.state.lock().batches
    }

    /// Changes a record behind the engine's back, to see what it says to that.
    pub fn tamper(&self, change: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>)) {
        change(&mut self.state.lock().durable);
    }
}

#[async_trait]
impl MetaStore for MemStore {
    fn scan(&self, prefix: u8, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), MetaStoreError> {
        let state = self.state.lock();
        let records = state.durable.range(vec![prefix]..);
        for (key, value) in records.take_while(|(key, _)| key.first() == Some(&prefix)) {
            visit(key, value);
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, MetaStoreError> {
        Ok(self.state.lock().durable.get(key).cloned())
    }

    async fn write(&self, changes: Vec<RecordChange>) -> Result<(), MetaStoreError> {
        self.state.lock().unsynced = Some(changes);
        self.power.step().await;
        {
            let mut state = self.state.lock();
            state.batches += 1;
            if let Some(changes) = state.unsynced.take() {
                state.apply(changes);
            }
        }
        self.power.step().await;
        Ok(())
    }

    async fn close(&self) {}
}
