//! Inode ids: 64 bits, never reused, handed out in blocks from sharded counters (protocol K2).
//!
//! Id = (block * shards + shard) * block size + place. A server takes a block in a transaction of its own and
//! hands its ids out from memory; what is left of a block when it stops is never used. Block 0 is
//! never taken: the root lies in it.

use std::{ops::Range, sync::Arc};

use common::{
    env::{Env, Instant},
    sync::Mutex,
};
use kv::{Kv, transact};
use types::id::InodeId;

use crate::{error::MetaError, store::counters};

/// Ids per block: a server that makes 10,000 files a second takes a block every 0.4 s.
pub const BLOCK_SIZE: u64 = 4096;

/// The ids of this server.
#[derive(Debug)]
pub struct InodeIds {
    env: Env,
    kv: Arc<dyn Kv>,
    left: Mutex<Range<u64>>,
    /// Held by the one who takes a block, so that a crowd takes only one.
    taking: tokio::sync::Mutex<()>,
}

impl InodeIds {
    /// Takes its first block when it is asked for the first id.
    pub fn new(env: &Env, kv: Arc<dyn Kv>) -> Self {
        Self {
            env: env.clone(),
            kv,
            left: Mutex::new(0..0),
            taking: tokio::sync::Mutex::new(()),
        }
    }

    /// An id that nobody had before.
    ///
    /// # Errors
    /// When the store fails or the deadline passes.
    pub async fn next(&self, deadline: Instant) -> Result<InodeId, MetaError> {
        loop {
            if let Some(id) = self.left.lock().next() {
                return Ok(InodeId(id));
            }
            let _taking = self.taking.lock().await;
            if self.left.lock().is_empty() {
                let block = self.take_block(deadline).await?;
                *self.left.lock() = block;
            }
        }
    }

    async fn take_block(&self, deadline: Instant) -> Result<Range<u64>, MetaError> {
        let shards = u64::from(counters::SHARDS);
        let shard = u8::try_from(self.env.random_below(shards)).expect("below a u8");
        // A block whose commit is unknown is left unused: the next try takes the one after it.
        let block: Result<u64, MetaError> = transact(&self.env, &*self.kv, deadline, |txn| {
            Box::pin(counters::take_block(txn, shard))
        })
        .await;
        let start = (block? * shards + u64::from(shard)) * BLOCK_SIZE;
        Ok(start..start + BLOCK_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use kv::mem::MemKv;
    use types::id::ROOT_INODE;

    use super::*;

    #[tokio::test]
    async fn two_servers_never_hand_out_the_same_id() {
        let kv = MemKv::new();
        let env = Env::seeded(1);
        let deadline = env.now() + Duration::from_secs(5);
        let mut seen = BTreeSet::from([ROOT_INODE]);
        for server in 0..4 {
            let ids = InodeIds::new(&Env::seeded(server % 2), kv.clone());
            for _ in 0..BLOCK_SIZE + 1 {
                assert!(seen.insert(ids.next(deadline).await.unwrap()));
            }
        }
        assert!(seen.range(..InodeId(BLOCK_SIZE)).eq([&ROOT_INODE]));
    }
}
