//! Updates of chunks: one request per chunk to the head of its chain, repeated until its outcome is known.

use common::{buf::SharedBuf, env::Instant};
use futures::{StreamExt, stream};
use net::Bulk;
use types::{
    checksum::Checksum,
    chunk::{ChunkId, Update, UpdateTag},
    id::InodeId,
    layout::{FILE_LENGTH_MAX, Layout},
    routing::RoutingInfo,
    rpc::{
        BulkIndex,
        storage::{UpdateChunks, UpdateDone, UpdateItem, UpdateRequest},
    },
    status::{Status, StatusCode},
};

use crate::{
    metrics,
    retry::{Next, Retries, is_silence, next},
    storage::{PARTS_MAX, Shared, StorageClient},
    stripe,
};

/// A change of one chunk, the same in every retry.
struct Job<'a> {
    layout: &'a Layout,
    chunk: ChunkId,
    update: Update,
    payload: Option<SharedBuf>,
    checksum: Checksum,
}

impl StorageClient {
    /// Writes `data` at `offset` of a file. On success it is durable and committed on every serving replica.
    ///
    /// # Errors
    /// NoSpace at once; anything else only when it lasted for the whole operation. Parts may have been written.
    pub async fn write(
        &self,
        inode: InodeId,
        layout: &Layout,
        offset: u64,
        data: SharedBuf,
    ) -> Result<(), Status> {
        stripe::check_layout(layout)?;
        check_end(layout, offset, data.len())?;
        let shared = &*self.0;
        let deadline = shared.deadline();
        let mut at = 0;
        let jobs: Vec<Job<'_>> = layout
            .split(inode, offset, data.len() as u64)
            .map(|range| {
                let payload = data.slice(at..at + range.length as usize);
                at += range.length as usize;
                Job {
                    layout,
                    chunk: range.chunk,
                    update: Update::Write {
                        offset: range.offset,
                        length: range.length,
                    },
                    checksum: Checksum::of(&payload),
                    payload: Some(payload),
                }
            })
            .collect();
        let result = match &jobs[..] {
            [job] => shared.update(job, deadline).await.map(|_done| ()),
            jobs => shared.update_all(jobs, deadline).await,
        };
        if result.is_ok() {
            metrics::bytes_written(data.len());
        }
        result
    }

    /// Cuts a chunk to at most `length` bytes; a chunk that is not there is fine.
    ///
    /// # Errors
    /// When it did not succeed for the whole operation.
    pub async fn truncate_chunk(
        &self,
        layout: &Layout,
        chunk: ChunkId,
        length: u32,
    ) -> Result<(), Status> {
        stripe::check_layout(layout)?;
        let job = Job {
            layout,
            chunk,
            update: Update::Truncate { length },
            payload: None,
            checksum: Checksum::default(),
        };
        match self.0.update(&job, self.0.deadline()).await {
            Ok(_) => Ok(()),
            Err(status) if status.code == StatusCode::ChunkNotFound => Ok(()),
            Err(status) => Err(status),
        }
    }
}

/// Refuses what no chunk index reaches.
fn check_end(layout: &Layout, offset: u64, length: usize) -> Result<(), Status> {
    let longest = FILE_LENGTH_MAX.min(u64::from(layout.chunk_size) << 32);
    let end = offset.checked_add(length as u64);
    if end.is_some_and(|end| end <= longest) {
        return Ok(());
    }
    let message = format!("{length} bytes at {offset} leave the longest file of {longest} bytes");
    Err(Status::new(StatusCode::FileTooLarge, message))
}

impl Shared {
    /// Runs updates of several chunks. Every one is seen to its end, also after one failed: a dropped update would have
    /// an unknown outcome.
    async fn update_all(&self, jobs: &[Job<'_>], deadline: Instant) -> Result<(), Status> {
        let updates: Vec<_> = jobs.iter().map(|job| self.update(job, deadline)).collect();
        let mut parts = stream::iter(updates).buffer_unordered(PARTS_MAX);
        let mut result = Ok(());
        while let Some(part) = parts.next().await {
            result = result.and(part.map(|_done| ()));
        }
        result
    }

    /// Runs one update exactly once.
    async fn update(&self, job: &Job<'_>, deadline: Instant) -> Result<UpdateDone, Status> {
        let channel = self.channels.take().await?;
        let tag = channel.tag(self.client);
        let mut retries = self.retries("storage.update", deadline);
        loop {
            let map = self.routing.current();
            let result = self.update_once(job, tag, &map, &retries).await;
            let status = match result {
                Ok(done) => {
                    channel.finish();
                    return Ok(done);
                }
                Err(status) => status,
            };
            let known = is_outcome_known(status.code);
            if let Err(status) = retries.wait(status, map.version).await {
                if known {
                    channel.finish();
                }
                return Err(status);
            }
        }
    }

    async fn update_once(
        &self,
        job: &Job<'_>,
        tag: UpdateTag,
        map: &RoutingInfo,
        retries: &Retries<'_>,
    ) -> Result<UpdateDone, Status> {
        let chain = stripe::chain_of(map, job.layout, job.chunk.index)?;
        let address = stripe::address_of(map, stripe::head(chain)?)?;
        let item = UpdateItem {
            chain: chain.id,
            chain_version: chain.version,
            chunk: job.chunk,
            chunk_size: job.layout.chunk_size,
            update: job.update,
            payload: job.payload.as_ref().map(|_| BulkIndex(0)),
            checksum: job.checksum,
            tag,
        };
        let request = UpdateRequest {
            updates: vec![item],
        };
        let bulk = Bulk {
            sources: job.payload.iter().cloned().collect(),
            destinations: Vec::new(),
        };
        let until = retries.attempt_deadline(self.options.write_attempt);
        let caller = self.caller();
        let call = self
            .endpoint
            .call::<UpdateChunks>(address, &caller, &request, bulk, until);
        let mut results = call.await.result?.results;
        match (results.pop(), results.is_empty()) {
            (Some(result), true) => result,
            _ => Err(Status::new(
                StatusCode::Malformed,
                "a request of one update was answered with another number of results",
            )),
        }
    }
}

/// Whether an update that ends with this code surely runs no more, so that its channel may be used again. A refusal
/// is an outcome; silence, and whatever only ended because the time was over, is none.
fn is_outcome_known(code: StatusCode) -> bool {
    !is_silence(code)
        && next(code) == Next::GiveUp
        && !matches!(
            code,
            StatusCode::Internal | StatusCode::Malformed | StatusCode::ChannelStale
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_frees_the_channel() {
        assert!(is_outcome_known(StatusCode::NoSpace));
        assert!(is_outcome_known(StatusCode::ChunkNotFound));
        for code in [
            StatusCode::Unreachable,
            StatusCode::DeadlineExceeded,
            StatusCode::ChannelBusy,
            StatusCode::ChannelStale,
            StatusCode::Internal,
            StatusCode::WrongRole,
        ] {
            assert!(!is_outcome_known(code), "{code:?}");
        }
    }
}
