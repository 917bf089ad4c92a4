//! What is asked of whole chains: the last chunk of a file, and removing its chunks.

use std::sync::Arc;

use common::env::Instant;
use futures::{StreamExt, TryStreamExt, stream};
use types::{
    id::{ChainId, InodeId},
    layout::Layout,
    routing::RoutingInfo,
    rpc::storage::{
        LastChunk, QueryLastChunk, QueryLastChunkRequest, RemoveChunks, RemoveChunksRequest,
    },
    status::{Status, StatusCode},
};

use crate::{
    retry::{Retries, is_silence},
    storage::{PARTS_MAX, Shared, StorageClient},
    stripe,
};

/// Chunks removed per request: few enough that a request ends well within its attempt.
const REMOVE_LIMIT: u32 = 128;

impl StorageClient {
    /// The highest chunk of a file over all chains of its stripe; the file's length is
    /// `index * chunk_size + length`.
    ///
    /// # Errors
    /// When a chain did not answer for the whole operation.
    pub async fn last_chunk(
        &self,
        inode: InodeId,
        layout: &Layout,
    ) -> Result<Option<LastChunk>, Status> {
        let shared = &*self.0;
        let chains = self.chains(layout).await?;
        let deadline = shared.deadline();
        let found: Vec<Option<LastChunk>> = stream::iter(chains)
            .map(|chain| async move { shared.last_chunk_on(chain, inode, deadline).await })
            .buffer_unordered(PARTS_MAX)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().max_by_key(|last| last.index))
    }

    /// Removes the chunks of a file from `from_index` on, on every chain of its stripe; returns how many there were.
    ///
    /// # Errors
    /// When a chain could not do it for the whole operation. Calling again goes on.
    pub async fn remove_chunks(
        &self,
        inode: InodeId,
        layout: &Layout,
        from_index: u32,
    ) -> Result<u64, Status> {
        let shared = &*self.0;
        let chains = self.chains(layout).await?;
        let removed: Vec<u64> = stream::iter(chains)
            .map(|chain| async move { shared.remove_on(chain, inode, from_index).await })
            .buffer_unordered(PARTS_MAX)
            .try_collect()
            .await?;
        Ok(removed.into_iter().sum())
    }

    /// The chains of a layout, once the map knows them.
    async fn chains(&self, layout: &Layout) -> Result<Vec<ChainId>, Status> {
        stripe::check_layout(layout)?;
        let mut retries = self.0.retries("storage.chains", self.0.deadline());
        loop {
            let map = self.0.routing.current();
            match stripe::chains_of(&map, layout) {
                Ok(chains) => return Ok(chains.into_iter().collect()),
                Err(status) => retries.wait(status, map.version).await?,
            }
        }
    }
}

impl Shared {
    async fn last_chunk_on(
        &self,
        chain: ChainId,
        inode: InodeId,
        deadline: Instant,
    ) -> Result<Option<LastChunk>, Status> {
        let mut retries = self.retries("storage.query_last_chunk", deadline);
        let mut tried = Vec::new();
        loop {
            let map = self.routing.current();
            let result = self
                .last_chunk_once(chain, inode, &map, &mut tried, &retries)
                .await;
            match result {
                Ok(last) => return Ok(last),
                Err(status) => retries.wait(status, map.version).await?,
            }
        }
    }

    async fn last_chunk_once(
        &self,
        chain: ChainId,
        inode: InodeId,
        map: &Arc<RoutingInfo>,
        tried: &mut Vec<types::id::TargetId>,
        retries: &Retries<'_>,
    ) -> Result<Option<LastChunk>, Status> {
        let chain = stripe::chain(map, chain)?;
        let serving: Vec<_> = chain.serving().collect();
        if serving.iter().all(|target| tried.contains(target)) {
            tried.clear();
        }
        let ticket = self
            .choice
            .choose(map, chain, tried, self.env.now())
            .ok_or_else(|| stripe::not_serving(chain))?;
        tried.push(ticket.target);
        let request = QueryLastChunkRequest {
            chain: chain.id,
            chain_version: chain.version,
            target: ticket.target,
            inode,
        };
        let address = stripe::address_of(map, ticket.target)?;
        let until = retries.attempt_deadline(self.options.read_attempt);
        let caller = self.caller();
        let asked = self
            .endpoint
            .ask::<QueryLastChunk>(address, &caller, &request, until);
        let result = asked.await;
        if let Err(status) = &result
            && is_silence(status.code)
        {
            self.choice.avoid(ticket.node, self.env.now());
        }
        result
    }

    /// Removes what one chain holds. The time limit counts from the last progress, so a long file may take long.
    async fn remove_on(
        &self,
        chain: ChainId,
        inode: InodeId,
        from_index: u32,
    ) -> Result<u64, Status> {
        let mut removed = 0;
        loop {
            let mut retries = self.retries("storage.remove_chunks", self.deadline());
            let reply = loop {
                let map = self.routing.current();
                let once = self.remove_once(chain, inode, from_index, &map, &retries);
                match once.await {
                    Ok(reply) => break reply,
                    Err(status) if status.code == StatusCode::ChunkNotFound => return Ok(removed),
                    Err(status) => retries.wait(status, map.version).await?,
                }
            };
            removed += u64::from(reply.removed);
            if !reply.more {
                return Ok(removed);
            }
        }
    }

    async fn remove_once(
        &self,
        chain: ChainId,
        inode: InodeId,
        from_index: u32,
        map: &RoutingInfo,
        retries: &Retries<'_>,
    ) -> Result<types::rpc::storage::RemoveChunksReply, Status> {
        let chain = stripe::chain(map, chain)?;
        let address = stripe::address_of(map, stripe::head(chain)?)?;
        let request = RemoveChunksRequest {
            chain: chain.id,
            chain_version: chain.version,
            inode,
            from_index,
            limit: REMOVE_LIMIT,
        };
        let until = retries.attempt_deadline(self.options.write_attempt);
        let caller = self.caller();
        self.endpoint
            .ask::<RemoveChunks>(address, &caller, &request, until)
            .await
    }
}
