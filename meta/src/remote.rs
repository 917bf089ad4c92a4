//! The real chunks and the real manager, through the `client` crate.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use client::{MgmtdClient, RoutingCache, StorageClient};
use common::env::Instant;
use types::{
    chunk::ChunkId,
    id::InodeId,
    layout::Layout,
    routing::RoutingInfo,
    rpc::{
        mgmtd::{GetSpace, ListClientSessions, SpaceReply},
        storage::LastChunk,
    },
    session::ClientSession,
    status::Status,
};

use crate::{chunks::Chunks, cluster::Cluster};

/// How long storage may be away while somebody waits for chunks: shorter than clients wait for us.
pub(crate) const CHUNKS_LIMIT: Duration = Duration::from_secs(30);

#[async_trait]
impl Chunks for StorageClient {
    async fn remove(
        &self,
        inode: InodeId,
        layout: &Layout,
        from_index: u32,
    ) -> Result<u64, Status> {
        self.remove_chunks(inode, layout, from_index).await
    }

    async fn truncate_chunk(
        &self,
        layout: &Layout,
        chunk: ChunkId,
        length: u32,
    ) -> Result<(), Status> {
        StorageClient::truncate_chunk(self, layout, chunk, length).await
    }

    async fn last_chunk(
        &self,
        inode: InodeId,
        layout: &Layout,
    ) -> Result<Option<LastChunk>, Status> {
        StorageClient::last_chunk(self, inode, layout).await
    }
}

/// The cluster through its manager.
#[derive(Debug)]
pub(crate) struct RemoteCluster {
    /// The manager.
    pub(crate) mgmtd: MgmtdClient,
    /// The map.
    pub(crate) routing: RoutingCache,
}

#[async_trait]
impl Cluster for RemoteCluster {
    fn routing(&self) -> Arc<RoutingInfo> {
        self.routing.current()
    }

    async fn space(&self, deadline: Instant) -> Result<SpaceReply, Status> {
        self.mgmtd.call::<GetSpace>(&(), deadline).await
    }

    async fn clients(&self, deadline: Instant) -> Result<Vec<ClientSession>, Status> {
        self.mgmtd.call::<ListClientSessions>(&(), deadline).await
    }
}
